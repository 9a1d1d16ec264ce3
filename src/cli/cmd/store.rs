//! `kiln store ...`.

use super::planning;
use crate::build::layers::Ttl;
use crate::cli::Settings;
use crate::cli::render::{Format, Progress};
use crate::cli::settings::Runner;
use crate::model::{Failure, FailureKind};
use crate::service::Service;
use crate::service::store::{self, Choice, Damage, Pruned, Wish};
use crate::support::clock::{now_ms, rfc3339};
use crate::support::size::Size;
use crate::support::wait::Patience;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The store: what is kept of builds, and layers to start later builds from
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Show what is kept, by kind, and how much of this host's disk it takes
    ///
    /// A file with several names counts once. What you exported lies where you wanted it, and is not counted.
    Df,
    /// Drop layers that nothing needs, least recently used first
    ///
    /// Without options: down to the size that settings.yaml allows (store: {layers: 20GiB}), as after every
    /// build. What an image, a build that runs, `kiln run`, `kiln shell` or a kept disk needs is never dropped,
    /// nor a layer that another one stands on.
    Prune(Prune),
    /// Read disks and layers again in full, and compare them with what they were
    ///
    /// A layer that is damaged is dropped, and every one that stands on it: the next build starts from the one
    /// before it. An image whose disk is damaged is DISABLED, and named. Ends with 0 when all is well, else 1.
    Verify {
        /// Images, or first digits of a layer's key or a disk's digest, with what they stand on [default: all]
        names: Vec<String>,
    },
    /// Write layers to one file, for another machine's home folder
    ///
    /// Layers hold disks that are not sealed: keep the file to yourself. Those whose key was made with values
    /// from outside (--values) come along, but fit in no other home folder.
    Export(ExportTo),
    /// Take in layers that `kiln store export` wrote; what is here already stays as it is
    ///
    /// Builds start from these layers: import files of people whom you would let build your images.
    Import {
        /// What `kiln store export` wrote
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct Prune {
    /// Every layer that nothing needs, all downloads, and all guests and appliances that are kept warm
    #[arg(long, conflicts_with_all = ["to", "older_than"])]
    all: bool,
    /// Only until the layers that nothing needs take no more than this: 5GiB, 500MiB
    #[arg(long, value_name = "SIZE")]
    to: Option<Size>,
    /// Only what no build has started from for so long: 12h, 30d
    #[arg(long, value_name = "SPAN")]
    older_than: Option<Ttl>,
    /// Show what would be dropped
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
struct ExportTo {
    /// File to write; one that is there is replaced
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Take the disk of the base image along, too; else only its digest is named
    #[arg(long)]
    with_base: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The layers that an image stands on
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// All layers of a recipe: its file, or its name
    #[arg(long, value_name = "RECIPE")]
    layers: Option<String>,
    /// All layers
    #[arg(long)]
    all_layers: bool,
}

impl From<Which> for Choice {
    fn from(which: Which) -> Choice {
        match (which.image, which.layers) {
            (Some(image), _) => Choice::Image(image),
            (_, Some(recipe)) => Choice::Recipe(recipe),
            _ => Choice::All,
        }
    }
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let patience = Patience::unlimited(cancel);
    match arguments.verb {
        Verb::Df => df(&service, settings)?,
        Verb::Prune(wish) => prune(&service, &wish, settings)?,
        Verb::Verify { names } => return verify(&service, &names, settings, &patience).await,
        Verb::Export(to) => export(&service, to, settings, &patience).await?,
        Verb::Import { file } => {
            let (bar, progress) = bar(settings);
            let done = store::import(&service, &file, progress, &patience).await;
            bar.finish_and_clear();
            let done = done?;
            match settings.format {
                Format::Json => println!(
                    "{}",
                    json!({"layers": done.layers, "known": done.known, "disks": done.disks, "bytes": done.bytes,
                           "bases": done.bases})
                ),
                Format::Human => {
                    println!(
                        "{} layers taken in ({}), {} were here already",
                        done.layers,
                        Size(done.bytes),
                        done.known
                    );
                    done.bases.iter().for_each(|b| println!("base image {b} came along"));
                }
            }
        }
    }
    Ok(0)
}

fn df(service: &Service, settings: &Settings) -> Result<(), Failure> {
    let kept = store::df(service)?;
    let limit = settings.layers()?;
    let total: u64 = kept.iter().map(|k| k.bytes).sum();
    match settings.format {
        Format::Json => {
            let kinds = kept.iter().map(|k| {
                json!({"kind": k.kind.as_str(), "title": k.kind.title(), "files": k.files, "bytes": k.bytes})
            });
            let kinds: Vec<Value> = kinds.collect();
            println!("{}", json!({"kinds": kinds, "bytes": total, "layersLimit": limit}));
        }
        Format::Human => {
            for k in &kept {
                let (size, freed) = (Size(k.bytes).to_string(), k.kind.freed_by());
                println!("{:<40} {:>6} files {size:>10}  {freed}", k.kind.title(), k.files);
            }
            println!("{:<40} {:>12} {:>10}", "all", "", Size(total).to_string());
            let limit = limit.map_or("without a limit".into(), |l| format!("at most {}", Size(l)));
            println!("\nlayers that only serve later builds: {limit} (store.layers in settings.yaml)");
        }
    }
    Ok(())
}

fn prune(service: &Service, wish: &Prune, settings: &Settings) -> Result<(), Failure> {
    let unused_since = match wish.older_than {
        None => None,
        Some(Ttl::After(seconds)) => Some(now_ms() - (seconds as i64).saturating_mul(1000)),
        Some(Ttl::Never) => {
            return Err(Failure::new(FailureKind::Input, "--older-than never: nothing is older"));
        }
    };
    let to = match (wish.all, wish.to, unused_since) {
        (true, ..) => None,
        (_, Some(to), _) => Some(to.0),
        (_, None, Some(_)) => None,
        // Without a limit there is nothing too much.
        (_, None, None) => Some(settings.layers()?.unwrap_or(u64::MAX)),
    };
    let pruned = store::prune(service, &Wish { to, unused_since, dry_run: wish.dry_run })?;
    let warm = settings.warm()?;
    let warm_bytes = if wish.all { warm.bytes() } else { 0 };
    let mut downloads = 0;
    if wish.all && !wish.dry_run {
        warm.clear();
        for runner in [Runner::Guest, Runner::Machine] {
            let cleared = settings.fetching(runner)?.store.clear();
            downloads += cleared.map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
        }
    }
    let freed: u64 = pruned.iter().map(|p| p.bytes).sum();
    match settings.format {
        Format::Json => println!(
            "{}",
            json!({"dropped": pruned.iter().map(record).collect::<Vec<_>>(), "freedBytes": freed,
                   "downloadBytes": downloads, "warmBytes": warm_bytes, "dryRun": wish.dry_run})
        ),
        Format::Human => {
            let verb = if wish.dry_run { "would drop" } else { "dropped" };
            for p in &pruned {
                let (layer, used) = (&p.layer, rfc3339(p.layer.used));
                let what = format!("{} after {}", layer.recipe, layer.component);
                println!("{verb} {what:<40} {:>10}  used {used}", Size(p.bytes).to_string());
            }
            println!("{verb} {} layers: {}", pruned.len(), Size(freed));
            if downloads > 0 {
                println!("dropped downloads: {}", Size(downloads));
            }
            if warm_bytes > 0 {
                println!("{verb} warm states: {}", Size(warm_bytes));
            }
        }
    }
    Ok(())
}

fn record(pruned: &Pruned) -> Value {
    let layer = &pruned.layer;
    json!({"key": layer.key, "recipe": layer.recipe, "component": layer.component, "bytes": pruned.bytes,
           "used": rfc3339(layer.used)})
}

/// What a build says when layers went after it.
pub(super) fn made_room(pruned: &[Pruned]) -> String {
    let freed = pruned.iter().map(|p| p.bytes).sum();
    format!(
        "{} least recently used layers were dropped, {} (store.layers in settings.yaml)",
        pruned.len(),
        Size(freed)
    )
}

async fn verify(
    service: &Service,
    names: &[String],
    settings: &Settings,
    patience: &Patience,
) -> Result<u8, Failure> {
    let wanted = settings.format == Format::Human && settings.progress == Progress::Plain;
    let mut tell = |artifact: &crate::catalog::artifact::Artifact| {
        if wanted {
            tell!("reading {} ({})", artifact.file_name(), Size(artifact.bytes));
        }
    };
    let verified = store::verify(service, names, &mut tell, patience).await?;
    match settings.format {
        Format::Json => {
            let damage: Vec<Value> = verified.damage.iter().map(damage_record).collect();
            let counted = json!({"files": verified.files, "bytes": verified.bytes, "damage": damage,
                                 "mended": verified.mended});
            println!("{counted}");
        }
        Format::Human => {
            verified.damage.iter().for_each(tell_damage);
            for list in &verified.mended {
                println!("mended: {}\n  it was not the block list of the disk beside it", list.display());
            }
            let damaged = verified.damage.len();
            println!("{} files read, {}: {damaged} damaged", verified.files, Size(verified.bytes));
        }
    }
    Ok(u8::from(!verified.damage.is_empty()))
}

fn damage_record(damage: &Damage) -> Value {
    let layer = |l: &crate::catalog::layer::Layer| json!({"key": l.key, "recipe": l.recipe, "component": l.component});
    json!({"file": damage.file, "what": damage.what, "images": damage.images, "users": damage.users,
           "base": damage.base, "dropped": damage.dropped.iter().map(layer).collect::<Vec<_>>()})
}

fn tell_damage(damage: &Damage) {
    println!("damaged: {}", damage.file.display());
    println!("  {}", damage.what);
    for layer in &damage.dropped {
        println!(
            "  dropped: the layer of {} after {}; the next build makes it again",
            layer.recipe, layer.component
        );
    }
    for image in &damage.images {
        println!("  image {image} stands on it, cannot be trusted any more, and is DISABLED:");
        println!("    build it again (kiln build RECIPE), then kiln image remove {image}");
    }
    for user in &damage.users {
        println!("  {user} uses it: what comes of it cannot be trusted");
    }
    if let Some(base) = &damage.base {
        println!(
            "  it is the disk of the base image {base}: kiln base remove {base}, and make or import it again"
        );
    }
}

async fn export(
    service: &Service,
    to: ExportTo,
    settings: &Settings,
    patience: &Patience,
) -> Result<(), Failure> {
    let (bar, progress) = bar(settings);
    let choice = to.which.into();
    let done = store::export(service, &choice, to.with_base, &to.file, progress, patience).await;
    bar.finish_and_clear();
    let done = done?;
    match settings.format {
        Format::Json => {
            let needs = done.needs.iter().map(|(n, d)| json!({"base": n, "digest": format!("sha256:{d}")}));
            println!(
                "{}",
                json!({"file": to.file, "layers": done.layers, "ofThisHomeOnly": done.keyed, "disks": done.disks,
                       "bytes": done.bytes, "fileBytes": done.file_bytes, "needs": needs.collect::<Vec<_>>()})
            );
        }
        Format::Human => {
            let (layers, bytes, file) = (done.layers, Size(done.bytes), Size(done.file_bytes));
            println!("{layers} layers, {bytes}, as {}: {file}", to.file.display());
            for (base, digest) in &done.needs {
                println!("  the base image {base} (sha256 {digest:.12}) has to be where it is imported");
            }
            if done.keyed > 0 {
                println!(
                    "  {} of them were made with values from outside: they fit in this home only",
                    done.keyed
                );
            }
        }
    }
    Ok(())
}

fn bar(settings: &Settings) -> (ProgressBar, Box<dyn FnMut(u64, u64) + Send>) {
    let wanted = match settings.progress {
        Progress::Tty => true,
        Progress::Auto => std::io::stderr().is_terminal(),
        _ => false,
    };
    let bar = if wanted { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {binary_bytes}/{binary_total_bytes}") {
        bar.set_style(style);
    }
    let told = bar.clone();
    let progress = Box::new(move |done, total| {
        told.set_length(total);
        told.set_position(done);
    });
    (bar, progress)
}
