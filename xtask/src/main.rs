//! kiln's own tasks. `cargo xtask` lists them.

mod agent;
mod demo;
mod fuzz;
mod install;
mod shell;
mod test;
mod tidy;
mod trials;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask demo       install what is missing, build kiln, build and run the nginx example, break one on purpose
cargo xtask test       install what is missing, run every check and test (real guests included)
cargo xtask trials     the long ones: kills, layers, canary, job, faults, together, pulls, s3, properties, fuzz, bench (cargo xtask trials NAME for one)
cargo xtask tidy       layering, file and function sizes, words
cargo xtask agent      build the guest agent for x86_64 and aarch64 into target/agents/
cargo xtask install    only install what is missing

KILN_ACCEL=kvm|tcg chooses how guests run; by default KVM where it is usable, emulation elsewhere.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("demo") => demo::run(),
        Some("test") => test::run(&rest),
        Some("trials") => trials::run(&rest),
        Some("tidy") => tidy::run(),
        Some("agent") => agent::run(),
        Some("install") => install::run(install::Purpose::Test),
        _ => {
            print!("{HELP}");
            return ExitCode::from(if arguments.is_empty() { 0 } else { 2 });
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
