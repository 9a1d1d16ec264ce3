//! The store: what is kept, how it is kept small and whole, and how layers move between homes.

mod bundle;
mod df;
mod export;
mod import;
mod prune;
mod verify;

pub use df::{Kept, Kind, df};
pub use export::{Choice, Exported, export};
pub use import::{Imported, import};
pub use prune::{Pruned, Wish, keep_within, prune};
pub use verify::{Damage, Verified, verify};

use crate::model::{Failure, FailureKind};
use std::path::Path;

/// Bytes of layers that only serve later builds, unless the settings say otherwise.
pub const LAYERS_KEPT: u64 = 20 << 30;

fn io(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Environment, format!("cannot {doing} {}: {error}", path.display()))
}
