//! `kiln console IMAGE|BUILD`.

use super::planning;
use crate::build::lock::Lock;
use crate::build::recover::lock_path;
use crate::cli::Settings;
use crate::cli::render::{Format, printable};
use crate::model::{Failure, FailureKind};
use crate::service::log::{self, Records};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Show what a build's machines wrote to their consoles
#[derive(clap::Args)]
pub struct Arguments {
    /// Image (its newest build), or the id of a build
    name: String,
    /// Go on while the build runs
    #[arg(long)]
    follow: bool,
}

/// How often a followed console is looked at.
const LOOK: Duration = Duration::from_millis(300);

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let records = log::find(&service, &arguments.name)?;
    if arguments.follow {
        follow(&records, cancel).await?;
        return Ok(0);
    }
    let consoles = records.consoles();
    match settings.format {
        Format::Json => {
            let machines: Vec<_> = consoles
                .iter()
                .map(|(name, text)| json!({"machine": name, "lines": text.lines().collect::<Vec<_>>()}))
                .collect();
            println!("{}", json!({"build": records.build.id, "image": records.image, "machines": machines}));
        }
        Format::Human => {
            for (name, text) in &consoles {
                println!("== machine: {name}");
                text.lines().for_each(|l| println!("{}", printable(l)));
            }
        }
    }
    Ok(0)
}

/// Prints what is added until the build's lock is free.
async fn follow(records: &Records, cancel: &CancellationToken) -> Result<(), Failure> {
    let mut printed = vec![0; records.machines().len()];
    loop {
        let lock = lock_path(&records.folder);
        // Asked first: what was written before the end is still read.
        let ended = Lock::try_take(&lock)
            .map_err(|e| {
                Failure::new(FailureKind::Environment, format!("cannot open {}: {e}", lock.display()))
            })?
            .is_some();
        for (printed, (_, text)) in printed.iter_mut().zip(records.consoles()) {
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            text.get(*printed..whole).unwrap_or_default().lines().for_each(|l| println!("{}", printable(l)));
            *printed = whole;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
