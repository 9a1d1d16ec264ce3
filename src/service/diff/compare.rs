//! Comparing what both images hold: pure functions.

use super::{Difference, FileChange, PackageChange};
use crate::appliance::{Contents, Mount};
use crate::disk::block::BLOCK_SIZE;
use crate::model::{Inventory, Package};
use kiln_protocol::message::{Entry, EntryKind, Extent};
use std::collections::{BTreeMap, BTreeSet};

/// What package managers write for themselves whenever anything is installed, and what programs log.
const RECORDS: [&str; 9] = [
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/lib/rpm",
    "/var/lib/dnf",
    // Of rpm, and of dnf from version 5.
    "/usr/lib/sysimage",
    "/lib/apk/db",
    "/var/cache",
    "/var/log",
    "/etc/ld.so.cache",
];

/// An image's contents, by path and by name.
#[derive(Debug)]
pub struct Holding {
    pub contents: Contents,
    pub files: BTreeMap<String, Entry>,
    /// Paths that packages have brought which are not the same in the other image.
    pub owned: BTreeSet<String>,
}

impl Holding {
    /// Bytes of all regular files.
    pub fn bytes(&self) -> u64 {
        self.files.values().filter(|e| e.kind == EntryKind::File).map(|e| e.size).sum()
    }

    /// Where on the disk a file's content lies, byte by byte; None where that is not known.
    fn places(&self, entry: &Entry) -> Option<Vec<Extent>> {
        let under = |m: &&Mount| {
            let rest = entry.path.strip_prefix(m.path.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mount = self.contents.mounts.iter().filter(under).max_by_key(|m| m.path.len())?;
        let offset = mount.offset?;
        let on_disk = |e: &Extent| Some(Extent(e.0, e.1.checked_add(offset)?, e.2));
        entry.extents.as_ref()?.iter().map(on_disk).collect()
    }
}

/// Paths of files that have to be read in both images to know whether they are the same: all of one size
/// that are not proven to be the same bytes of both disks.
pub fn unproven(from: &Holding, to: &Holding, differing: &BTreeSet<u64>) -> Vec<String> {
    let same = |a: &Entry, b: &Entry| match (from.places(a), to.places(b)) {
        (Some(places), Some(others)) => places == others && places.iter().all(|p| alike(p, differing)),
        _ => false,
    };
    let both = from.files.iter().filter_map(|(path, a)| Some((path, a, to.files.get(path)?)));
    let open = both.filter(|(_, a, b)| {
        let files = a.kind == EntryKind::File && b.kind == EntryKind::File;
        files && a.size == b.size && a.size > 0 && (a.sha256.is_none() || b.sha256.is_none()) && !same(a, b)
    });
    open.map(|(path, ..)| path.clone()).collect()
}

/// None of the blocks that an extent touches differs.
fn alike(extent: &Extent, differing: &BTreeSet<u64>) -> bool {
    let Extent(_, offset, length) = *extent;
    let (first, last) = (offset, offset.saturating_add(length.saturating_sub(1)));
    let block = BLOCK_SIZE as u64;
    differing.range(first / block..=last / block).next().is_none()
}

/// `unread` are records that have not been read though they may differ; `all` lists records, too.
pub fn compare(
    from: &Holding,
    to: &Holding,
    packages: Vec<PackageChange>,
    unread: &BTreeSet<String>,
    all: bool,
) -> Difference {
    let mut difference = Difference { packages, ..Difference::default() };
    let words = |side: &Holding| -> Vec<String> {
        side.contents.command_line.split_whitespace().map(str::to_owned).collect()
    };
    let (before, after) = (words(from), words(to));
    difference.removed_arguments = before.iter().filter(|w| !after.contains(w)).cloned().collect();
    difference.added_arguments = after.iter().filter(|w| !before.contains(w)).cloned().collect();
    if let Some(why) = [from, to].into_iter().find_map(|side| why_not(&side.contents.packages)) {
        difference.notes.push(format!("packages are not compared, only files: {why}"));
    }
    let paths: BTreeSet<&String> = from.files.keys().chain(to.files.keys()).collect();
    for path in paths {
        let change = change(path, from.files.get(path), to.files.get(path));
        if unread.contains(path) {
            difference.of_records += 1;
            continue;
        }
        let Some(change) = change else { continue };
        if !all && is_record(path) {
            difference.of_records += 1;
        } else if !all && (is_owned(path, &from.owned) || is_owned(path, &to.owned)) {
            difference.of_packages += 1;
        } else {
            difference.files.push(change);
        }
    }
    difference
}

fn why_not(inventory: &Inventory) -> Option<String> {
    matches!(inventory, Inventory::Unread { .. }).then(|| inventory.missing()).flatten()
}

/// None where packages of one side are not known.
pub fn packages(from: &Inventory, to: &Inventory) -> Vec<PackageChange> {
    if why_not(from).or(why_not(to)).is_some() {
        return Vec::new();
    }
    let (from, to) = (by_name(from), by_name(to));
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

/// Versions: of kernels, say, more than one can be installed. The first architecture of a name needs no
/// telling; of multi-arch twins the second does.
fn by_name(inventory: &Inventory) -> BTreeMap<String, String> {
    let (mut first, mut versions) = (BTreeMap::new(), BTreeMap::<String, Vec<&str>>::new());
    for Package { name, architecture, version } in inventory.packages().unwrap_or_default() {
        let plain = *first.entry(name).or_insert(architecture) == architecture;
        let key = if plain { name.clone() } else { format!("{name}:{architecture}") };
        versions.entry(key).or_default().push(version);
    }
    let joined = |mut all: Vec<&str>| {
        all.sort_unstable();
        all.join(", ")
    };
    versions.into_iter().map(|(name, all)| (name, joined(all))).collect()
}

/// Name and architecture of the packages of this inventory that changed.
pub fn of_changed(inventory: &Inventory, changes: &[PackageChange]) -> Vec<(String, String)> {
    let plain = |change: &PackageChange| change.name.split(':').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = changes.iter().map(plain).collect();
    let packages = inventory.packages().unwrap_or_default().iter();
    packages.filter(|p| names.contains(&p.name)).map(|p| (p.name.clone(), p.architecture.clone())).collect()
}

fn change(path: &str, from: Option<&Entry>, to: Option<&Entry>) -> Option<FileChange> {
    let mut aspects = Vec::new();
    if let (Some(from), Some(to)) = (from, to) {
        if from.kind != to.kind {
            aspects.push("kind");
        }
        let files = from.kind == EntryKind::File && to.kind == EntryKind::File;
        // Of files without a digest one size is one content: the rest has been read.
        if from.target != to.target || (files && (from.size != to.size || from.sha256 != to.sha256)) {
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

pub fn is_record(path: &str) -> bool {
    RECORDS.iter().any(|r| path.strip_prefix(r).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Packages may still name paths of before /bin, /lib and /sbin became links into /usr.
fn is_owned(path: &str, owned: &BTreeSet<String>) -> bool {
    owned.contains(path) || path.strip_prefix("/usr").is_some_and(|short| owned.contains(short))
}

#[cfg(test)]
mod tests;
