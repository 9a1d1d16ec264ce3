//! File locks: a build is alive while its lock is held, whatever its process id says.

use crate::catalog::{Catalog, CatalogError};
use crate::model::Failure;
use crate::support::wait::Patience;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Held until dropped; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// None when somebody else has it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// The lock of a home folder that is held while a build gets its rows, folder and lock, and while somebody
/// looks for dead builds: a build that is being born is not taken for a dead one.
#[derive(Clone)]
pub struct Nursery {
    path: PathBuf,
    cancel: CancellationToken,
    tell: fn(&str),
}

const WAITED_FOR: &str = "another kiln that puts the home folder in order";
/// To put in order what many dead builds left is the longest that it is held.
const LIMIT: Duration = Duration::from_secs(600);
const TELL_AFTER: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Nursery {
    /// `tell` is called with a line for people when the lock does not come at once.
    pub fn new(catalog: &Catalog, cancel: &CancellationToken, tell: fn(&str)) -> Nursery {
        Nursery { path: catalog.home().builds().join("lock"), cancel: cancel.clone(), tell }
    }

    /// Blocks until nobody else has it.
    ///
    /// # Errors
    /// Cancelled, or somebody has had it for ten minutes.
    pub fn enter(&self) -> Result<Lock, Failure> {
        let patience = Patience::new(LIMIT, &self.cancel);
        let (begun, mut told) = (Instant::now(), false);
        loop {
            let taken = Lock::try_take(&self.path).map_err(|source| {
                Failure::from(CatalogError::Io { doing: "lock", path: self.path.clone(), source })
            })?;
            if let Some(lock) = taken {
                return Ok(lock);
            }
            patience.check(WAITED_FOR, begun).map_err(|e| {
                let held = format!("It holds the lock {}: look whether it still works.", self.path.display());
                Failure::from_error((&e).into(), &e).hint(held)
            })?;
            if !told && begun.elapsed() >= TELL_AFTER {
                (self.tell)(&format!("waiting for {WAITED_FOR}"));
                told = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}
