//! One verb per file.

mod base;
mod completion;
mod component;

use super::Settings;
use crate::model::Failure;
use tokio_util::sync::CancellationToken;

#[derive(clap::Subcommand)]
pub enum Command {
    Base(base::Arguments),
    Completion(completion::Arguments),
    Component(component::Arguments),
}

/// Runs a verb; the number is the exit code of a command that worked as asked (`diff`: 1 when they differ).
pub async fn run(command: Command, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    match command {
        Command::Base(arguments) => base::run(arguments, settings, cancel).await,
        Command::Completion(arguments) => completion::run(arguments),
        Command::Component(arguments) => component::run(arguments, settings, cancel).await,
    }
}
