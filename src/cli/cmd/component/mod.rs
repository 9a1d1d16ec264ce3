//! `kiln component ...`: component documents without an image.

mod add;
mod validate;

use crate::cli::Settings;
use crate::model::Failure;
use tokio_util::sync::CancellationToken;

/// Component documents: check them, and run them on this machine as awstoe would
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Add(add::Arguments),
    /// List registered components
    List,
    Validate(validate::Arguments),
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let _ = cancel;
    match arguments.verb {
        Verb::Add(arguments) => add::run(arguments, settings),
        Verb::List => add::list(settings),
        Verb::Validate(arguments) => validate::run(arguments, settings),
    }
}
