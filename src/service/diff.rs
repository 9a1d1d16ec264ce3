//! What differs between two images: packages, files, arguments of the kernel.
//!
//! Files are not read to find out. One that has the same size and lies in the same places of both
//! disks, in blocks that are alike by the disks' block lists, is the same; only the rest is read.

mod compare;
mod side;

use super::Service;
use super::subject::Subject;
use crate::appliance::warm::Store;
use crate::machine::accelerator::Choice;
use crate::model::{Failure, FailureKind, Inventory};
use crate::support::wait::Patience;
use kiln_protocol::message::Entry;
use side::Opened;
use std::collections::BTreeSet;

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub title: String,
    /// Bytes of all regular files, where they were looked at.
    pub bytes: Option<u64>,
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
    /// Paths that are not among `files`: those that differ and that packages of `packages` brought, and
    /// records of package managers, caches and logs that may differ.
    pub of_packages: usize,
    pub of_records: usize,
    /// What could not be compared, for people.
    pub notes: Vec<String>,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        self.packages.is_empty()
            && self.files.is_empty()
            && self.removed_arguments.is_empty()
            && self.added_arguments.is_empty()
    }
}

/// How an appliance is started that looks into an image.
#[derive(Clone, Debug)]
pub struct Looks {
    pub choice: Choice,
    /// Where appliances are kept with their memory.
    pub warm: Store,
}

/// How much is compared, and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Neither files nor arguments of the kernel: nothing is booted where builds took inventories.
    Packages,
    /// Files of changed packages, and records of package managers, are counted only.
    Notable,
    All,
}

/// The packages of an image or a base, with what it is called.
pub async fn packages_of(
    service: &Service,
    name: &str,
    looks: &Looks,
    patience: &Patience,
) -> Result<(String, Inventory), Failure> {
    let subject = Subject::find(service, name)?;
    let inventory = side::inventory(service, &subject, looks, patience).await?;
    Ok((subject.title, inventory))
}

/// Compares two images or bases.
pub async fn diff(
    service: &Service,
    names: [&str; 2],
    depth: Depth,
    looks: &Looks,
    patience: &Patience,
) -> Result<(Side, Side, Difference), Failure> {
    let [from, to] = names.map(|name| Subject::find(service, name));
    let (from, to) = (from?, to?);
    let unseen = |s: &Subject| Side { title: s.title.clone(), bytes: None };
    if from.disk == to.disk {
        return Ok((unseen(&from), unseen(&to), Difference::default()));
    }
    if depth == Depth::Packages {
        let before = side::inventory(service, &from, looks, patience);
        let after = side::inventory(service, &to, looks, patience);
        let (before, after) = tokio::try_join!(before, after)?;
        for (subject, inventory) in [(&from, &before), (&to, &after)] {
            if let Inventory::Unread { .. } = inventory {
                let why = inventory.missing().unwrap_or_default();
                let message = format!("the packages of {} cannot be compared: {why}", subject.title);
                return Err(Failure::new(FailureKind::Conflict, message)
                    .hint("Without --packages the files are compared."));
            }
        }
        let packages = compare::packages(&before, &after);
        return Ok((unseen(&from), unseen(&to), Difference { packages, ..Difference::default() }));
    }
    let (from, to, differing) = tokio::try_join!(
        Opened::new(service, &from, looks, patience),
        Opened::new(service, &to, looks, patience),
        side::differing_blocks(service, &from, &to, patience),
    )?;
    opened(from, to, &differing, depth, patience).await
}

async fn opened(
    mut from: Opened,
    mut to: Opened,
    differing: &BTreeSet<u64>,
    depth: Depth,
    patience: &Patience,
) -> Result<(Side, Side, Difference), Failure> {
    let packages = compare::packages(&from.holds.contents.packages, &to.holds.contents.packages);
    let all = depth == Depth::All;
    let unproven = compare::unproven(&from.holds, &to.holds, differing).into_iter();
    // Records are large, and nobody is told more of them than how many they are.
    let (unread, unproven): (Vec<_>, Vec<_>) = unproven.partition(|path| !all && compare::is_record(path));
    let unread: BTreeSet<String> = unread.into_iter().collect();
    tokio::try_join!(
        from.look_closer(&unproven, &packages, patience),
        to.look_closer(&unproven, &packages, patience)
    )?;
    let difference = compare::compare(&from.holds, &to.holds, packages, &unread, all);
    let (from, to) = tokio::try_join!(from.close(patience), to.close(patience))?;
    Ok((from, to, difference))
}
