//! `kiln image ...`.

use super::lineage::Asked;
use super::planning;
use crate::catalog::lineage::UsedComponent;
use crate::cli::Settings;
use crate::cli::render::{Format, Progress, printable};
use crate::distribute::{Export, ExportFormat, Exported};
use crate::model::{Failure, Tag};
use crate::service::diff::Depth;
use crate::service::image::{self, Shown, Tagged};
use crate::service::lineage::{self, Ancestor, Ancestry};
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
    List {
        /// Only images that have this tag: KEY or KEY=VALUE; may be given several times
        #[arg(long = "tag", value_name = "KEY[=VALUE]")]
        tags: Vec<Tagged>,
    },
    /// Show one image, and what it was made from: components, parents, base
    Show {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
    },
    /// Show what was made from a base, an image or a component, as a tree
    Lineage {
        /// A base, an image or a component; without version all of that name
        name: String,
        /// What is meant, where several things have that name
        #[arg(long, value_enum)]
        kind: Option<Asked>,
    },
    /// List the packages that are installed in an image
    ///
    /// Builds take that inventory when they seal. Of bases and older images it is read from the disk: from the
    /// records of dpkg, of rpm (databases of SQLite: Amazon Linux 2023, Fedora, RHEL 9) or of apk.
    Packages {
        /// An image (name, name/1.0.x, name/1.0.0 or name/1.0.0/3) or a base
        image: String,
    },
    /// Give an image tags, or take some away
    Tag {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE", required_unless_present = "remove")]
        set: Vec<Tag>,
        /// Key of a tag to take away; may be given several times
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
    },
    /// Write an image's disk to a file that needs nothing of kiln
    Export {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        image: String,
        /// Format: qcow2, qcow2-zstd, raw, vmdk, vhd or vhd-dynamic; may be given several times
        #[arg(long = "to", value_name = "FORMAT", default_value = "qcow2")]
        to: Vec<ExportFormat>,
        /// File to write, or the folder for several [default: NAME.FORMAT here]
        #[arg(long, short, value_name = "PATH")]
        output: Option<PathBuf>,
        /// Replace files that are there
        #[arg(long)]
        force: bool,
    },
    /// Show what differs between two images or bases: packages, files, arguments of the kernel
    ///
    /// Ends with 0 when nothing differs, 1 when something does. Files that changed packages brought, what
    /// package managers record, caches and logs are counted only; --all lists them.
    Diff {
        /// An image (name, name/1.0.x, name/1.0.0 or name/1.0.0/3) or a base
        from: String,
        /// What it is compared with
        to: String,
        /// List also files of changed packages, package managers' records, caches and logs
        #[arg(long)]
        all: bool,
        /// Compare packages only, by the inventories that builds took: nothing is booted for that
        #[arg(long, conflicts_with = "all")]
        packages: bool,
    },
    /// Remove images that no other image was made from, with their logs and disks; a name that
    /// means several is refused
    Remove {
        /// name, name/1.0.x, name/1.0.0 or name/1.0.0/3
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    match arguments.verb {
        Verb::List { tags } => {
            let all = image::list(&service, &tags)?;
            match settings.format {
                Format::Json => println!("{}", json!({"images": all.iter().map(record).collect::<Vec<_>>()})),
                Format::Human => list(&all, tags.is_empty()),
            }
        }
        Verb::Show { image } => {
            let shown = image::show(&service, &image)?;
            let ancestry = lineage::ancestry(&service, &shown.image)?;
            match settings.format {
                Format::Json => {
                    let mut record = record(&shown);
                    record["lineage"] = ancestry_record(&ancestry);
                    println!("{record}");
                }
                Format::Human => show(&shown, &ancestry),
            }
        }
        Verb::Lineage { name, kind } => return super::lineage::run(&service, &name, kind, settings),
        Verb::Packages { image } => {
            return super::packages::run(&service, &image, settings, &Patience::unlimited(cancel)).await;
        }
        Verb::Tag { image, set, remove } => {
            let (image, tags) = image::tag(&service, &image, &set, &remove)?;
            match settings.format {
                Format::Json => {
                    println!("{}", json!({"image": image.to_string(), "tags": tags_record(&tags)}));
                }
                Format::Human => {
                    println!(
                        "{image}  {}",
                        if tags.is_empty() { "no tags".into() } else { tags_text(&tags) }
                    );
                }
            }
        }
        Verb::Export { image, to, output, force } => {
            let exports = exports(&image::find(&service, &image)?.name, &to, output, force);
            exports.iter().try_for_each(Export::check)?;
            let bar = bar(settings);
            let mut progress = |part: f32| bar.set_position((part * 1000.0) as u64);
            let patience = Patience::unlimited(cancel);
            let (from, files) = image::export(&service, &image, &exports, &mut progress, &patience).await?;
            bar.finish_and_clear();
            match settings.format {
                Format::Json => println!(
                    "{}",
                    json!({"image": from.to_string(), "files": files.iter().map(exported).collect::<Vec<_>>()})
                ),
                Format::Human => files.iter().for_each(|f| {
                    println!("{from} as {}: {} ({} MiB)", f.format, f.target.display(), f.allocated >> 20);
                }),
            }
        }
        Verb::Diff { from, to, all, packages } => {
            let patience = Patience::unlimited(cancel);
            let depth = match (all, packages) {
                (_, true) => Depth::Packages,
                (true, false) => Depth::All,
                (false, false) => Depth::Notable,
            };
            return super::diff::run(&service, [&from, &to], depth, settings, &patience).await;
        }
        Verb::Remove { images } => {
            // A name that means nothing is told before anything is gone.
            let images = images.iter().map(|name| image::only(&service, name));
            let images = images.collect::<Result<Vec<_>, _>>()?;
            for image in image::removable(&service, images)? {
                let removed = image::remove(&service, image)?;
                match settings.format {
                    Format::Json => {
                        println!(
                            "{}",
                            json!({"removed": removed.image.to_string(), "freedBytes": removed.freed})
                        );
                    }
                    Format::Human => {
                        println!("removed {}, {} MiB freed", removed.image, removed.freed >> 20);
                    }
                }
            }
        }
    }
    Ok(0)
}

