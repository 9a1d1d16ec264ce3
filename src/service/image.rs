//! Images: list, show, export, remove.

use super::{Service, run};
use crate::appliance::warm::Store;
use crate::build::details::Details;
use crate::build::lock::Lock;
use crate::build::recover::lock_path;
use crate::catalog::CatalogError;
use crate::catalog::artifact::Artifact;
use crate::catalog::build::Build;
use crate::catalog::image::Image;
use crate::catalog::undo::UndoKind;
use crate::disk::blocklist::BlockList;
use crate::distribute::{self, Export, Exported};
use crate::model::{
    DiskFormat, Failure, FailureKind, ImageStatus, Tag, TagError, VersionedName, VersionedNameError,
};
use crate::support::wait::Patience;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// An image with what belongs to it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub image: Image,
    pub disk: Option<(Artifact, PathBuf)>,
    /// Bytes of the disk and of the layers that it stands on, without the base image's.
    pub above_base: u64,
    /// The disks that failed builds kept (`--on-error keep`), the newest first, and how many bytes of this
    /// host's disk each takes.
    pub kept: Vec<(PathBuf, u64)>,
    pub builds: Vec<Build>,
    /// By key.
    pub tags: Vec<Tag>,
}

/// A tag that an image must have: `team`, or `team=web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    key: String,
    value: Option<String>,
}

impl std::str::FromStr for Tagged {
    type Err = TagError;
    fn from_str(s: &str) -> Result<Tagged, TagError> {
        let (key, value) = s.split_once('=').map_or((s, None), |(key, value)| (key, Some(value)));
        let tag = Tag::new(key, value.unwrap_or_default())?;
        Ok(Tagged { key: tag.key, value: value.is_some().then_some(tag.value) })
    }
}

impl Tagged {
    fn holds(&self, tags: &[Tag]) -> bool {
        tags.iter().any(|t| t.key == self.key && self.value.as_ref().is_none_or(|v| *v == t.value))
    }
}

/// Those that have all of `tags`.
pub fn list(service: &Service, tags: &[Tagged]) -> Result<Vec<Shown>, Failure> {
    let images = service.catalog.read(|t| t.list_images())?.into_iter();
    let mut all: Vec<Shown> = images.map(|image| shown(service, image)).collect::<Result<_, _>>()?;
    all.retain(|shown| tags.iter().all(|wanted| wanted.holds(&shown.tags)));
    Ok(all)
}

/// Gives an image tags and takes tags from it, all or nothing. Returns those that it has then.
pub fn tag(
    service: &Service,
    name: &str,
    set: &[Tag],
    remove: &[String],
) -> Result<(Image, Vec<Tag>), Failure> {
    let image = newest(service, name)?;
    let tags = service.catalog.write(|t| {
        for key in remove {
            if !t.remove_tag(image.id, key)? {
                let known: Vec<String> = t.tags_of(image.id)?.into_iter().map(|t| t.key).collect();
                let message = format!("image {image} has no tag `{key}`");
                return Err(Failure::new(FailureKind::NotFound, message).hint(match known.is_empty() {
                    true => "It has none at all.".into(),
                    false => format!("It has: {}.", known.join(", ")),
                }));
            }
        }
        t.set_tags(image.id, set)?;
        Ok(t.tags_of(image.id)?)
    })?;
    Ok((image, tags))
}

/// The image a user names: with a build number any, without the newest AVAILABLE one.
pub fn find(service: &Service, name: &str) -> Result<Image, Failure> {
    let image = newest(service, name)?;
    // A build number names it whatever its status; what it lacks is told by who needs it.
    if image.status == ImageStatus::Available || parse(name)?.build.is_some() {
        return Ok(image);
    }
    let message = format!("image {image} is {}, and there is no AVAILABLE one of that name", image.status);
    Err(Failure::new(FailureKind::Conflict, message).hint(format!("kiln image show {image} says why.")))
}

