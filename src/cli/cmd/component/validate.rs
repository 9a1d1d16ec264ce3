//! `kiln component validate FILE...`.

use crate::cli::Settings;
use crate::cli::exit;
use crate::cli::render::Format;
use crate::component::{Document, Platform, Rules};
use crate::model::Failure;
use std::path::PathBuf;

/// Check documents and say everything that is wrong with them
#[derive(clap::Args)]
pub struct Arguments {
    /// Documents: YAML or JSON files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also documents, as awstoe takes them: with commas between them
    #[arg(long, short, value_delimiter = ',', value_name = "FILE,...")]
    documents: Vec<PathBuf>,
    /// Platform to check for: linux, windows or darwin [default: what the document's actions need]
    #[arg(long, alias = "os-platforms", value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Actions that may not be used, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "ACTION,...")]
    blocked_action_modules: Vec<String>,
    /// Leave out what is no error
    #[arg(long)]
    no_warnings: bool,
}

pub fn run(arguments: Arguments, settings: &Settings) -> Result<u8, Failure> {
    let rules = Rules { platform: arguments.platform, blocked: arguments.blocked_action_modules };
    let mut failed = 0;
    let mut findings = Vec::new();
    let files: Vec<PathBuf> = arguments.files.into_iter().chain(arguments.documents).collect();
    for file in &files {
        let found = match Document::load_with(file, &rules) {
            Ok(document) => document.warnings,
            Err(errors) => {
                failed += 1;
                errors
            }
        };
        findings.extend(found.into_iter().filter(|d| d.is_error() || !arguments.no_warnings));
    }
    let errors = findings.iter().filter(|d| d.is_error()).count();
    let message = match failed {
        0 => "Validation successful.".to_owned(),
        _ => format!("{failed} of {} documents have {errors} errors.", files.len()),
    };
    match settings.format {
        Format::Human => {
            findings.iter().for_each(|d| eprintln!("{}", d.render()));
            println!("{message}");
        }
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "validationStatus": if failed == 0 { "success" } else { "failed" },
                "message": message,
                "findings": findings.iter().map(|d| d.json()).collect::<Vec<_>>(),
            })
        ),
    }
    Ok(if failed == 0 { 0 } else { exit::INPUT })
}
