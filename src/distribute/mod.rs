//! L4: images on their way out: exports to files.

mod error;
mod export;
mod verify;

pub use error::ExportError;
pub use export::{Exported, Progress, Report, Source, Target, export};
