//! What differs between two images: packages, files, arguments of the kernel.

use super::Service;
use super::run::{new_folder, remove};
use super::subject::Subject;
use crate::appliance::{Appliance, ApplianceError, Contents, Kit, read_listing};
use crate::disk;
use crate::machine::accelerator::{Choice, resolve};
use crate::machine::{Accelerator, Cache, Disk};
use crate::model::{DiskFormat, Failure, FailureKind};
use crate::support::wait::Patience;
use kiln_protocol::message::{Entry, EntryKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Bytes of a listing that are taken into memory; some 1.5 million paths.
const LISTING_LIMIT: u64 = 512 << 20;

/// What package managers write for themselves whenever anything is installed, and what programs log.
const RECORDS: [&str; 7] = [
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/lib/rpm",
    "/usr/lib/sysimage/rpm",
    "/var/cache",
    "/var/log",
    "/etc/ld.so.cache",
];

/// An image's contents, by path and by name.
#[derive(Debug)]
pub struct Side {
    pub title: String,
    contents: Contents,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct PackageChange {
    /// `nginx`, or `libc6:i386` of another architecture than the image's.
    pub name: String,
    /// Versions; None where it is not installed.
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Debug, PartialEq)]
pub struct FileChange {
    pub path: String,
    pub from: Option<Entry>,
    pub to: Option<Entry>,
    /// Of a path that both have: `content`, `mode`, `owner`, `kind`.
    pub aspects: Vec<&'static str>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    pub packages: Vec<PackageChange>,
    pub files: Vec<FileChange>,
    pub removed_arguments: Vec<String>,
    pub added_arguments: Vec<String>,
    /// Bytes of all regular files.
    pub from_bytes: u64,
    pub to_bytes: u64,
    /// Paths that differ and are not among `files`: those that packages of `packages` brought, and
    /// records of package managers, caches and logs.
    pub of_packages: usize,
    pub of_records: usize,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        self.packages.is_empty()
            && self.files.is_empty()
            && self.removed_arguments.is_empty()
            && self.added_arguments.is_empty()
    }
}

/// Looks into both disks, each in an appliance of its own, and compares. `all` lists also the files of
/// packages and their records.
pub async fn diff(
    service: &Service,
    names: [&str; 2],
    all: bool,
    choice: Choice,
    patience: &Patience,
) -> Result<(Side, Side, Difference), Failure> {
    let [from, to] = names.map(|name| Subject::find(service, name));
    let (from, to) = (from?, to?);
    let (from, to) =
        tokio::try_join!(side(service, from, choice, patience), side(service, to, choice, patience))?;
    let difference = compare(&from, &to, all);
    Ok((from, to, difference))
}

async fn side(
    service: &Service,
    subject: Subject,
    choice: Choice,
    patience: &Patience,
) -> Result<Side, Failure> {
    let home = service.catalog.home();
    let accelerator = resolve(choice, subject.architecture, home.root(), patience).await?;
    let kit = Kit::ensure(&home.appliance(), subject.architecture, patience).await;
    let kit = kit.map_err(|e| ApplianceError::from(e).failure())?;
    let (folder, _lock) = new_folder(service, &subject.path_name, &subject.disk, false)?;
    let folder = Scratch(folder);
    let (contents, entries) = read(&kit, &subject, accelerator, &folder.0, patience).await?;
    let files = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    Ok(Side { title: subject.title, contents, files })
}

/// A folder that goes with its owner, also when the other side fails and nobody waits for this one.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is in its way now the next kiln removes.
        let _ = remove(&self.0);
    }
}

