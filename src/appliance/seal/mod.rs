//! Makes the disk one that many machines can start from.
//!
//! It works on the disk of a guest that has shut down: inside a running guest
//! the seed and the journal are written again after any clean-up. Afterwards the
//! disk is mounted anew and looked at with the same rules.

mod rules;

use std::fmt;
use std::io::Cursor;

use kiln_protocol::message::{Entry, EntryKind, ErrorKind, Failed, Operation, Put, Reply};

use super::tree::{Access, Tree};
use super::{Appliance, ApplianceError, DiskProblem};
use crate::guest::{Guest, GuestError, GuestFiles};
use crate::support::wait::Patience;
use rules::{Act, Rule, fits};

pub use rules::Group;

/// More entries in a folder than a clean-up can mean.
const MOST_ENTRIES: usize = 100_000;

/// Larger files than this hold no secrets; they are removed without being overwritten, in bytes.
const SHRED_LIMIT: u64 = 16 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Paths removed or emptied, in the order of the rules.
    pub cleaned: Vec<Cleaned>,
    /// Groups that marker files kept.
    pub kept: Vec<Group>,
    /// Bytes of free space given back to the host.
    pub trimmed: u64,
    /// What the user should know of the sealed image.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    pub path: String,
    pub group: Group,
    /// The file is still there, with nothing in it.
    pub emptied: bool,
}

/// One thing to do.
struct Task {
    rule: Rule,
    entry: Option<Entry>,
    path: String,
}

impl Appliance {
    /// Cleans the disk, checks it, and gives its free blocks back.
    ///
    /// `working_directory` is the recipe's: marker files in it keep groups of files.
    ///
    /// # Errors
    /// [`DiskProblem::NotSealed`] names what is there again, or still, after the clean-up.
    pub async fn seal(
        &self,
        working_directory: &str,
        patience: &Patience,
    ) -> Result<SealReport, ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Write, patience).await?;
        let sealing =
            Sealing { appliance: self, patience, working_directory: working_directory.trim_end_matches('/') };
        let done = sealing.clean().await;
        self.leave(tree, patience).await?;
        let mut report = done?;

        let tree = self.enter(&scan, Access::Write, patience).await?;
        let checked = sealing.check(&mut report, &tree).await;
        self.leave(tree, patience).await?;
        checked.map(|()| report)
    }
}

struct Sealing<'a> {
    appliance: &'a Appliance,
    patience: &'a Patience,
    working_directory: &'a str,
}

