//! Reading everything again: what is not what it was is told, and what was cached of it is dropped.

use crate::catalog::CatalogError;
use crate::catalog::artifact::Artifact;
use crate::catalog::layer::Layer;
use crate::disk::blocklist::BlockList;
use crate::disk::reader::ReadError;
use crate::disk::{self, DiskError};
use crate::model::{DiskFormat, Failure, FailureKind, ImageStatus};
use crate::service::{Service, image};
use crate::support::wait::Patience;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Fewer digits name nothing.
const LEAST_DIGITS: usize = 8;

/// A file that is not what it was when it was stored.
#[derive(Clone, Debug)]
pub struct Damage {
    pub file: PathBuf,
    pub what: String,
    /// Of it, and of what stands on it: no build starts from these any more.
    pub dropped: Vec<Layer>,
    /// Images whose disk it is part of, `nginx/1.0.0/3`: DISABLED now, so that no build or parent takes them.
    pub images: Vec<String>,
    /// Builds and runs (`runs/...`) that use it.
    pub users: Vec<String>,
    /// The base image whose disk it is.
    pub base: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Verified {
    pub files: u64,
    pub bytes: u64,
    pub damage: Vec<Damage>,
    /// Block lists that told something else than the disk beside them, and were written anew.
    pub mended: Vec<PathBuf>,
}

/// Reads the named artifacts with all that they stand on, or everything, in full. `names` are images, or first
/// digits of a layer's key or of a disk's digest. `tell` is called with each file before it is read.
pub async fn verify(
    service: &Service,
    names: &[String],
    tell: &mut (dyn FnMut(&Artifact) + Send),
    patience: &Patience,
) -> Result<Verified, Failure> {
    let mut verified = Verified::default();
    let mut damaged = BTreeSet::new();
    for artifact in artifacts(service, names)? {
        tell(&artifact);
        let on_damage = artifact.backing.as_ref().is_some_and(|b| damaged.contains(b));
        let wrong = look(service, &artifact, on_damage, patience).await?;
        verified.files += 1;
        verified.bytes += artifact.bytes;
        // Somebody may have dropped it meanwhile.
        let there = service.catalog.read(|t| t.find_artifact(&artifact.digest))?.is_some();
        match wrong {
            _ if !there => {}
            Some(what) => {
                damaged.insert(artifact.digest.clone());
                verified.damage.push(drop_what_stands_on(service, &artifact, what)?);
            }
            None if on_damage => {
                damaged.insert(artifact.digest.clone());
            }
            None => verified.mended.extend(mend_list(service, &artifact, patience).await?),
        }
    }
    if !verified.damage.is_empty() {
        service.catalog.collect()?;
    }
    Ok(verified)
}

/// What stands on nothing comes first.
fn artifacts(service: &Service, names: &[String]) -> Result<Vec<Artifact>, Failure> {
    let all = service.catalog.read(|t| t.list_artifacts())?;
    let mut tops: Vec<String> = Vec::new();
    for name in names {
        match found(service, name, &all)? {
            Some(digest) => tops.push(digest),
            None => {
                let message = format!("`{name}` is no image with a disk, no layer and no disk of the store");
                return Err(Failure::new(FailureKind::NotFound, message)
                    .hint("kiln image list and kiln store df tell what there is."));
            }
        }
    }
    if names.is_empty() {
        tops.extend(all.into_iter().map(|a| a.digest));
    }
    let mut ordered = Vec::new();
    let mut seen = BTreeSet::new();
    for top in tops {
        for artifact in service.catalog.read(|t| t.chain_of(&top))?.into_iter().rev() {
            if seen.insert(artifact.digest.clone()) {
                ordered.push(artifact);
            }
        }
    }
    Ok(ordered)
}

fn found(service: &Service, name: &str, all: &[Artifact]) -> Result<Option<String>, Failure> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    if digits.len() >= LEAST_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let layers = service.catalog.read(|t| t.list_layers())?;
        let layer = layers.into_iter().find(|l| l.key.starts_with(digits)).map(|l| l.disk);
        let disk = || all.iter().find(|a| a.digest.starts_with(digits)).map(|a| a.digest.clone());
        if let Some(digest) = layer.or_else(disk) {
            return Ok(Some(digest));
        }
    }
    match image::newest(service, name) {
        Ok(image) => Ok(image.disk),
        Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Input) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What is wrong with a file. The tables of one that stands on a damaged one are not asked: they may be right.