/// Several files, or one whose place is a folder, are named after the image and the format.
fn exports(name: &str, to: &[ExportFormat], output: Option<PathBuf>, replace: bool) -> Vec<Export> {
    let own_name = |format: ExportFormat| {
        let suffix = match format {
            ExportFormat::Qcow2Zstd => ".zstd",
            ExportFormat::VhdDynamic => ".dynamic",
            _ => "",
        };
        PathBuf::from(format!("{}{suffix}.{}", crate::model::slug(name), format.extension()))
    };
    let target = |format| match &output {
        Some(output) if to.len() == 1 && !output.is_dir() => output.clone(),
        Some(folder) => folder.join(own_name(format)),
        None => own_name(format),
    };
    to.iter().map(|&format| Export { format, target: target(format), replace }).collect()
}

fn exported(file: &Exported) -> Value {
    json!({
        "format": file.format.as_str(),
        "path": file.target,
        "bytes": file.bytes,
        "allocatedBytes": file.allocated,
        "virtualSize": file.virtual_size,
    })
}

fn bar(settings: &Settings) -> ProgressBar {
    let wanted = match settings.progress {
        Progress::Tty => true,
        Progress::Auto => std::io::stderr().is_terminal(),
        _ => false,
    };
    if wanted { ProgressBar::new(1000) } else { ProgressBar::hidden() }
}

