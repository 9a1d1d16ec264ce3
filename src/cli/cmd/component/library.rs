//! `kiln component list|show`.

use crate::cli::Settings;
use crate::cli::render::Format;
use crate::component::library;
use crate::model::{Failure, FailureKind};
use crate::support::similar;

/// List the components that come with kiln
#[derive(clap::Args)]
pub struct ListArguments {}

/// Print a component that comes with kiln
#[derive(clap::Args)]
pub struct ShowArguments {
    name: String,
}

pub fn list(_: ListArguments, settings: &Settings) -> Result<u8, Failure> {
    let all = library::ALL.map(|b| (b.name, b.document()));
    match settings.format {
        Format::Human => {
            let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, document) in &all {
                println!("{name:<width$}  {}", document.description.as_deref().unwrap_or(""));
            }
        }
        Format::Json => {
            let entry = |(name, document): &(&str, crate::component::Document)| {
                serde_json::json!({
                    "name": name,
                    "description": document.description,
                    "parameters": document.parameters.iter().map(|p| &p.name).collect::<Vec<_>>(),
                    "phases": document.phases.iter().map(|p| &p.name).collect::<Vec<_>>(),
                })
            };
            println!("{}", serde_json::Value::from_iter(all.iter().map(entry)));
        }
    }
    Ok(0)
}

pub fn show(arguments: ShowArguments) -> Result<u8, Failure> {
    let Some(builtin) = library::find(&arguments.name) else {
        let failure =
            Failure::new(FailureKind::NotFound, format!("no component `{}` comes with kiln", arguments.name));
        let near = similar::nearest(&arguments.name, library::ALL.iter().map(|b| b.name));
        return Err(match near {
            Some(near) => failure.hint(format!("Did you mean {near}?")),
            None => failure.hint("See kiln component list."),
        });
    };
    print!("{}", builtin.text);
    Ok(0)
}
