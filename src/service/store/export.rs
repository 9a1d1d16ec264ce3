//! Writing layers to a file, for another home.

use super::bundle::{self, Base, Disk, Entry, Record, Table};
use super::io;
use crate::base::BaseImage;
use crate::build::recipe;
use crate::catalog::artifact::Artifact;
use crate::catalog::layer::Layer;
use crate::catalog::{CatalogError, Transaction};
use crate::model::{Failure, FailureKind};
use crate::service::{Service, image, run};
use crate::support::files::Staged;
use crate::support::wait::Patience;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Which layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Those that an image stands on.
    Image(String),
    /// All that recipes of this name left; a recipe's file names it, too.
    Recipe(String),
    All,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    pub layers: usize,
    /// Their keys hold values from outside, by a secret of this home: they fit in no other.
    pub keyed: usize,
    pub disks: usize,
    /// Of the disks, and of the file.
    pub bytes: u64,
    pub file_bytes: u64,
    /// Base images that have to be where the file is imported: name and digest.
    pub needs: Vec<(String, String)>,
}

pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// Writes a file that is whole or not there.
pub async fn export(
    service: &Service,
    choice: &Choice,
    with_base: bool,
    target: &Path,
    progress: Progress,
    patience: &Patience,
) -> Result<Exported, Failure> {
    let wanted = Wanted::of(service, choice)?;
    let bases = service.bases.list().map_err(Failure::from)?;
    // What is written stays until it is written.
    let (folder, _lock) = run::new_folder(service, "export", None, false)?;
    let write = async {
        let (table, sources) = service.catalog.write(|t| {
            let found = wanted.layers(t)?;
            for layer in &found {
                t.pin_for_run(&run::run_name(&folder), &layer.disk)?;
            }
            table(service, t, found, &bases, with_base)
        })?;
        if table.layers.is_empty() {
            return Err(Failure::new(FailureKind::NotFound, "there is no layer to export")
                .hint("kiln store df tells what there is; a build makes layers."));
        }
        let (target, patience) = (target.to_owned(), patience.clone());
        let task =
            tokio::task::spawn_blocking(move || writing(&table, &sources, &target, progress, &patience));
        task.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?
    };
    let written = write.await;
    run::remove(&folder)?;
    written
}

enum Wanted {
    Disk(String),
    Recipe(String),
    All,
}

impl Wanted {
    fn of(service: &Service, choice: &Choice) -> Result<Wanted, Failure> {
        Ok(match choice {
            Choice::All => Wanted::All,
            Choice::Recipe(name) if Path::new(name).is_file() => {
                let (recipe, findings) = recipe::load(Path::new(name))?;
                let whole = !findings.iter().any(|f| f.is_error());
                let recipe = recipe
                    .filter(|_| whole)
                    .ok_or_else(|| Failure::from_findings(&format!("{name} is no recipe"), findings))?;
                Wanted::Recipe(recipe.name.slug())
            }
            Choice::Recipe(name) => Wanted::Recipe(crate::model::slug(name)),
            Choice::Image(name) => Wanted::Disk(image::disk(service, &image::find(service, name)?)?.0.digest),
        })
    }

    fn layers(&self, t: &Transaction) -> Result<Vec<Layer>, CatalogError> {
        let mut layers = t.list_layers()?;
        match self {
            Wanted::All => {}
            Wanted::Recipe(name) => layers.retain(|l| l.recipe == *name),
            Wanted::Disk(digest) => {
                let chain: BTreeSet<String> = t.chain_of(digest)?.into_iter().map(|a| a.digest).collect();
                layers.retain(|l| chain.contains(&l.disk));
            }
        }
        Ok(layers)
    }
}