async fn read(
    kit: &Kit,
    subject: &Subject,
    accelerator: Accelerator,
    folder: &Path,
    patience: &Patience,
) -> Result<(Contents, Vec<Entry>), Failure> {
    let overlay = folder.join("overlay.qcow2");
    disk::create_overlay(&subject.disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
    let disk = Disk::new(&overlay, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let failed = |e: ApplianceError| e.failure();
    let own = folder.join("machine");
    let appliance = Appliance::start(kit, vec![disk], accelerator, &own, patience).await.map_err(failed)?;
    let listing = folder.join("listing");
    let contents = appliance.contents(&listing, patience).await;
    let ended = appliance.shutdown(patience).await;
    let contents = contents.map_err(failed)?;
    ended.map_err(failed)?;
    let io = |e: std::io::Error| {
        let message = format!("the list of the files of {} cannot be read: {e}", subject.title);
        Failure::new(FailureKind::Environment, message)
    };
    let bytes = std::fs::metadata(&listing).map_err(io)?.len();
    if bytes > LISTING_LIMIT {
        let message = format!(
            "{} has more files than can be compared: a list of {} MiB, {} are the limit",
            subject.title,
            bytes >> 20,
            LISTING_LIMIT >> 20
        );
        return Err(Failure::new(FailureKind::Environment, message));
    }
    Ok((contents, read_listing(&listing).map_err(io)?))
}

fn compare(from: &Side, to: &Side, all: bool) -> Difference {
    let packages = packages(&from.contents, &to.contents);
    let mut owned = BTreeSet::new();
    for change in packages.iter().filter(|_| !all) {
        for side in [from, to] {
            let plain = change.name.split(':').next().unwrap_or_default();
            let lists = side.contents.owned.iter();
            // A list is called after the architecture where more than one can be installed.
            let own = lists.filter(|(name, _)| name.split(':').next() == Some(plain));
            owned.extend(own.flat_map(|(_, paths)| paths.iter().map(String::as_str)));
        }
    }
    let mut difference = Difference {
        from_bytes: bytes(&from.files),
        to_bytes: bytes(&to.files),
        packages,
        ..Difference::default()
    };
    let words = |side: &Side| -> Vec<String> {
        side.contents.command_line.split_whitespace().map(str::to_owned).collect()
    };
    let (before, after) = (words(from), words(to));
    difference.removed_arguments = before.iter().filter(|w| !after.contains(w)).cloned().collect();
    difference.added_arguments = after.iter().filter(|w| !before.contains(w)).cloned().collect();
    let paths: BTreeSet<&String> = from.files.keys().chain(to.files.keys()).collect();
    for path in paths {
        let Some(change) = change(path, from.files.get(path), to.files.get(path)) else { continue };
        if !all && is_record(path) {
            difference.of_records += 1;
        } else if !all && is_owned(path, &owned) {
            difference.of_packages += 1;
        } else {
            difference.files.push(change);
        }
    }
    difference
}

fn packages(from: &Contents, to: &Contents) -> Vec<PackageChange> {
    let named = |contents: &Contents| -> BTreeMap<String, String> {
        let all = contents.packages.iter().flatten();
        // The first of a name is called by it alone; of multi-arch twins the second needs more.
        let mut named = BTreeMap::new();
        for package in all {
            let mut name = package.name.clone();
            if named.contains_key(&name) {
                name = format!("{name}:{}", package.architecture);
            }
            named.insert(name, package.version.clone());
        }
        named
    };
    let (from, to) = (named(from), named(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let changed = names.into_iter().filter(|name| from.get(*name) != to.get(*name));
    changed
        .map(|name| PackageChange {
            name: name.clone(),
            from: from.get(name).cloned(),
            to: to.get(name).cloned(),
        })
        .collect()
}

fn change(path: &str, from: Option<&Entry>, to: Option<&Entry>) -> Option<FileChange> {
    let mut aspects = Vec::new();
    if let (Some(from), Some(to)) = (from, to) {
        if from.kind != to.kind {
            aspects.push("kind");
        }
        if from.sha256 != to.sha256 || from.target != to.target {
            aspects.push("content");
        }
        // Those of a link mean nothing.
        if from.mode != to.mode && from.kind != EntryKind::Symlink {
            aspects.push("mode");
        }
        if (from.uid, from.gid) != (to.uid, to.gid) {
            aspects.push("owner");
        }
        if aspects.is_empty() {
            return None;
        }
    }
    Some(FileChange { path: path.to_owned(), from: from.cloned(), to: to.cloned(), aspects })
}

fn is_record(path: &str) -> bool {
    RECORDS.iter().any(|r| path.strip_prefix(r).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Packages may still name paths of before /bin, /lib and /sbin became links into /usr.
fn is_owned(path: &str, owned: &BTreeSet<&str>) -> bool {
    owned.contains(path) || path.strip_prefix("/usr").is_some_and(|short| owned.contains(short))
}

fn bytes(files: &BTreeMap<String, Entry>) -> u64 {
    files.values().filter(|e| e.kind == EntryKind::File).map(|e| e.size).sum()
}

#[cfg(test)]
mod tests;
