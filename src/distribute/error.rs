//! Why an export did not come about.

use crate::disk::blocklist::Difference;
use crate::disk::reader::ReadError;
use crate::disk::writer::ExportFormat;
use crate::model::{Failure, FailureKind};
use crate::support::wait::Impatience;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("there is no folder {}", path.display())]
    NoFolder { path: PathBuf },
    #[error("{} is a folder", path.display())]
    IsFolder { path: PathBuf },
    #[error("{} is named twice", path.display())]
    Twice { path: PathBuf },
    #[error("{} is the disk that is to be exported", path.display())]
    OntoItself { path: PathBuf },
    #[error(
        "a disk of {size} bytes does not fit into the format {}: at most {} bytes",
        format,
        format.max_size()
    )]
    TooLarge { format: ExportFormat, size: u64 },
    #[error(
        "not enough space in {}: {} MiB may be needed, {} MiB are free",
        folder.display(),
        needed.div_ceil(1 << 20),
        free >> 20
    )]
    NoSpace { folder: PathBuf, needed: u64, free: u64 },
    #[error("{} ran out of space while it was written", path.display())]
    Full { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the disk {} is not what it was when the image was made: {difference}", path.display())]
    Changed { path: PathBuf, difference: Difference },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} was written, but reads back otherwise than the image: {difference}", path.display())]
    Differs { path: PathBuf, difference: Difference },
    #[error("compression cannot be started")]
    Threads(#[source] io::Error),
    #[error(transparent)]
    Stopped(#[from] Impatience),
}

impl ExportError {
    pub(super) fn write(path: &Path, source: io::Error) -> ExportError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ExportError::Full { path, source },
            _ => ExportError::Write { path, source },
        }
    }

    fn kind(&self) -> FailureKind {
        match self {
            ExportError::Exists { .. } => FailureKind::Conflict,
            ExportError::NoFolder { .. } => FailureKind::NotFound,
            ExportError::Twice { .. }
            | ExportError::IsFolder { .. }
            | ExportError::OntoItself { .. }
            | ExportError::TooLarge { .. } => FailureKind::Input,
            ExportError::Stopped(reason) => reason.into(),
            ExportError::Read(error) => error.into(),
            // Either a defect or a host whose disk or memory cannot be trusted.
            ExportError::Differs { .. } => FailureKind::Internal,
            ExportError::NoSpace { .. }
            | ExportError::Full { .. }
            | ExportError::Changed { .. }
            | ExportError::Write { .. }
            | ExportError::Threads(_) => FailureKind::Environment,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            ExportError::Exists { .. } => {
                Some("Use --force to replace it, or name another file with --output.")
            }
            ExportError::NoFolder { .. } => Some("Make the folder first."),
            ExportError::Twice { .. } => Some("Give each format its own file."),
            ExportError::IsFolder { .. } | ExportError::OntoItself { .. } => {
                Some("Name another file with --output.")
            }
            ExportError::TooLarge { .. } => Some("Export as qcow2, raw or vmdk."),
            ExportError::NoSpace { .. } => Some(
                "Free space, or write elsewhere with --output. Compressed formats count as if nothing \
                 could be compressed: how small they get shows only at the end.",
            ),
            ExportError::Full { .. } => {
                Some("Free space, or write elsewhere with --output. Nothing was left behind.")
            }
            ExportError::Changed { .. } => Some(
                "Something changed or damaged the stored disk: check the host's disk, and build the image anew.",
            ),
            ExportError::Differs { .. } => Some(
                "Nothing was left behind. Try again; if it happens twice on a healthy host, please report it.",
            ),
            ExportError::Read(_)
            | ExportError::Write { .. }
            | ExportError::Threads(_)
            | ExportError::Stopped(_) => None,
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        if let ExportError::Read(error) = error {
            return error.into();
        }
        let failure = Failure::from_error(error.kind(), &error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