/// What has to be said of an image that is looked at though it is not AVAILABLE.
pub(super) fn unfinished(image: &Image) -> Option<String> {
    let why = image.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let told = format!("note: image {image} is {}, not AVAILABLE{why}", image.status);
    (image.status != ImageStatus::Available).then_some(told)
}

/// As [`find`], but falls back to the newest build whatever its status.
pub fn show(service: &Service, name: &str) -> Result<Shown, Failure> {
    shown(service, newest(service, name)?)
}

/// The AVAILABLE image of that name, else the newest one of any status.
pub fn newest(service: &Service, name: &str) -> Result<Image, Failure> {
    let name = parse(name)?;
    Ok(service.catalog.read(|t| match t.find_image(&name) {
        Err(CatalogError::NotFound { .. }) => t.newest_image(&name),
        found => found,
    })?)
}

/// The one image of that name, whatever its status.
///
/// # Errors
/// There are several: nothing is removed that was not named.
pub fn only(service: &Service, name: &str) -> Result<Image, Failure> {
    let newest = newest(service, name)?;
    let wanted = parse(name)?;
    let all = service.catalog.read(|t| t.list_images())?;
    let all: Vec<String> = all
        .iter()
        .filter(|i| wanted.fits(&i.name, i.version))
        .map(|i| format!("{i} ({})", i.status))
        .collect();
    if all.len() < 2 {
        return Ok(newest);
    }
    let message = format!("`{name}` names {} images", all.len());
    Err(Failure::new(FailureKind::Conflict, message).hint(format!("Say which: {}.", all.join(", "))))
}

/// The newest image of that name, whatever its status.
pub fn newest_of_any_status(service: &Service, name: &str) -> Result<Image, Failure> {
    let name = parse(name)?;
    Ok(service.catalog.read(|t| t.newest_image(&name))?)
}

pub fn parse(name: &str) -> Result<VersionedName, Failure> {
    name.parse().map_err(|e: VersionedNameError| Failure::from_error(FailureKind::Input, &e))
}

fn shown(service: &Service, image: Image) -> Result<Shown, Failure> {
    let (disk, above_base, builds, tags) = service.catalog.read(|t| {
        let disk = image.disk.as_deref().map(|d| t.artifact(d)).transpose()?;
        let above = image.disk.as_deref().map(|d| t.bytes_above_base(d)).transpose()?;
        Ok::<_, CatalogError>((disk, above.unwrap_or(0), t.builds_of(image.id)?, t.tags_of(image.id)?))
    })?;
    let disk = disk.map(|a| {
        let path = service.catalog.artifact_path(&a);
        (a, path)
    });
    let kept = kept_disks(service, &builds);
    Ok(Shown { image, disk, above_base, kept, builds, tags })
}

/// Of builds that have ended, the newest first: one that runs works on its disk.
pub(super) fn kept_disks(service: &Service, builds: &[Build]) -> Vec<(PathBuf, u64)> {
    let ended = builds.iter().rev().filter(|b| b.ended.is_some());
    let disks = ended.map(|b| service.catalog.home().build_disk(&b.id));
    let sized = |path: PathBuf| std::fs::metadata(&path).ok().map(|m| (path, m.blocks() * 512));
    disks.filter_map(sized).collect()
}

/// The disk of an image that can be used, and how it is booted.
pub fn disk(service: &Service, image: &Image) -> Result<(Artifact, PathBuf, Details), Failure> {
    let digest = image.disk.as_ref().ok_or_else(|| {
        Failure::new(FailureKind::Conflict, format!("image {image} is {} and has no disk", image.status))
    })?;
    let artifact = service.catalog.read(|t| t.artifact(digest))?;
    let path = service.catalog.artifact_path(&artifact);
    Ok((artifact, path, Details::read(image)?))
}