fn list(all: &[Shown], unfiltered: bool) {
    match (all.is_empty(), unfiltered) {
        (true, true) => println!("no images yet: kiln build RECIPE makes one"),
        (true, false) => println!("no image has these tags"),
        _ => {}
    }
    for shown in all {
        let image = &shown.image;
        let size = shown.disk.as_ref().map_or("-".to_owned(), |_| format!("{} MiB", shown.above_base >> 20));
        let kept: u64 = shown.kept.iter().map(|(_, bytes)| bytes).sum();
        let kept = (!shown.kept.is_empty()).then(|| format!("  disk kept: {} MiB", kept >> 20));
        println!(
            "{:<32} {:<11} {:<8} {size:>9}  {}  from {}{}{}{}",
            image.to_string(),
            image.status.to_string(),
            image.architecture.as_str(),
            rfc3339(image.created),
            image.parent_name,
            if shown.tags.is_empty() { "" } else { "  " },
            tags_text(&shown.tags),
            kept.unwrap_or_default()
        );
    }
}

fn tags_text(tags: &[Tag]) -> String {
    tags.iter().map(|t| format!("{}={}", t.key, t.value)).collect::<Vec<_>>().join(", ")
}

fn tags_record(tags: &[Tag]) -> Value {
    tags.iter()
        .map(|t| (t.key.clone(), Value::from(t.value.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn show(shown: &Shown, ancestry: &Ancestry) {
    let image = &shown.image;
    println!("image         {image}");
    println!("status        {}", image.status);
    if let Some(reason) = &image.reason {
        println!("reason        {reason}");
    }
    println!("architecture  {}", image.architecture);
    made_from(&ancestry.components);
    for (at, parent) in ancestry.parents.iter().enumerate() {
        println!("{:<13} {}", if at == 0 { "parent" } else { "its parent" }, parent.image);
        made_from(&parent.components);
    }
    if let Some((name, digest)) = &ancestry.base {
        println!("base          {name}  sha256 {digest}");
    }
    if !shown.tags.is_empty() {
        println!("tags          {}", tags_text(&shown.tags));
    }
    println!("created       {}", rfc3339(image.created));
    println!("inputs        {}", image.inputs);
    if let Some((artifact, path)) = &shown.disk {
        println!("disk          {}", path.display());
        println!("              sha256 {}", artifact.digest);
        println!(
            "              {} MiB, {} with its layers, {} MiB for a guest",
            artifact.bytes >> 20,
            shown.above_base >> 20,
            artifact.virtual_size >> 20
        );
    }
    for (path, bytes) in &shown.kept {
        println!("kept disk     {} ({} MiB)", path.display(), bytes >> 20);
    }
    // That of an image that has one is what a shell opens.
    if shown.disk.is_none() && !shown.kept.is_empty() {
        println!("              kiln shell {image} opens it, kiln image remove {image} frees it");
    }
    for build in &shown.builds {
        println!("build         {} ({})", build.id, build.state);
    }
}

fn made_from(components: &[UsedComponent]) {
    for used in components {
        println!("  component   {}  sha256 {}", printable(&used.title), used.digest);
    }
}

fn ancestry_record(ancestry: &Ancestry) -> Value {
    let components = |all: &[UsedComponent]| -> Value {
        let one = |c: &UsedComponent| {
            json!({"component": c.title, "digest": format!("sha256:{}", c.digest),
                   "registered": c.component.is_some()})
        };
        all.iter().map(one).collect()
    };
    let parent = |p: &Ancestor| {
        json!({"image": p.image.to_string(), "status": p.image.status.as_str(),
               "components": components(&p.components)})
    };
    json!({
        "components": components(&ancestry.components),
        "parents": ancestry.parents.iter().map(parent).collect::<Vec<_>>(),
        "base": ancestry.base.as_ref().map(|(name, digest)| json!({"name": name, "digest": format!("sha256:{digest}")})),
    })
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
        "tags": tags_record(&shown.tags),
        "disk": shown.disk.as_ref().map(|(a, path)| json!({
            "path": path, "digest": format!("sha256:{}", a.digest), "bytes": a.bytes, "virtualSize": a.virtual_size,
        })),
        "keptDisks": shown.kept.iter().map(|(path, bytes)| json!({"path": path, "allocatedBytes": bytes}))
            .collect::<Vec<_>>(),
        "builds": shown.builds.iter().map(|b| json!({"id": b.id, "state": b.state})).collect::<Vec<_>>(),
    })
}
