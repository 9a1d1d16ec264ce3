//! The long ones: kills, races for layers, what layers are worth, faults in whole builds, booted builds at
//! the same time, pulls, another S3 store, properties with many cases, fuzzing, what we depend on, benchmarks.

use crate::install::{self, Purpose};
use crate::shell::{self, Result, Stages, command, home, root};
use crate::test::cargo;
use std::path::PathBuf;

const ALL: [&str; 11] =
    ["kills", "layers", "canary", "faults", "together", "pulls", "s3", "properties", "fuzz", "deny", "bench"];

/// A store that is strict about signatures and headers. Building it takes minutes.
const S3S_FS: [&str; 6] = ["install", "s3s-fs", "--version", "0.14.1", "--features", "binary"];

/// Looks at licences, known weaknesses and sources. Building it takes minutes.
const CARGO_DENY: [&str; 4] = ["install", "cargo-deny", "--version", "0.20.2"];

pub fn run(only: &[&str]) -> Result {
    if let Some(unknown) = only.iter().find(|name| !ALL.contains(name)) {
        return Err(format!("no trial is called `{unknown}`: {}", ALL.join(", ")));
    }
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let mut stages = Stages::default();
    stages.run("what this machine needs", || install::run(Purpose::Test))?;
    if ["kills", "layers", "canary", "faults", "together", "pulls", "bench"].into_iter().any(wanted) {
        stages.run("build kiln and its agent", || {
            shell::run(&mut cargo(&["build", "--release", "--locked"]))
        })?;
    }
    let mut result = Ok(());
    if wanted("kills") {
        result = stages.run("kills", || python("kills", "debian-12"));
    }
    if result.is_ok() && wanted("layers") {
        result = stages.run("layers", || python("layers", "debian-12-minimal"));
    }
    if result.is_ok() && wanted("canary") {
        result = stages.run("canary", || python("canary", "debian-12-minimal"));
    }
    if result.is_ok() && wanted("faults") {
        result = stages.run("faults", || python("faults", "debian-12-minimal"));
    }
    if result.is_ok() && wanted("together") {
        result = stages.run("builds at the same time", || {
            base("debian-12-minimal")?;
            let mut c = cargo(&["test", "--release", "--locked", "--test", "vm", "same_time"]);
            shell::run(c.env("KILN_TEST_TOGETHER", "debian-12-minimal"))
        });
    }
    if result.is_ok() && wanted("pulls") {
        result = stages.run("pulls over a bad connection", || {
            let nginx = install::nginx()?;
            let script = root().join("tests/trials/pulls.py");
            let kiln = root().join("target/release/kiln");
            let words = ["python3".as_ref(), script.as_os_str(), kiln.as_os_str(), nginx.as_os_str()];
            shell::run(&mut command(&words))
        });
    }
    if result.is_ok() && wanted("s3") {
        result = stages.run("S3 against s3s-fs", || {
            let folder = shell::target().join("s3s-fs");
            let mut install = cargo(&S3S_FS);
            shell::run(install.arg("--locked").arg("--root").arg(&folder))?;
            let mut c = cargo(&["test", "--locked", "--test", "it", "component::s3"]);
            shell::run(c.env("KILN_TEST_S3S_FS", folder.join("bin/s3s-fs")))
        });
    }
    if result.is_ok() && wanted("properties") {
        result = stages.run("properties", || {
            let mut c = cargo(&["test", "--release", "--locked", "--workspace", "--lib", "--test", "it"]);
            // proptest reads it; every property then runs this many cases.
            c.env("PROPTEST_CASES", "20000");
            shell::run(&mut c)
        });
    }
    if result.is_ok() && wanted("fuzz") {
        result = stages.run("fuzz", crate::fuzz::run);
    }
    if result.is_ok() && wanted("deny") {
        result = stages.run("licences, advisories, sources", deny);
    }
    if result.is_ok() && wanted("bench") {
        result = stages.run("bench of exports", || {
            let script = root().join("bench/exports.py");
            let mut c = command(&["python3".as_ref(), script.as_os_str()]);
            shell::run(c.env("KILN_BENCH_HOME", home().join("bench")))
        });
    }
    if result.is_ok() && wanted("bench") {
        result = stages.run("bench of documents", || {
            let script = root().join("bench/documents.py");
            let kiln = root().join("target/release/kiln");
            shell::run(&mut command(&["python3".as_ref(), script.as_os_str(), kiln.as_os_str()]))
        });
    }
    if result.is_ok() && wanted("bench") {
        result = stages.run("bench", || {
            let script = root().join("bench/run.py");
            let mut c = command(&["python3".as_ref(), script.as_os_str()]);
            shell::run(c.env("KILN_BENCH_HOME", home().join("bench")))
        });
    }
    stages.print();
    result
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
fn python(script: &str, needs: &str) -> Result {
    let kiln = base(needs)?;
    let script = root().join("tests/trials").join(script).with_extension("py");
    let mut c = command(&["python3".as_ref(), script.as_os_str(), kiln.as_os_str(), home().as_os_str()]);
    shell::run(c.env("KILN_ACCEL", crate::demo::accelerator()))
}

/// Builds a base image where it is missing. Returns the kiln that did.
fn base(name: &str) -> Result<PathBuf> {
    let kiln = root().join("target/release/kiln");
    shell::run(command(&[kiln.as_os_str()]).arg("--home").arg(home()).args(["base", "build", name]))?;
    Ok(kiln)
}
