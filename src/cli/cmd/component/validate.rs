//! `kiln component validate FILE...`.

use crate::cli::Settings;
use crate::cli::exit;
use crate::cli::render::Format;
use crate::cli::settings::Runner;
use crate::component::standalone::Sources;
use crate::component::{Platform, Rules, Values};
use crate::model::Failure;
use crate::support::wait::Patience;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Check documents and say everything that is wrong with them
#[derive(clap::Args)]
pub struct Arguments {
    /// Documents: YAML or JSON files, or s3:// addresses of such
    #[arg(value_name = "FILE", required_unless_present = "documents")]
    files: Vec<PathBuf>,
    /// Also documents, as awstoe takes them: with commas between them
    #[arg(long, short, value_delimiter = ',', value_name = "FILE,...")]
    documents: Vec<PathBuf>,
    /// Account (12 digits) that must own the buckets that documents come from
    #[arg(long, value_name = "ACCOUNT")]
    document_s3_bucket_owner: Option<String>,
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

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let rules = Rules { platform: arguments.platform, blocked: arguments.blocked_action_modules };
    let mut failed = 0;
    let mut findings = Vec::new();
    let files: Vec<PathBuf> = arguments.files.into_iter().chain(arguments.documents).collect();
    let elsewhere = files.iter().any(|f| f.to_string_lossy().starts_with("s3://"));
    let fetching = elsewhere.then(|| settings.fetching(Runner::Machine)).transpose()?;
    let sources = Sources {
        fetching: fetching.as_ref(),
        owner: arguments.document_s3_bucket_owner.as_deref(),
        provider: &Values::default(),
        patience: &Patience::unlimited(cancel),
    };
    for file in &files {
        let found = match sources.document(file, &rules).await {
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
            findings.iter().for_each(|d| tell!("{}", d.render()));
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
