//! L4: images leave the catalog: exports to files of this machine.

use crate::disk::{self, Compression, DiskError};
use crate::model::{DiskFormat, Failure, FailureKind};
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub format: DiskFormat,
    pub target: PathBuf,
    /// A file that is there is replaced, once the new one is whole.
    pub replace: bool,
    /// Of qcow2 only; VMDK always is, the others never are.
    pub compress: bool,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub target: PathBuf,
    pub format: DiskFormat,
    /// Length of the file.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("{} is a folder", .0.display())]
    IsFolder(PathBuf),
    #[error("cannot export to {}", target.display())]
    Disk { target: PathBuf, source: DiskError },
    #[error("cannot look at {}", path.display())]
    Look { path: PathBuf, source: std::io::Error },
}

impl Export {
    /// What can be known to go wrong before any work is done.
    pub fn check(&self) -> Result<(), ExportError> {
        let folder = self.target.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(ExportError::NoFolder(folder.to_owned()));
        }
        match std::fs::symlink_metadata(&self.target) {
            Ok(m) if m.is_dir() => Err(ExportError::IsFolder(self.target.clone())),
            Ok(_) if !self.replace => Err(ExportError::Exists(self.target.clone())),
            _ => Ok(()),
        }
    }

    /// Writes a qcow2 disk, with everything it stands on, as one self-contained file: whole or
    /// not at all. `progress` is told parts of 1.
    pub async fn apply(
        &self,
        disk: &Path,
        progress: &mut (dyn FnMut(f32) + Send),
        patience: &Patience,
    ) -> Result<Exported, ExportError> {
        self.check()?;
        let compression = self.compress.then_some(Compression::Zstd);
        disk::convert(disk, DiskFormat::Qcow2, &self.target, self.format, compression, progress, patience)
            .await
            .map_err(|source| ExportError::Disk { target: self.target.clone(), source })?;
        let look = |source| ExportError::Look { path: self.target.clone(), source };
        let bytes = std::fs::metadata(&self.target).map_err(look)?.len();
        Ok(Exported { target: self.target.clone(), format: self.format, bytes })
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        let kind = match &error {
            ExportError::NoFolder(_) => FailureKind::NotFound,
            ExportError::Exists(_) => FailureKind::Conflict,
            ExportError::IsFolder(_) => FailureKind::Input,
            ExportError::Disk { source: DiskError::Impatience(i), .. } => i.into(),
            ExportError::Disk { .. } | ExportError::Look { .. } => FailureKind::Environment,
        };
        let failure = Failure::from_error(kind, &error);
        match error {
            ExportError::Exists(_) => failure.hint("Replace it with --force, or give another file."),
            ExportError::NoFolder(_) => failure.hint("Make the folder first."),
            _ => failure,
        }
    }
}
