//! The trial guest's result, kept while neither the host's boot nor QEMU changes.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::Trial;
use crate::machine::qemu::Qemu;
use crate::support::files;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    boot_id: String,
    qemu: PathBuf,
    version: String,
    /// Seconds since 1970.
    modified: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: Key,
    trial: Trial,
}

impl Key {
    pub(super) fn of(qemu: &Qemu) -> Key {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let modified = qemu.program.metadata().and_then(|m| m.modified()).ok();
        Key {
            boot_id: boot_id.trim().into(),
            qemu: qemu.program.clone(),
            version: qemu.version.to_string(),
            modified: modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs()),
        }
    }
}

fn path(home: &Path) -> PathBuf {
    home.join("kvm-trial.json")
}

pub(super) fn load(home: &Path, key: &Key) -> Option<Trial> {
    let record: Record = serde_json::from_slice(&std::fs::read(path(home)).ok()?).ok()?;
    (record.key == *key && !key.boot_id.is_empty()).then_some(record.trial)
}

/// A result that cannot be kept is found anew next time.
pub(super) fn store(home: &Path, key: Key, trial: &Trial) {
    let record = Record { key, trial: trial.clone() };
    if let Ok(bytes) = serde_json::to_vec(&record) {
        let _ = files::write_atomic(&path(home), &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::qemu::Version;
    use crate::model::Architecture;

    #[test]
    fn a_result_holds_for_one_boot_and_one_qemu() {
        let home = tempfile::tempdir().unwrap();
        let version = Version { major: 7, minor: 2, micro: 22 };
        let qemu = Qemu { architecture: Architecture::HOST, program: "/bin/sh".into(), version };
        let key = Key::of(&qemu);
        assert_eq!(load(home.path(), &key), None);
        store(home.path(), key.clone(), &Trial::Fails("why".into()));
        assert_eq!(load(home.path(), &key), Some(Trial::Fails("why".into())));
        assert_eq!(load(home.path(), &Key { boot_id: "another".into(), ..key.clone() }), None);
        assert_eq!(load(home.path(), &Key { version: "8.0.0".into(), ..key }), None);
        std::fs::write(path(home.path()), "garbage").unwrap();
        assert_eq!(load(home.path(), &Key::of(&qemu)), None);
    }
}
