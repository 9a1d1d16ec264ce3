//! Giving back what builds acquired: at their end, and for those whose kiln died.

use super::lock::{Lock, Nursery};
use crate::catalog::undo::{Undo, UndoKind};
use crate::catalog::{Catalog, CatalogError};
use crate::machine::{self, Identity};
use crate::model::{Failure, ImageStatus};
use crate::support::spawn;
use rustix::process::Pid;
use std::io;
use std::path::{Path, PathBuf};

/// In the folder of a run: its disk is to stay.
pub const KEPT: &str = "kept";

/// A build that a dead kiln left, and that is in order again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    pub build: String,
    /// `nginx/1.0.0/3`.
    pub image: String,
    /// What could not be undone; tried again by the next kiln.
    pub problems: Vec<String>,
}

/// The lock of a build, held while it lives.
pub fn lock_path(folder: &Path) -> PathBuf {
    folder.join("lock")
}

/// Kills machines that live in a folder below `folder`. Its lock is the caller's, so nobody who
/// lives started them.
fn reap(folder: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    // As the kernel names it, whatever links lead there.
    let folder = &std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).filter_map(Pid::from_raw) {
        let number = pid.as_raw_nonzero().get();
        let Ok(cwd) = std::fs::read_link(format!("/proc/{number}/cwd")) else { continue };
        if !cwd.starts_with(folder) {
            continue;
        }
        // A process that is not a machine, or that has just ended, is left alone.
        let Ok(start_time) = spawn::start_time(pid) else { continue };
        if let Err(e) = machine::reap(Identity { pid: number, start_time }, &cwd) {
            problems.push(format!("cannot end the machine in {}: {e}", cwd.display()));
        }
    }
    problems
}

/// Deals with the undo rows of a build, newest first, and returns what did not work.
/// With `keep`, disks stay and only what runs is ended.
pub fn undo(catalog: &Catalog, build: &str, keep: bool) -> Result<Vec<String>, CatalogError> {
    let mut problems = Vec::new();
    for row in catalog.read(|t| t.undo_of(build))? {
        let kept = keep && row.kind == UndoKind::File;
        let result = if kept { Ok(()) } else { release(catalog, &row) };
        match result {
            Ok(()) => catalog.write(|t| {
                let entry = if kept { "kept" } else { "released" };
                t.journal(build, entry, &format!("{} {}", row.kind.as_str(), row.what))?;
                t.drop_undo(row.id)
            })?,
            Err(e) => problems.push(format!("cannot give back the {} {}: {e}", row.kind.as_str(), row.what)),
        }
    }
    tidy_machines(&catalog.home().build(build));
    Ok(problems)
}

/// Removes the files that the undo rows name, and leaves the rows: what keeps them from being written
/// may be that the disk is full of these files.
pub fn make_room(catalog: &Catalog, build: &str) -> Result<(), CatalogError> {
    for row in catalog.read(|t| t.undo_of(build))?.iter().filter(|row| row.kind == UndoKind::File) {
        // What cannot be removed now is tried again with its row.
        let _ = std::fs::remove_file(&row.what);
    }
    Ok(())
}

/// Of machines that ended, consoles and screenshots stay; kernels, seeds, nonces and firmware
/// variables served their boots.
fn tidy_machines(folder: &Path) {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let is_machine = |name: &str| matches!(name, "machine" | "appliance") || name.starts_with("test-");
    for machine in entries(folder).filter(|e| e.file_name().to_str().is_some_and(is_machine)) {
        for entry in entries(&machine.path()) {
            let path = entry.path();
            let stays = path.extension().is_some_and(|e| e == "log" || e == "png");
            // What cannot be removed now goes with the build's folder.
            let _ = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false if stays => Ok(()),
                false => std::fs::remove_file(&path),
            };
        }
    }
}

/// Does what a row says; what is not there is no error.
fn release(catalog: &Catalog, row: &Undo) -> Result<(), Box<dyn std::error::Error>> {
    let gone = |r: io::Result<()>| match r {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    };
    match row.kind {
        UndoKind::File => gone(std::fs::remove_file(&row.what)),
        UndoKind::Folder => gone(std::fs::remove_dir_all(&row.what)),
        UndoKind::Artifact => Ok(catalog.remove_unclaimed(&row.what)?),
    }
}

/// Finds builds whose lock is free though they have no end, undoes what they left and marks
/// their images FAILED. Every command does this first.
pub fn reconcile(catalog: &Catalog, nursery: &Nursery) -> Result<Vec<Reconciled>, Failure> {
    let io = |path: PathBuf| move |source| CatalogError::Io { doing: "lock", path, source };
    let _nursery = nursery.enter()?;
    let mut done = Vec::new();
    let open = catalog.read(|t| t.open_builds())?;
    let ended = |id: &String| !open.iter().any(|b| &b.id == id);
    let rest: Vec<String> = catalog.read(|t| t.builds_with_undo())?.into_iter().filter(ended).collect();
    for id in open.iter().map(|b| b.id.clone()).chain(rest) {
        let folder = catalog.home().build(&id);
        let path = lock_path(&folder);
        // Without a folder the build died before it had one.
        let _lock = match Lock::try_take(&path) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(path)(e).into()),
        };
        done.extend(reconcile_one(catalog, &id)?);
    }
    remove_dead_runs(catalog);
    catalog.sweep_artifacts()?;
    catalog.collect()?;
    Ok(done)
}

/// Folders of `kiln run` whose kiln died; one that was to be kept stays. What cannot be removed
/// now is tried again by the next kiln.
fn remove_dead_runs(catalog: &Catalog) {
    for folder in std::fs::read_dir(catalog.home().runs()).into_iter().flatten().flatten() {
        let folder = folder.path();
        if let Ok(Some(_lock)) = Lock::try_take(&lock_path(&folder)) {
            reap(&folder);
            if !folder.join(KEPT).exists() {
                let _ = std::fs::remove_dir_all(&folder);
            }
        }
    }
}

fn reconcile_one(catalog: &Catalog, id: &str) -> Result<Option<Reconciled>, CatalogError> {
    let mut problems = reap(&catalog.home().build(id));
    problems.extend(undo(catalog, id, false)?);
    catalog.write(|t| {
        let build = t.build(id)?;
        let image = t.image(build.image)?;
        if build.ended.is_some() {
            return Ok(None);
        }
        t.journal(id, "reconciled", &format!("was {}", build.state))?;
        if !image.status.is_final() {
            let reason = format!("kiln came to its end while this build was {}", build.state);
            t.set_status(image.id, ImageStatus::Failed, Some(&reason))?;
        }
        if problems.is_empty() {
            t.end_build(id, &serde_json::json!({"verdict": "reconciled"}).to_string())?;
        }
        Ok(Some(Reconciled { build: id.into(), image: image.to_string(), problems }))
    })
}
