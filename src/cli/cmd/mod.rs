//! One verb per file.

mod completion;

use super::Settings;
use crate::model::Failure;
use tokio_util::sync::CancellationToken;

#[derive(clap::Subcommand)]
pub enum Command {
    Completion(completion::Arguments),
}

/// Runs a verb; the number is the exit code of a command that worked as asked (`diff`: 1 when they differ).
pub async fn run(command: Command, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let _ = (settings, cancel);
    match command {
        Command::Completion(arguments) => completion::run(arguments),
    }
}
