//! L4: images on their way out: exports to files.

mod error;
mod export;
mod verify;

pub use crate::disk::writer::ExportFormat;
pub use error::ExportError;
pub use export::{Export, Exported, Report, Source, export};
