//! A run that was interrupted, by a reboot or by chance: one file, from which it goes on.

use super::StandaloneError;
use crate::component::run::RunState;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Everything a run is made of: the documents' texts too, so that it goes on with what was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interrupted {
    pub execution_id: String,
    pub documents: Vec<Kept>,
    pub phases: Vec<String>,
    pub working_directory: String,
    /// The log folder.
    pub folder: PathBuf,
    /// None: nothing has been done yet.
    pub state: Option<RunState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    pub path: PathBuf,
    pub text: String,
    pub parameters: Vec<(String, String)>,
}

const FILE: &str = "interrupted-run.json";

impl Interrupted {
    pub fn load(directory: &Path) -> Result<Option<Interrupted>, StandaloneError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StandaloneError::Io { doing: "read", path, source }),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| StandaloneError::State { path, reason: e.to_string() })
    }

    /// Whole or not at all; for its owner only, since parameters and outputs are in it.
    pub fn save(&self, directory: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(FILE);
        let part = directory.join(format!("{FILE}.part"));
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&part, &path)
    }

    pub fn forget(directory: &Path) -> Result<(), StandaloneError> {
        let path = directory.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StandaloneError::Io { doing: "remove", path, source: e })
            }
            _ => Ok(()),
        }
    }
}
