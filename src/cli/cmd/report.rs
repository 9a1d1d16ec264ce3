//! `kiln report IMAGE|BUILD`.

use super::planning;
use crate::cli::Settings;
use crate::cli::render::Format;
use crate::model::{Failure, FailureKind};
use crate::service::log;
use crate::support::files::write_atomic;
use serde_json::json;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Show where a build's report is, or copy it: one HTML file that works offline, to attach to a ticket
#[derive(clap::Args)]
pub struct Arguments {
    /// Image (its newest build), or the id of a build
    name: String,
    /// Copy it to this file, replacing what is there
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(arguments: Arguments, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let records = log::find(&service, &arguments.name)?;
    let report = records.report()?;
    let path = match arguments.output {
        None => records.report_path(),
        Some(path) => {
            write_atomic(&path, &report).map_err(|e| {
                Failure::new(FailureKind::Environment, format!("cannot write {}: {e}", path.display()))
            })?;
            path
        }
    };
    match settings.format {
        Format::Json => {
            println!("{}", json!({"build": records.build.id, "image": records.image, "report": path}));
        }
        Format::Human => println!("{}", path.display()),
    }
    Ok(0)
}
