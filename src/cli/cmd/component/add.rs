//! `kiln component add`: components that recipes use by name.

use crate::cli::Settings;
use crate::cli::cmd::planning;
use crate::cli::render::Format;
use crate::model::{Failure, FailureKind, Version};
use crate::service::component;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Register a document, so that recipes can use it by name
#[derive(clap::Args)]
pub struct Arguments {
    /// Component document
    file: PathBuf,
    /// Name [default: the document's own]
    #[arg(long)]
    name: Option<String>,
    /// Version; other content under the same version becomes its next build
    #[arg(long, default_value = "1.0.0", value_name = "X.Y.Z")]
    semantic_version: String,
}

pub fn run(arguments: Arguments, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let version: Version =
        arguments.semantic_version.parse().map_err(|e| Failure::from_error(FailureKind::Input, &e))?;
    let service = planning::open(settings, cancel)?;
    let added = component::add(&service, &arguments.file, arguments.name.as_deref(), version)?;
    match settings.format {
        Format::Human => println!("{} {}", added.name, added.version),
        Format::Json => println!("{}", record(&added)),
    }
    Ok(0)
}

fn record(c: &crate::catalog::component::Component) -> Value {
    json!({
        "name": c.name,
        "version": c.version.version.to_string(),
        "build": c.version.build,
        "digest": format!("sha256:{}", c.digest),
    })
}