async fn look(
    service: &Service,
    artifact: &Artifact,
    on_damage: bool,
    patience: &Patience,
) -> Result<Option<String>, Failure> {
    let path = service.catalog.artifact_path(artifact);
    let length = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Some("it is gone".into())),
        Err(source) => return Err(DiskError::Io { path, source }.into()),
    };
    if length != artifact.bytes {
        return Ok(Some(format!("it has {length} bytes instead of {}", artifact.bytes)));
    }
    let wrong = |result: Result<Option<String>, DiskError>| match result {
        Err(e @ DiskError::Corrupt { .. }) => Ok(Some(e.to_string())),
        // A tool that is missing, a file that cannot be opened: that says nothing of the disk.
        Err(e) => Err(Failure::from(e)),
        Ok(wrong) => Ok(wrong),
    };
    let read = async {
        if disk::sha256(&path, patience).await? != artifact.digest {
            return Ok(Some("its content is not what it was: its SHA-256 is another one".to_owned()));
        }
        let info = disk::info(&path, DiskFormat::Qcow2, patience).await?;
        let recorded = match &artifact.backing {
            Some(below) => service.catalog.read(|t| t.find_artifact(below)).ok().flatten(),
            None => None,
        };
        let recorded = recorded.map(|a| PathBuf::from(a.file_name()));
        if info.backing != recorded {
            let name = |path: Option<PathBuf>| path.map_or("nothing".into(), |p| p.display().to_string());
            let (found, recorded) = (name(info.backing), name(recorded));
            return Ok(Some(format!("it stands on {found}, and was recorded to stand on {recorded}")));
        }
        if !on_damage {
            disk::check(&path, DiskFormat::Qcow2, patience).await?;
        }
        Ok(None)
    };
    wrong(read.await)
}

/// Exports are compared with the block list beside a disk, and children's lists are made from it. Here the
/// disk is known to be whole, so a list that says otherwise is the one that is wrong. Returns its path.
async fn mend_list(
    service: &Service,
    artifact: &Artifact,
    patience: &Patience,
) -> Result<Option<PathBuf>, Failure> {
    let list = service.catalog.block_list_path(&artifact.digest);
    let kept = match BlockList::load(&list) {
        Ok(None) => return Ok(None),
        kept => kept.ok().flatten(),
    };
    let found = blocks(service, artifact, patience).await;
    // Somebody may have dropped it meanwhile.
    if service.catalog.read(|t| t.find_artifact(&artifact.digest))?.is_none() {
        return Ok(None);
    }
    let found = found.map_err(|e| Failure::from_error((&e).into(), &e))?;
    if kept.as_ref() == Some(&found) {
        return Ok(None);
    }
    found.save(&list).map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
    Ok(Some(list))
}

/// Reads what the chain has above the next disk with a list of its own: that one was verified before.
async fn blocks(service: &Service, artifact: &Artifact, patience: &Patience) -> Result<BlockList, ReadError> {
    let path = service.catalog.artifact_path(artifact);
    let chain = service.catalog.read(|t| t.chain_of(&artifact.digest)).unwrap_or_default();
    for below in chain.iter().skip(1) {
        if let Ok(Some(known)) = BlockList::load(&service.catalog.block_list_path(&below.digest)) {
            let below = service.catalog.artifact_path(below);
            return BlockList::of_changed(&path, DiskFormat::Qcow2, (&below, known), patience).await;
        }
    }
    BlockList::of(&path, DiskFormat::Qcow2, patience).await
}

fn drop_what_stands_on(service: &Service, artifact: &Artifact, what: String) -> Result<Damage, Failure> {
    let bases = service.bases.list().map_err(Failure::from)?;
    let base = bases.into_iter().find(|b| b.digest.strip_prefix("sha256:") == Some(&artifact.digest));
    let (dropped, images, users) = service.catalog.write(|t| {
        let dropped = t.layers_on(artifact)?;
        for layer in &dropped {
            t.drop_layer(&layer.key)?;
        }
        let mut images = Vec::new();
        for id in t.images_on(artifact)? {
            let image = t.image(id)?;
            if matches!(image.status, ImageStatus::Available | ImageStatus::Deprecated) {
                let reason = format!("its disk is damaged: {what}");
                t.set_status(id, ImageStatus::Disabled, Some(&reason))?;
            }
            images.push(image.to_string());
        }
        Ok::<_, CatalogError>((dropped, images, t.pins_on(artifact)?))
    })?;
    let file = service.catalog.artifact_path(artifact);
    Ok(Damage { file, what, dropped, images, users, base: base.map(|b| b.name) })
}
