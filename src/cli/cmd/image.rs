//! `kiln image ...`.

use super::planning;
use crate::cli::Settings;
use crate::cli::render::{Format, Progress};
use crate::distribute::Export;
use crate::model::{DiskFormat, Failure};
use crate::service::image::{self, Shown};
use crate::support::clock::rfc3339;
use crate::support::wait::Patience;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Images: what builds made
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List images
    List,
    /// Show one image
    Show {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
    },
    /// Write an image's disk to a file that needs nothing of kiln
    Export {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
        /// Format: raw, qcow2, vmdk, vhd or vhdx
        #[arg(long = "to", value_name = "FORMAT", default_value = "qcow2")]
        to: DiskFormat,
        /// File to write [default: NAME.FORMAT here]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
        /// Compress (qcow2)
        #[arg(long)]
        compress: bool,
    },
    /// Remove an image, its logs, and its disk unless another image stands on it
    Remove {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
    },
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings)?;
    match arguments.verb {
        Verb::List => {
            let all = image::list(&service)?;
            match settings.format {
                Format::Json => println!("{}", json!({"images": all.iter().map(record).collect::<Vec<_>>()})),
                Format::Human => list(&all),
            }
        }
        Verb::Show { image } => {
            let shown = image::show(&service, &image)?;
            match settings.format {
                Format::Json => println!("{}", record(&shown)),
                Format::Human => show(&shown),
            }
        }
        Verb::Export { image, to, output, force, compress } => {
            let target = match output {
                Some(output) => output,
                None => {
                    let found = image::find(&service, &image)?;
                    PathBuf::from(format!("{}.{to}", crate::model::slug(&found.name)))
                }
            };
            let export = Export { format: to, target, replace: force, compress };
            export.check()?;
            let bar = bar(settings);
            let mut progress = |part: f32| bar.set_position((part * 1000.0) as u64);
            let patience = Patience::unlimited(cancel);
            let (from, done) = image::export(&service, &image, &export, &mut progress, &patience).await?;
            bar.finish_and_clear();
            match settings.format {
                Format::Json => println!(
                    "{}",
                    json!({"image": from.to_string(), "format": to.as_str(), "path": done.target, "bytes": done.bytes})
                ),
                Format::Human => {
                    println!("{from} as {to}: {} ({} MiB)", done.target.display(), done.bytes >> 20);
                }
            }
        }
        Verb::Remove { image } => {
            let removed = image::remove(&service, &image)?;
            match settings.format {
                Format::Json => {
                    println!(
                        "{}",
                        json!({"removed": removed.image.to_string(), "freedBytes": removed.freed})
                    );
                }
                Format::Human => println!("removed {}, {} MiB freed", removed.image, removed.freed >> 20),
            }
        }
    }
    Ok(0)
}

fn bar(settings: &Settings) -> ProgressBar {
    let wanted = match settings.progress {
        Progress::Tty => true,
        Progress::Auto => std::io::stderr().is_terminal(),
        _ => false,
    };
    if wanted { ProgressBar::new(1000) } else { ProgressBar::hidden() }
}

fn list(all: &[Shown]) {
    if all.is_empty() {
        println!("no images yet: kiln build RECIPE makes one");
    }
    for shown in all {
        let image = &shown.image;
        let size = shown.disk.as_ref().map_or("-".to_owned(), |(a, _)| format!("{} MiB", a.bytes >> 20));
        println!(
            "{:<32} {:<11} {:<8} {size:>9}  {}  from {}",
            image.to_string(),
            image.status.to_string(),
            image.architecture.as_str(),
            rfc3339(image.created),
            image.parent_name
        );
    }
}

fn show(shown: &Shown) {
    let image = &shown.image;
    println!("image         {image}");
    println!("status        {}", image.status);
    if let Some(reason) = &image.reason {
        println!("reason        {reason}");
    }
    println!("architecture  {}", image.architecture);
    println!("parent        {}", image.parent_name);
    println!("created       {}", rfc3339(image.created));
    println!("inputs        {}", image.inputs);
    if let Some((artifact, path)) = &shown.disk {
        println!("disk          {}", path.display());
        println!("              sha256 {}", artifact.digest);
        println!(
            "              {} MiB as an overlay, {} MiB for a guest",
            artifact.bytes >> 20,
            artifact.virtual_size >> 20
        );
    }
    for build in &shown.builds {
        println!("build         {} ({})", build.id, build.state);
    }
}

fn record(shown: &Shown) -> Value {
    let image = &shown.image;
    json!({
        "image": image.to_string(),
        "name": image.name,
        "version": image.version.version.to_string(),
        "build": image.version.build,
        "status": image.status.as_str(),
        "reason": image.reason,
        "architecture": image.architecture.as_str(),
        "parent": image.parent_name,
        "inputs": image.inputs,
        "created": rfc3339(image.created),
        "disk": shown.disk.as_ref().map(|(a, path)| json!({
            "path": path, "digest": format!("sha256:{}", a.digest), "bytes": a.bytes, "virtualSize": a.virtual_size,
        })),
        "builds": shown.builds.iter().map(|b| json!({"id": b.id, "state": b.state})).collect::<Vec<_>>(),
    })
}