impl Sealing<'_> {
    async fn clean(&self) -> Result<SealReport, ApplianceError> {
        let mut report = SealReport::default();
        for group in Group::WITH_MARKER {
            let marker = format!("{}/{}", self.working_directory, group.marker());
            if self.stat(&marker).await?.is_some() {
                report.kept.push(group);
            }
        }
        for rule in rules::all().filter(|r| !report.kept.contains(&r.group)) {
            for task in self.tasks(rule).await? {
                self.act(&task).await?;
                let emptied = matches!(rule.act, Act::Empty | Act::Ensure);
                report.cleaned.push(Cleaned { path: task.path, group: rule.group, emptied });
            }
        }
        let sshd = self.stat("/usr/sbin/sshd").await?.is_some();
        if sshd && self.stat("/usr/bin/cloud-init").await?.is_none() && !report.kept.contains(&Group::Ssh) {
            report.notes.push(
                "the image has an SSH server but no cloud-init: nothing makes host keys at its first boot \
                 (`ssh-keygen -A` does)"
                    .into(),
            );
        }
        Ok(report)
    }

    /// On the disk mounted anew: nothing may be left to do. Then free blocks go back to the host.
    async fn check(&self, report: &mut SealReport, tree: &Tree) -> Result<(), ApplianceError> {
        let mut paths = Vec::new();
        for rule in rules::all().filter(|r| !report.kept.contains(&r.group)) {
            paths.extend(self.tasks(rule).await?.into_iter().map(|task| task.path));
        }
        if !paths.is_empty() {
            return Err(DiskProblem::NotSealed { paths }.into());
        }
        self.appliance.step_out(self.patience).await?;
        for place in Appliance::places(tree) {
            let trim = Operation::Trim { target: place.clone() };
            match self.appliance.guest().call(trim, self.patience).await {
                Ok(Reply::Written { bytes }) => report.trimmed += bytes,
                // Not every file system can (vfat): then its free blocks stay.
                Ok(_) | Err(GuestError::Refused(_)) => {}
                Err(other) => return Err(ApplianceError::during("giving free blocks back")(other)),
            }
        }
        self.appliance.step_in(self.patience).await
    }

    /// What a rule has to do as the disk is now.
    async fn tasks(&self, rule: Rule) -> Result<Vec<Task>, ApplianceError> {
        let pattern = match rule.pattern.strip_prefix("{}") {
            Some(_) if !self.working_directory.starts_with('/') => return Ok(Vec::new()),
            Some(rest) => format!("{}{rest}", self.working_directory),
            None => rule.pattern.to_owned(),
        };
        let mut tasks = Vec::new();
        for path in self.expand(&pattern).await? {
            let entry = self.stat(&path).await?;
            let to_do = match (rule.act, &entry) {
                (Act::Remove | Act::Shred, entry) => entry.is_some(),
                (Act::RemoveCopy, entry) => entry.as_ref().is_some_and(|e| e.kind == EntryKind::File),
                (Act::Empty, entry) => {
                    entry.as_ref().is_some_and(|e| e.kind == EntryKind::File && e.size > 0)
                }
                (Act::Ensure, entry) => {
                    entry.as_ref().is_none_or(|e| e.kind == EntryKind::File && e.size > 0)
                }
            };
            if to_do {
                tasks.push(Task { rule, entry, path });
            }
        }
        Ok(tasks)
    }

    async fn expand(&self, pattern: &str) -> Result<Vec<String>, ApplianceError> {
        let mut paths = vec![String::new()];
        for part in pattern.split('/').skip(1) {
            if !part.contains('*') {
                paths.iter_mut().for_each(|path| path.extend(["/", part]));
                continue;
            }
            let mut next = Vec::new();
            for folder in &paths {
                let place = if folder.is_empty() { "/" } else { folder };
                let entries = self.appliance.guest().list(place, false, MOST_ENTRIES, self.patience).await;
                for entry in self.optional(folder, entries)?.unwrap_or_default() {
                    let name = entry.path.rsplit('/').next().unwrap_or_default();
                    if fits(part, name) {
                        next.push(format!("{folder}/{name}"));
                    }
                }
            }
            paths = next;
        }
        Ok(paths)
    }

    async fn act(&self, task: &Task) -> Result<(), ApplianceError> {
        let (guest, path) = (self.appliance.guest(), &task.path);
        let failed = |e| ApplianceError::during(format!("cleaning {path}"))(e);
        match (task.rule.act, &task.entry) {
            (Act::Shred, Some(entry)) => {
                self.shred(entry).await?;
                let remove = Operation::Remove { path: path.clone(), recursive: true };
                guest.act(remove, self.patience).await.map_err(failed)
            }
            (Act::Remove | Act::RemoveCopy, _) => {
                let remove = Operation::Remove { path: path.clone(), recursive: true };
                guest.act(remove, self.patience).await.map_err(failed)
            }
            (_, entry) => {
                let put = Put {
                    path: path.clone(),
                    mode: entry.as_ref().map_or(0o444, |e| e.mode & 0o7777),
                    owner: entry.as_ref().map(|e| e.uid.to_string()),
                    group: entry.as_ref().map(|e| e.gid.to_string()),
                    overwrite: true,
                    parents: false,
                };
                guest.put(put, &mut tokio::io::empty(), self.patience).await.map(drop).map_err(failed)
            }
        }
    }

    /// Overwrites a file, or all files in a folder, where they lie.
    async fn shred(&self, entry: &Entry) -> Result<(), ApplianceError> {
        let files = match entry.kind {
            EntryKind::File => vec![entry.clone()],
            EntryKind::Folder => {
                let list = self.appliance.guest().list(&entry.path, true, MOST_ENTRIES, self.patience).await;
                list.map_err(ApplianceError::during(format!("listing {}", entry.path)))?
            }
            _ => Vec::new(),
        };
        let worth = |e: &&Entry| e.kind == EntryKind::File && (1..=SHRED_LIMIT).contains(&e.size);
        for file in files.iter().filter(worth) {
            let write = Operation::WriteAt { path: file.path.clone(), offset: 0 };
            let mut zeros = Cursor::new(vec![0; file.size as usize]);
            let written = self.appliance.guest().send(write, &mut zeros, self.patience).await;
            written.map_err(ApplianceError::during(format!("overwriting {}", file.path)))?;
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Result<Option<Entry>, ApplianceError> {
        let entry = self.appliance.guest().stat(path, false, self.patience).await;
        Ok(self.optional(path, entry)?.flatten())
    }

    /// A path through something that is no folder leads to nothing.
    fn optional<T>(&self, path: &str, result: Result<T, GuestError>) -> Result<Option<T>, ApplianceError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(GuestError::Refused(Failed { kind: ErrorKind::NotFound | ErrorKind::Invalid, .. })) => {
                Ok(None)
            }
            Err(other) => Err(ApplianceError::during(format!("looking at {path}"))(other)),
        }
    }
}

impl fmt::Display for SealReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let emptied = self.cleaned.iter().filter(|c| c.emptied).count();
        write!(
            f,
            "{} paths removed, {emptied} emptied, {} MiB of free space given back",
            self.cleaned.len() - emptied,
            self.trimmed >> 20
        )?;
        if !self.kept.is_empty() {
            let names: Vec<&str> = self.kept.iter().map(|g| g.as_str()).collect();
            write!(f, "; kept on request: {}", names.join(", "))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}
