//! Why a machine could not be kept with its memory, or not be woken. Never a reason for anything to fail.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::DiskError;
use crate::guest::GuestError;
use crate::machine::{Exit, MachineError};
use crate::support::wait::Impatience;

#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    #[error("{doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("it was made by another kiln, for another agent or machine ({0})")]
    Foreign(String),
    #[error("{0}")]
    Machine(#[from] MachineError),
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("its guest did not wake: {0}")]
    Asleep(GuestError),
    #[error("its machine ended as it woke: {0}")]
    Ended(Exit),
    #[error("something is still going on in the guest")]
    Busy,
    #[error("it has {} MiB, and all warm states together may have {} MiB", bytes >> 20, limit >> 20)]
    TooLarge { bytes: u64, limit: u64 },
    #[error("{0}")]
    Impatience(#[from] Impatience),
}

impl WarmError {
    /// Nobody wants the guest any more.
    pub fn is_cancelled(&self) -> bool {
        let cancelled = |e: &Impatience| matches!(e, Impatience::Cancelled { .. });
        match self {
            WarmError::Impatience(e)
            | WarmError::Asleep(GuestError::Impatience(e))
            | WarmError::Machine(MachineError::Impatience(e)) => cancelled(e),
            _ => false,
        }
    }
}

/// For `map_err`.
pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WarmError {
    let path = path.to_owned();
    move |source| WarmError::File { doing, path, source }
}
