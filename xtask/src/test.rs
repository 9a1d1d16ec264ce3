//! Every check and test, cheapest first.

use crate::install::{self, Purpose};
use crate::shell::{self, Result, Stages, command, home, read};
use std::process::Command;

/// Base images the tests boot.
const BASES: [&str; 2] = ["debian-12", "debian-12-minimal"];

pub fn run_cargo(arguments: &[&str]) -> Result {
    shell::run(&mut cargo(arguments))
}

pub fn cargo(arguments: &[&str]) -> Command {
    let mut argv = vec!["cargo"];
    argv.extend(arguments);
    let mut c = command(&argv);
    // The tests may emulate; kiln itself never falls back on its own.
    if std::env::var_os("KILN_ACCEL").is_none() {
        c.env("KILN_ACCEL", crate::demo::accelerator());
    }
    c.env("KILN_TEST_HOME", home());
    c
}

/// `only` may name stages to run: fmt, tidy, nix, clippy, unit, it, vm.
pub fn run_stages(only: &[&str], stages: &mut Stages) -> Result {
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    if wanted("fmt") {
        stages.run("formatting", || run_cargo(&["fmt", "--all", "--check"]))?;
    }
    if wanted("tidy") {
        stages.run("layering, sizes, words", crate::tidy::run)?;
    }
    if wanted("nix") {
        stages.run("syntax of flake.nix", || {
            // A store that is none: nothing is written, and no user needs rights for it.
            let flake = shell::root().join("flake.nix");
            let mut c = command(&["nix-instantiate", "--store", "dummy://", "--parse"]);
            shell::run(c.arg(flake).stdout(std::process::Stdio::null()))
        })?;
    }
    if wanted("clippy") {
        stages.run("lints", || {
            run_cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        })?;
    }
    if wanted("unit") {
        stages.run("unit tests", || {
            run_cargo(&["test", "--quiet", "--workspace", "--lib", "--bins", "--locked"])
        })?;
        stages
            .run("protocol tests", || run_cargo(&["test", "--quiet", "-p", "kiln-protocol", "--locked"]))?;
    }
    if wanted("it") {
        stages.run("tests with the real agent, no guests", || {
            run_cargo(&["test", "--quiet", "--locked", "--test", "it"])
        })?;
    }
    if wanted("vm") {
        for base in BASES {
            stages.run(&format!("base image {base}"), || build_base(base))?;
        }
        stages.run("tests with real guests", || {
            run_cargo(&["test", "--quiet", "--locked", "--test", "vm", "--", "--test-threads=2"])
        })?;
    }
    Ok(())
}

fn build_base(name: &str) -> Result {
    run_cargo(&["build", "--quiet", "--locked"])?;
    let kiln = crate::shell::root().join("target/debug/kiln");
    let mut c = Command::new(kiln);
    c.arg("--home").arg(home()).args(["base", "build", name]);
    shell::run(&mut c)
}

pub fn run(only: &[&str]) -> Result {
    let mut stages = Stages::default();
    stages.run("what this machine needs", || install::run(Purpose::Test))?;
    let result = run_stages(only, &mut stages);
    stages.print();
    result?;
    println!("\nAll tests passed on {}.", read(&mut command(&["uname", "-srm"]))?.trim());
    Ok(())
}