/// The table, and the files of the disks that follow.
fn table(
    service: &Service,
    t: &Transaction,
    layers: Vec<Layer>,
    bases: &[BaseImage],
    with_base: bool,
) -> Result<(Table, Vec<PathBuf>), Failure> {
    let (mut disks, mut sources, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for layer in &layers {
        for artifact in t.chain_of(&layer.disk)?.into_iter().rev() {
            if !seen.insert(artifact.digest.clone()) {
                continue;
            }
            let base = match artifact.backing {
                None => Some(base(&artifact, bases, with_base)?),
                Some(_) => None,
            };
            let follows = base.as_ref().is_none_or(|b| b.record.is_some());
            if follows {
                sources.push(service.catalog.artifact_path(&artifact));
            }
            disks.push(Disk {
                own: artifact.file.as_deref().and_then(bundle::own_digits),
                digest: artifact.digest,
                bytes: artifact.bytes,
                virtual_size: artifact.virtual_size,
                backing: artifact.backing,
                base,
                follows,
            });
        }
    }
    let entry = |l: Layer| Entry {
        key: l.key,
        disk: l.disk,
        recipe: l.recipe,
        component: l.component,
        position: l.position,
        parts: l.parts,
        build: l.build,
    };
    Ok((Table { disks, layers: layers.into_iter().map(entry).collect() }, sources))
}

fn base(artifact: &Artifact, bases: &[BaseImage], with_base: bool) -> Result<Base, Failure> {
    let found = bases.iter().find(|b| b.digest.strip_prefix("sha256:") == Some(&artifact.digest));
    let record = |b: &BaseImage| Record {
        description: b.description.clone(),
        architecture: b.architecture.to_string(),
        firmware: b.firmware.iter().map(ToString::to_string).collect(),
        created: b.created,
        origin: b.origin.clone(),
    };
    match found {
        Some(b) => Ok(Base { name: b.name.clone(), record: with_base.then(|| record(b)) }),
        None if with_base => {
            let message = format!("the base image with the disk sha256 {} was removed", artifact.digest);
            Err(Failure::new(FailureKind::NotFound, message).hint("Export without --with-base."))
        }
        None => Ok(Base { name: "removed".into(), record: None }),
    }
}

fn writing(
    table: &Table,
    sources: &[PathBuf],
    target: &Path,
    mut progress: Progress,
    patience: &Patience,
) -> Result<Exported, Failure> {
    let failed = |e: std::io::Error| io("write", target, &e);
    let staged = Staged::new(target).map_err(failed)?;
    // Layers hold what is not sealed yet: nobody else's business.
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.write(true).create_new(true).open(staged.path()).map_err(failed)?;
    let mut packed = bundle::begin(BufWriter::new(file), table).map_err(failed)?;
    let follow = table.disks.iter().filter(|d| d.follows);
    let total = follow.clone().map(|d| d.bytes).sum();
    let (mut done, mut buffer, begun) = (0, vec![0; 1 << 18], Instant::now());
    for (disk, source) in follow.clone().zip(sources) {
        let mut file = File::open(source).map_err(|e| io("open", source, &e))?;
        let (mut sum, mut bytes) = (Sha256::new(), 0);
        loop {
            let count = file.read(&mut buffer).map_err(|e| io("read", source, &e))?;
            if count == 0 {
                break;
            }
            sum.update(&buffer[..count]);
            packed.write_all(&buffer[..count]).map_err(failed)?;
            (bytes, done) = (bytes + count as u64, done + count as u64);
            progress(done, total);
            patience.check("the export", begun).map_err(|e| Failure::from_error((&e).into(), &e))?;
        }
        let digest: String = sum.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if bytes != disk.bytes || digest != disk.digest {
            let message = format!("{} is damaged", source.display());
            return Err(Failure::new(FailureKind::Environment, message)
                .hint("kiln store verify tells what stands on it, and drops the layers."));
        }
    }
    packed.finish().and_then(|mut w| w.flush()).map_err(failed)?;
    let file_bytes = std::fs::metadata(staged.path()).map_err(failed)?.len();
    staged.commit().map_err(failed)?;
    let needs = table.disks.iter().filter(|d| !d.follows);
    Ok(Exported {
        layers: table.layers.len(),
        keyed: table.layers.iter().filter(|l| l.parts.contains("\"keyed:")).count(),
        disks: follow.count(),
        bytes: total,
        file_bytes,
        needs: needs
            .map(|d| (d.base.as_ref().map_or(String::new(), |b| b.name.clone()), d.digest.clone()))
            .collect(),
    })
}