/// Writes an image's disk as files that need nothing of kiln, all in one pass.
pub async fn export(
    service: &Service,
    name: &str,
    exports: &[Export],
    progress: &mut (dyn FnMut(f32) + Send),
    patience: &Patience,
) -> Result<(Image, Vec<Exported>), Failure> {
    let image = find(service, name)?;
    let (artifact, path, _) = disk(service, &image)?;
    // What the disk was found to hold when it was captured, where that was noted.
    let blocks = BlockList::load(&service.catalog.block_list_path(&artifact.digest))
        .map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
    let source = distribute::Source { path: &path, format: DiskFormat::Qcow2, blocks: blocks.as_ref() };
    let report = distribute::export(source, exports, progress, patience).await?;
    Ok((image, report.files))
}

/// What a removal freed.
#[derive(Clone, Debug)]
pub struct Removed {
    pub image: Image,
    /// Bytes of disks that nothing stands on any more, and of those that its builds kept.
    pub freed: u64,
}

/// Whether these images can be removed as far as others depend on them. Returns them in an order in which
/// none stands on one before it.
pub fn removable(service: &Service, mut images: Vec<Image>) -> Result<Vec<Image>, Failure> {
    images.sort_by_key(|image| std::cmp::Reverse(image.id));
    images.dedup_by_key(|image| image.id);
    service.catalog.read(|t| {
        for image in &images {
            let mut children = t.children_of(image.id)?;
            children.retain(|child| images.iter().all(|i| i.id != child.id));
            t.refuse_in_use(&format!("image {image}"), "the parent of", &children)?;
        }
        Ok::<_, CatalogError>(())
    })?;
    Ok(images)
}

/// Forgets an image, its builds' folders and every disk that nothing stands on any more.
pub fn remove(service: &Service, image: Image) -> Result<Removed, Failure> {
    let builds = service.catalog.read(|t| t.builds_of(image.id))?;
    if !image.status.is_final() || builds.iter().any(|b| b.ended.is_none()) {
        let message = format!("image {image} is {}: its build is going on", image.status);
        return Err(
            Failure::new(FailureKind::Conflict, message).hint("End the build first (Ctrl-C where it runs).")
        );
    }
    let Shown { disk, kept, .. } = shown(service, image.clone())?;
    let disks = disk.into_iter().map(|(_, path)| path).chain(kept.iter().map(|(path, _)| path.clone()));
    run::refuse_used(service, &format!("image {image}"), disks)?;
    for (undo, folder) in forget(service, &image)? {
        // Held, so that no other kiln that opens the home puts it in order at the same time.
        let _lock = Lock::try_take(&lock_path(&folder));
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let message = format!("cannot remove {}: {e}", folder.display());
                return Err(Failure::new(FailureKind::Environment, message)
                    .hint("The image is gone; the next command of kiln tries this again."));
            }
            _ => service.catalog.write(|t| t.drop_undo(undo))?,
        }
    }
    let before = service.catalog.read(|t| t.list_artifacts())?;
    let dropped = service.catalog.collect()?;
    let mut freed = before.iter().filter(|a| dropped.contains(&a.digest)).map(|a| a.bytes).sum();
    freed += kept.iter().map(|(_, bytes)| bytes).sum::<u64>();
    // A base image's disk is also outside the store, and stays.
    let bases = service.bases.list().map_err(Failure::from)?;
    let gone = dropped.iter().filter(|d| !bases.iter().any(|b| b.digest.ends_with(d.as_str())));
    let warm = Store::new(service.catalog.home().root(), 0);
    freed += gone.map(|digest| warm.remove_of(digest)).sum::<u64>();
    Ok(Removed { image, freed })
}

