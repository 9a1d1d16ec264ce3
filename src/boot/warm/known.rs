//! What a state of a guest has besides its memory.

use serde::{Deserialize, Serialize};

use crate::appliance::warm::{State, WarmError};
use crate::boot::{CloudInit, Holds};

/// What the guest wrote, on its parent.
pub(super) const DISK: &str = "disk.qcow2";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRD: &str = "initrd";
/// As it is called in a machine's folder.
pub(super) const VARIABLES: &str = "efivars.fd";

/// The file of a disk that was injected.
pub(super) fn extra(index: usize) -> String {
    format!("extra-{index}")
}

/// What has to be known of a guest to wake it, and to boot it again when it reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Known {
    pub holds: Holds,
    pub cloud_init: CloudInit,
    /// Units that failed while it booted.
    pub failed_units: Vec<String>,
    /// The machine id was made at the boot that is in the memory.
    pub(super) own_machine_id: bool,
    /// Serials of the read-only disks after the first, whose files are called by [`extra`].
    pub(super) extras: Vec<Option<String>>,
}

impl Known {
    pub fn of(state: &State) -> Result<Known, WarmError> {
        serde_json::from_value(state.record().known.clone()).map_err(|e| state.damaged(e.to_string()))
    }
}
