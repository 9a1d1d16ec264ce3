//! `kiln component ...`: component documents without an image.

mod add;
mod library;
mod run;
mod validate;

use crate::cli::Settings;
use crate::component;
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
    List(library::ListArguments),
    Show(library::ShowArguments),
    Remove(library::RemoveArguments),
    Run(run::Arguments),
    Schema(SchemaArguments),
    Validate(validate::Arguments),
}

/// Print the JSON Schema of component documents, for editors
#[derive(clap::Args)]
struct SchemaArguments {}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    match arguments.verb {
        Verb::Add(arguments) => add::run(arguments, settings, cancel),
        Verb::List(arguments) => library::list(arguments, settings, cancel),
        Verb::Show(arguments) => library::show(arguments, settings, cancel),
        Verb::Remove(arguments) => library::remove(arguments, settings, cancel),
        Verb::Run(arguments) => run::run(arguments, settings, cancel).await,
        Verb::Schema(SchemaArguments {}) => {
            println!("{:#}", component::schema::schema());
            Ok(0)
        }
        Verb::Validate(arguments) => validate::run(arguments, settings, cancel).await,
    }
}