/// Takes an image out of the catalog. The folders of its builds are still to be removed; should kiln die
/// before that is done, their undo rows do it.
fn forget(service: &Service, image: &Image) -> Result<Vec<(i64, PathBuf)>, Failure> {
    let mut folders = Vec::new();
    service.catalog.write(|t| {
        for build in t.builds_of(image.id)? {
            t.journal(&build.id, "removed", &format!("image {image}"))?;
            let folder = service.catalog.home().build(&build.id);
            let undo = t.add_undo(&build.id, UndoKind::Folder, &folder.to_string_lossy())?;
            folders.push((undo, folder));
        }
        t.delete_image(image.id)
    })?;
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::artifact::digest_bytes;
    use crate::catalog::image::NewImage;
    use crate::model::Architecture;
    use tokio_util::sync::CancellationToken;

    /// A failed image with one build that has come to its end.
    fn failed(service: &Service) -> Image {
        let catalog = &service.catalog;
        let parent = catalog.home().tmp().join("parent");
        std::fs::write(&parent, "parent").unwrap();
        let digest = digest_bytes(b"parent");
        catalog.store_file(&parent, "qcow2", &digest).unwrap();
        let (name, version) = ("web".parse().unwrap(), "1.0.0".parse().unwrap());
        let added = catalog.write(|t| {
            let (digest, format) = (digest.clone(), "qcow2".to_owned());
            t.add_artifact(&Artifact {
                digest,
                format,
                bytes: 6,
                virtual_size: 6,
                backing: None,
                file: None,
            })?;
            let image = t.add_image(&NewImage {
                recipe: t.register_recipe(&name, version, "d", "data")?,
                name,
                version,
                architecture: Architecture::HOST,
                inputs: "k".into(),
                parent_name: "debian-12".into(),
                parent: digest_bytes(b"parent"),
                components: Vec::new(),
                tags: Vec::new(),
                parent_image: None,
                details: "{}".into(),
            })?;
            t.add_build("b", image.id, "{}")?;
            t.set_status(image.id, ImageStatus::Failed, None)?;
            t.end_build("b", "{}")?;
            t.image(image.id)
        });
        let folder = catalog.home().build("b");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("console.log"), "text").unwrap();
        added.unwrap()
    }

    #[test]
    fn a_removal_that_was_killed_half_way_is_ended_by_the_next_kiln() {
        let home = tempfile::tempdir().unwrap();
        let service = Service::open(home.path(), &CancellationToken::new(), |_| ()).unwrap();
        let image = failed(&service);
        // As far as a kiln gets that is killed right after.
        forget(&service, &image).unwrap();
        assert!(service.catalog.home().build("b").exists());
        drop(service);
        let service = Service::open(home.path(), &CancellationToken::new(), |_| ()).unwrap();
        assert!(!service.catalog.home().build("b").exists());
        assert!(service.catalog.read(|t| t.builds_with_undo()).unwrap().is_empty());
    }

    #[test]
    fn every_disk_that_a_build_kept_counts() {
        let home = tempfile::tempdir().unwrap();
        let service = Service::open(home.path(), &CancellationToken::new(), |_| ()).unwrap();
        let image = failed(&service);
        let again = service.catalog.write(|t| {
            t.add_build("b-retry-1", image.id, "{}")?;
            t.end_build("b-retry-1", "{}")
        });
        again.unwrap();
        let disks = ["b-retry-1", "b"].map(|id| service.catalog.home().build_disk(id));
        for disk in &disks {
            std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
            std::fs::write(disk, [1; 100_000]).unwrap();
        }
        let kept = shown(&service, image.clone()).unwrap().kept;
        assert_eq!(kept.iter().map(|(path, _)| path).collect::<Vec<_>>(), disks.iter().collect::<Vec<_>>());
        assert!(remove(&service, image).unwrap().freed >= 200_000);
    }

    #[test]
    fn a_removal_leaves_nothing_to_do() {
        let home = tempfile::tempdir().unwrap();
        let service = Service::open(home.path(), &CancellationToken::new(), |_| ()).unwrap();
        let image = failed(&service);
        remove(&service, image).unwrap();
        assert!(!service.catalog.home().build("b").exists());
        assert!(service.catalog.read(|t| t.builds_with_undo()).unwrap().is_empty());
    }
}
