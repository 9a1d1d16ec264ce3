//! The long ones: kills, races for layers, what layers are worth, faults in whole builds, booted builds at
//! the same time, pulls, another S3 store, properties with many cases, fuzzing, what we depend on, benchmarks.

use crate::install::{self, Purpose};
use crate::shell::{self, Result, Stages, command, home, root};
use crate::test::cargo;
use std::path::PathBuf;

/// An S3 store that is strict about signatures and headers. Building it takes minutes.
const S3S_FS: [&str; 6] = ["install", "s3s-fs", "--version", "0.14.1", "--features", "binary"];

/// Looks at licences, known weaknesses and sources. Building it takes minutes.
const CARGO_DENY: [&str; 4] = ["install", "cargo-deny", "--version", "0.20.2"];

struct Trial {
    /// What it is asked for by; several may answer to one.
    name: &'static str,
    title: &'static str,
    /// With a release build of kiln.
    with_kiln: bool,
    run: fn() -> Result,
}

const fn with_kiln(name: &'static str, title: &'static str, run: fn() -> Result) -> Trial {
    Trial { name, title, with_kiln: true, run }
}

const fn alone(name: &'static str, title: &'static str, run: fn() -> Result) -> Trial {
    Trial { name, title, with_kiln: false, run }
}

/// In the order in which they run.
const TRIALS: [Trial; 14] = [
    with_kiln("kills", "kills", || python("kills", "debian-12", &[])),
    with_kiln("layers", "layers", || python("layers", "debian-12-minimal", &[])),
    with_kiln("canary", "canary", || python("canary", "debian-12-minimal", &[])),
    with_kiln("job", "the reference job in every way", || {
        python("job", "debian-12-minimal", &[home().join("bench")])
    }),
    with_kiln("faults", "faults", || python("faults", "debian-12-minimal", &[])),
    with_kiln("together", "builds at the same time", together),
    with_kiln("pulls", "pulls over a bad connection", pulls),
    alone("s3", "S3 against s3s-fs", s3),
    alone("properties", "properties", properties),
    alone("fuzz", "fuzz", crate::fuzz::run),
    alone("deny", "licences, advisories, sources", deny),
    with_kiln("bench", "bench of exports", || bench("exports.py", &[])),
    with_kiln("bench", "bench of documents", || bench("documents.py", &[root().join("target/release/kiln")])),
    with_kiln("bench", "bench", || bench("run.py", &[])),
];

pub fn run(only: &[&str]) -> Result {
    let mut names: Vec<&str> = TRIALS.iter().map(|t| t.name).collect();
    names.dedup();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        return Err(format!("no trial is called `{unknown}`: {}", names.join(", ")));
    }
    let wanted: Vec<&Trial> = TRIALS.iter().filter(|t| only.is_empty() || only.contains(&t.name)).collect();
    let mut stages = Stages::default();
    stages.run("what this machine needs", || install::run(Purpose::Test))?;
    if wanted.iter().any(|t| t.with_kiln) {
        stages.run("build kiln and its agent", || {
            shell::run(&mut cargo(&["build", "--release", "--locked"]))
        })?;
    }
    let result = wanted.iter().try_for_each(|trial| stages.run(trial.title, trial.run));
    stages.print();
    result
}

fn together() -> Result {
    base("debian-12-minimal")?;
    let mut c = cargo(&["test", "--release", "--locked", "--test", "vm", "same_time"]);
    shell::run(c.env("KILN_TEST_TOGETHER", "debian-12-minimal"))
}

fn pulls() -> Result {
    let nginx = install::nginx()?;
    let script = root().join("tests/trials/pulls.py");
    let kiln = root().join("target/release/kiln");
    let words = ["python3".as_ref(), script.as_os_str(), kiln.as_os_str(), nginx.as_os_str()];
    shell::run(&mut command(&words))
}

fn s3() -> Result {
    let folder = shell::target().join("s3s-fs");
    let mut install = cargo(&S3S_FS);
    shell::run(install.arg("--locked").arg("--root").arg(&folder))?;
    let mut c = cargo(&["test", "--locked", "--test", "it", "component::s3"]);
    shell::run(c.env("KILN_TEST_S3S_FS", folder.join("bin/s3s-fs")))
}

fn properties() -> Result {
    let mut c = cargo(&["test", "--release", "--locked", "--workspace", "--lib", "--test", "it"]);
    // proptest reads it; every property then runs this many cases.
    c.env("PROPTEST_CASES", "20000");
    shell::run(&mut c)
}

/// Runs a script of bench/ in a folder of its own.
fn bench(script: &str, arguments: &[PathBuf]) -> Result {
    let mut c = command(&["python3".as_ref(), root().join("bench").join(script).as_os_str()]);
    shell::run(c.args(arguments).env("KILN_BENCH_HOME", home().join("bench")))
}

/// With the cargo-deny that is there, else with one of our own.
fn deny() -> Result {
    let program = match shell::which("cargo-deny") {
        Some(program) => program,
        None => {
            let folder = shell::target().join("cargo-deny");
            shell::run(cargo(&CARGO_DENY).arg("--locked").arg("--root").arg(&folder))?;
            folder.join("bin/cargo-deny")
        }
    };
    shell::run(command(&[program.as_os_str()]).arg("check").current_dir(root()))
}

/// Runs a script of tests/trials, once its base is there.
fn python(script: &str, needs: &str, arguments: &[PathBuf]) -> Result {
    let kiln = base(needs)?;
    let script = root().join("tests/trials").join(script).with_extension("py");
    let mut c = command(&["python3".as_ref(), script.as_os_str(), kiln.as_os_str(), home().as_os_str()]);
    shell::run(c.args(arguments).env("KILN_ACCEL", crate::demo::accelerator()))
}

/// Builds a base image where it is missing. Returns the kiln that did.
fn base(name: &str) -> Result<PathBuf> {
    let kiln = root().join("target/release/kiln");
    shell::run(command(&[kiln.as_os_str()]).arg("--home").arg(home()).args(["base", "build", name]))?;
    Ok(kiln)
}
