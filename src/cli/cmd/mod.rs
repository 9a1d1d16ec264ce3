//! One verb per file.

mod base;
mod build;
mod completion;
mod component;
mod console;
mod diff;
mod doctor;
mod image;
mod lineage;
mod log;
mod packages;
mod plan;
mod planning;
mod report;
mod retry;
mod run;
mod shell;
mod store;
mod validate;

use super::Settings;
use crate::model::Failure;
use tokio_util::sync::CancellationToken;

#[derive(clap::Subcommand)]
pub enum Command {
    Base(base::Arguments),
    Build(build::Arguments),
    Completion(completion::Arguments),
    Component(component::Arguments),
    Console(console::Arguments),
    Doctor(doctor::Arguments),
    Image(image::Arguments),
    Log(log::Arguments),
    Plan(plan::Arguments),
    Report(report::Arguments),
    Retry(retry::Arguments),
    Run(run::Arguments),
    Shell(shell::Arguments),
    Store(store::Arguments),
    Validate(validate::Arguments),
}

/// Runs a verb; the number is the exit code of a command that worked as asked (`diff`: 1 when they differ).
pub async fn run(command: Command, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    match command {
        Command::Base(arguments) => base::run(arguments, settings, cancel).await,
        Command::Completion(arguments) => completion::run(arguments),
        Command::Build(arguments) => build::run(arguments, settings, cancel).await,
        Command::Component(arguments) => component::run(arguments, settings, cancel).await,
        Command::Console(arguments) => console::run(arguments, settings, cancel).await,
        Command::Doctor(arguments) => doctor::run(arguments, settings, cancel).await,
        Command::Image(arguments) => image::run(arguments, settings, cancel).await,
        Command::Log(arguments) => log::run(arguments, settings, cancel),
        Command::Plan(arguments) => plan::run(arguments, settings, cancel).await,
        Command::Report(arguments) => report::run(arguments, settings, cancel),
        Command::Retry(arguments) => retry::run(arguments, settings, cancel).await,
        Command::Run(arguments) => run::run(arguments, settings, cancel).await,
        Command::Shell(arguments) => shell::run(arguments, settings, cancel).await,
        Command::Store(arguments) => store::run(arguments, settings, cancel).await,
        Command::Validate(arguments) => validate::run(arguments, settings, cancel).await,
    }
}
