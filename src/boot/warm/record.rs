//! What lies beside the files of a state: how they fit together again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::WarmError;
use super::error::file;
use crate::boot::{CloudInit, Holds};
use crate::machine::{Memory, digested};
use crate::support::files;

/// Without it a folder is no state.
pub(super) const RECORD: &str = "state.json";
pub(super) const MEMORY: &str = "memory";
/// What the guest wrote, on its parent.
pub(super) const DISK: &str = "disk.qcow2";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRD: &str = "initrd";
/// As it is called in a machine's folder.
pub(super) const VARIABLES: &str = "efivars.fd";

const SCHEMA: u32 = 1;
/// A record is short; more than this was not written by kiln.
const RECORD_LIMIT: u64 = 1 << 20;

/// What has to be known of a guest to boot it again, when it reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Known {
    pub holds: Holds,
    pub cloud_init: CloudInit,
    /// Units that failed while it booted.
    pub failed_units: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    pub schema: u32,
    /// For people: what was booted.
    pub title: String,
    /// See `Identity`.
    pub parts: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created: i64,
    pub known: Known,
    /// The agent's, when it lay down.
    pub nonce: String,
    /// The machine id was made at the boot that is in the memory.
    pub own_machine_id: bool,
    pub machine_type: String,
    pub shape: String,
    pub qemu: String,
    /// Of a kernel that was started directly.
    pub command_line: Option<String>,
    /// Serials of the read-only disks after the first, whose files are called by [`extra`].
    pub extras: Vec<Option<String>>,
    /// Every file of the state but this one.
    pub files: BTreeMap<String, Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    pub bytes: u64,
    /// SHA-256, in hex.
    pub digest: String,
}

/// The file of a disk that was injected.
pub(super) fn extra(index: usize) -> String {
    format!("extra-{index}")
}

impl Record {
    pub fn schema() -> u32 {
        SCHEMA
    }

    pub fn write(&self, folder: &Path) -> Result<(), WarmError> {
        let path = folder.join(RECORD);
        let json = serde_json::to_vec_pretty(self).expect("a record is plain data");
        files::write_atomic(&path, &json).map_err(file("cannot write", &path))
    }

    /// None: there is none.
    pub fn read(folder: &Path) -> Result<Option<Record>, WarmError> {
        let path = folder.join(RECORD);
        let damaged = |what: String| WarmError::Damaged { path: path.clone(), what };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file("cannot read", &path)(e)),
            Ok(m) if m.len() > RECORD_LIMIT => return Err(damaged("it is too large".into())),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&path).map_err(file("cannot read", &path))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.schema != SCHEMA {
            return Err(WarmError::Foreign(format!("its form is {}, not {SCHEMA}", record.schema)));
        }
        Ok(Some(record))
    }

    pub fn piece(&self, folder: &Path, name: &str) -> Result<&Piece, WarmError> {
        let missing = || WarmError::Damaged { path: folder.join(RECORD), what: format!("it has no {name}") };
        self.files.get(name).ok_or_else(missing)
    }

    pub fn memory(&self, folder: &Path) -> Result<Memory, WarmError> {
        let Piece { bytes, digest } = self.piece(folder, MEMORY)?.clone();
        Ok(Memory {
            path: folder.join(MEMORY),
            bytes,
            digest,
            machine_type: self.machine_type.clone(),
            shape: self.shape.clone(),
            qemu: self.qemu.clone(),
        })
    }

    /// Of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|p| p.bytes).sum()
    }
}

/// Copies a file into a new or emptied one, durably where it is to be kept. Blocks.
pub(super) fn copy(from: &Path, to: &Path, durable: bool) -> Result<Piece, WarmError> {
    let source = std::fs::File::open(from).map_err(file("cannot read", from))?;
    let target = std::fs::File::create(to).map_err(file("cannot write", to))?;
    let (bytes, digest) = digested(source, &target).map_err(file("cannot write", to))?;
    if durable {
        target.sync_all().map_err(file("cannot write", to))?;
    }
    Ok(Piece { bytes, digest })
}

impl Piece {
    /// Compares with what was found of `path`.
    pub fn must_be(&self, found: &Piece, path: &Path) -> Result<(), WarmError> {
        if self == found {
            return Ok(());
        }
        let what = format!("{} bytes of digest {} were written there", self.bytes, self.digest);
        Err(WarmError::Damaged { path: path.into(), what })
    }
}
