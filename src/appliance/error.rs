//! Why the appliance or one of its jobs did not work.

use std::path::PathBuf;

use crate::disk::gpt::GptError;
use crate::guest::GuestError;
use crate::machine::{Exit, MachineError};
use crate::model::{Failure, FailureKind};
use crate::support::wait::Impatience;

use super::KitError;

#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error("kiln's appliance cannot be started")]
    Machine(#[from] MachineError),
    #[error("kiln's appliance ended before it answered: {exit}")]
    NotUp { exit: Exit, console: Vec<String> },
    #[error("kiln's appliance did not answer")]
    Silent { source: GuestError, console: Vec<String> },
    #[error("kiln's appliance failed while {doing}")]
    Job { doing: String, source: GuestError },
    #[error("the image's file systems cannot be unmounted: something still uses them")]
    InUse { source: GuestError },
    #[error("kiln's appliance did not end in order: {0}")]
    Ended(Exit),
    #[error(transparent)]
    Disk(#[from] DiskProblem),
    #[error("{} cannot be written", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// What about a disk keeps kiln from working with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskProblem {
    #[error("the disk holds no Linux root that kiln can use; it has {found}")]
    NoRoot { found: String },
    #[error("the disk's root is probably in {what} ({device}), which kiln does not open")]
    Wrapped { what: &'static str, device: String },
    #[error("more than one partition holds a Linux root: {}", devices.join(", "))]
    ManyRoots { devices: Vec<String> },
    #[error("the root file system ({filesystem} on {device}) cannot be mounted: {reason}")]
    Unmountable { device: String, filesystem: &'static str, reason: String },
    #[error("the root file system ({filesystem} on {device}) cannot be written: {reason}")]
    ReadOnly { device: String, filesystem: &'static str, reason: String },
    #[error("the disk cannot grow to {to} bytes: {reason}")]
    CannotGrow { to: u64, reason: String },
    #[error(transparent)]
    Gpt(#[from] GptError),
    #[error("{path} of the image is no folder, so nothing can be mounted there to run components")]
    NoFolder { path: &'static str },
    #[error("the disk has no kernel with an initramfs in /boot to start it from: {0}")]
    NoKernel(String),
    #[error("after sealing, the disk still holds {}", paths.join(", "))]
    NotSealed { paths: Vec<String> },
}

impl ApplianceError {
    /// For `map_err`: what was being done when the guest said no or the link broke.
    pub(super) fn during(doing: impl Into<String>) -> impl FnOnce(GuestError) -> ApplianceError {
        |source| match source {
            GuestError::Impatience(impatience) => ApplianceError::Impatience(impatience),
            source => ApplianceError::Job { doing: doing.into(), source },
        }
    }

    pub fn kind(&self) -> FailureKind {
        match self {
            ApplianceError::Machine(e) => e.kind(),
            ApplianceError::Kit(e) => e.kind(),
            ApplianceError::Impatience(e) => e.into(),
            ApplianceError::Silent { source, .. } | ApplianceError::Job { source, .. } => source.kind(),
            ApplianceError::NotUp { exit, .. } | ApplianceError::Ended(exit) => exit.kind(),
            ApplianceError::Disk(DiskProblem::NotSealed { .. }) => FailureKind::Build,
            ApplianceError::Disk(_) => FailureKind::Input,
            ApplianceError::File { .. } => FailureKind::Environment,
            ApplianceError::InUse { .. } => FailureKind::Build,
        }
    }

    /// What to do next, where that can be said.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ApplianceError::Machine(e) => return e.hint(),
            ApplianceError::NotUp { exit, .. } | ApplianceError::Ended(exit)
                if exit.kind() != FailureKind::Build =>
            {
                return exit.hint().map(str::to_owned);
            }
            ApplianceError::NotUp { .. } | ApplianceError::Silent { .. } => {
                "`kiln doctor` tries whether machines run on this host."
            }
            ApplianceError::InUse { .. } => {
                "All processes have been ended. What else holds a disk is a step's to give back: a swap file (swapoff), a mount of its own."
            }
            ApplianceError::Disk(DiskProblem::Wrapped { .. }) => {
                "Give a disk whose root is an ext4, xfs or btrfs partition."
            }
            ApplianceError::Disk(DiskProblem::Unmountable { .. } | DiskProblem::ReadOnly { .. }) => {
                "Check the disk's file system (e2fsck, xfs_repair, btrfs check), or take another copy of it."
            }
            ApplianceError::Disk(DiskProblem::NotSealed { .. }) => {
                "Look for what makes these paths again, or keep them with a skip_cleanup_* file."
            }
            _ => return None,
        };
        Some(hint.into())
    }

    pub fn failure(&self) -> Failure {
        let mut failure = Failure::from_error(self.kind(), self);
        if let ApplianceError::NotUp { console, .. } | ApplianceError::Silent { console, .. } = self {
            failure.console = console.clone();
        }
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
