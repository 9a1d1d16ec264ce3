//! What lies beside the files of a state: how they fit together again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::file;
use super::{Identity, WarmError};
use crate::machine::{MachineSpec, Memory, digested};
use crate::support::{clock, files};

/// Without it a folder is no state.
pub(super) const RECORD: &str = "state.json";
pub const MEMORY: &str = "memory";

const SCHEMA: u32 = 2;
/// A record is short; more than this was not written by kiln.
const RECORD_LIMIT: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    schema: u32,
    /// For people: what was booted.
    pub title: String,
    /// See [`Identity`].
    pub parts: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created: i64,
    /// The agent's, when it lay down.
    pub nonce: String,
    machine_type: String,
    shape: String,
    qemu: String,
    /// Of a kernel that was started directly.
    pub command_line: Option<String>,
    /// Every file of the state but this one.
    pub files: BTreeMap<String, Piece>,
    /// What only who keeps such machines understands.
    pub known: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    pub bytes: u64,
    /// SHA-256, in hex.
    pub digest: String,
}

impl Record {
    /// Of a machine that was laid down, whose memory is the only file so far.
    pub fn new(title: &str, identity: &Identity, nonce: &str, spec: &MachineSpec, memory: Memory) -> Record {
        Record {
            schema: SCHEMA,
            title: title.into(),
            parts: identity.parts.clone(),
            created: clock::now_ms(),
            nonce: nonce.into(),
            machine_type: memory.machine_type,
            shape: memory.shape,
            qemu: memory.qemu,
            command_line: spec.kernel.as_ref().map(|k| k.command_line.clone()),
            files: [(MEMORY.into(), Piece { bytes: memory.bytes, digest: memory.digest })].into(),
            known: Value::Null,
        }
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
pub fn copy(from: &Path, to: &Path, durable: bool) -> Result<Piece, WarmError> {
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
