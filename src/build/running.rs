//! The machine that a build's disk is in.

use crate::appliance::{Appliance, Chroot};
use crate::boot::BootedGuest;
use crate::build::recipe::Lane;
use crate::guest::Interactive;
use crate::machine::{Machine, MachineError};
use crate::support::wait::Patience;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A killed machine is gone in moments.
const END_LIMIT: Duration = Duration::from_secs(10);
/// From asking a machine to go down to its end.
const DOWN_LIMIT: Duration = Duration::from_secs(120);

/// Dropped, the machine is killed.
pub enum Running {
    /// The system on the disk, booted.
    Guest(BootedGuest),
    /// The tree on the disk, in the appliance.
    Chroot(Chroot),
    /// The appliance between two jobs on the disk.
    Appliance(Appliance),
}

impl Running {
    /// What components can run in.
    pub fn guest(&self) -> Option<&dyn Interactive> {
        match self {
            Running::Guest(guest) => Some(guest),
            Running::Chroot(chroot) => Some(chroot.guest()),
            Running::Appliance(_) => None,
        }
    }

    pub fn lane(&self) -> Option<Lane> {
        match self {
            Running::Guest(_) => Some(Lane::Booted),
            Running::Chroot(_) => Some(Lane::Appliance),
            Running::Appliance(_) => None,
        }
    }

    pub fn is_alive(&self) -> bool {
        self.with_machine(|machine| machine.exited().is_none())
    }

    /// Whether the machine has a disk of this serial.
    pub fn has_disk(&self, serial: &str) -> bool {
        self.with_machine(|machine| machine.has_disk(serial))
    }

    /// The disk goes on in this file: see [`Machine::snapshot_disk`].
    pub async fn snapshot_disk(&mut self, overlay: &Path, patience: &Patience) -> Result<(), MachineError> {
        match self {
            Running::Guest(guest) => guest.snapshot_disk(overlay, patience).await,
            Running::Chroot(chroot) => chroot.machine().snapshot_disk(overlay, patience).await,
            Running::Appliance(appliance) => appliance.machine().snapshot_disk(overlay, patience).await,
        }
    }

    /// The last lines of the machine's console.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        self.with_machine(|machine| machine.console_tail(lines))
    }

    /// Ends it in order, so that what was written is on its disk; killed when it takes too long.
    pub async fn power_off(self) {
        let patience = Patience::new(DOWN_LIMIT, &CancellationToken::new());
        // What does not go down is killed when it is dropped.
        let _ = match self {
            Running::Guest(guest) => guest.shutdown(&patience).await.is_ok(),
            Running::Chroot(chroot) => match chroot.leave(&patience).await {
                Ok(appliance) => appliance.shutdown(&patience).await.is_ok(),
                Err(_) => false,
            },
            Running::Appliance(appliance) => appliance.shutdown(&patience).await.is_ok(),
        };
    }

    /// Ends it as if its power failed, and waits until it is gone.
    pub async fn end(self) {
        self.with_machine(Machine::kill);
        let patience = Patience::new(END_LIMIT, &CancellationToken::new());
        let _ = match &self {
            Running::Guest(guest) => guest.ended(&patience).await,
            Running::Chroot(chroot) => chroot.machine().wait_exit(&patience).await,
            Running::Appliance(appliance) => appliance.machine().wait_exit(&patience).await,
        };
    }

    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        match self {
            Running::Guest(guest) => guest.with_machine(look),
            Running::Chroot(chroot) => look(chroot.machine()),
            Running::Appliance(appliance) => look(appliance.machine()),
        }
    }
}
