//! `kiln log IMAGE|BUILD`.

use super::planning;
use crate::build::event::What;
use crate::cli::Settings;
use crate::cli::render::{Format, printable};
use crate::model::Failure;
use crate::service::log::{self, Records};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Show the logs of a build's steps
#[derive(clap::Args)]
pub struct Arguments {
    /// Image (its newest build), or the id of a build
    name: String,
    /// Only steps whose number, component, phase or name holds this
    #[arg(long, value_name = "TEXT")]
    step: Option<String>,
}

pub fn run(arguments: Arguments, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let records = log::find(&service, &arguments.name)?;
    let steps = records.steps(arguments.step.as_deref())?;
    match settings.format {
        Format::Json => {
            let steps = steps
                .iter()
                .map(|s| Ok(json!({"name": s.name, "path": s.path, "text": s.text()?})))
                .collect::<Result<Vec<_>, Failure>>()?;
            let events = records.events()?;
            println!(
                "{}",
                json!({"build": records.build.id, "image": records.image, "folder": records.folder,
                       "steps": steps, "events": events})
            );
        }
        Format::Human => {
            println!("build {} of {}, logs in {}", records.build.id, records.image, records.folder.display());
            for step in steps {
                println!("== {}", step.name);
                step.text()?.lines().for_each(|l| println!("{}", printable(l)));
            }
            ending(&records)?;
        }
    }
    Ok(0)
}

fn ending(records: &Records) -> Result<(), Failure> {
    match records.outcome()? {
        Some(What::BuildEnded { status, reason, .. }) => match reason {
            Some(reason) => println!("== {}: {}", status.0, printable(&reason)),
            None => println!("== {}", status.0),
        },
        _ => println!("== {}", records.build.state),
    }
    Ok(())
}
