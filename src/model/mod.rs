//! L1: pure nouns, one per file. No I/O, no serde: wire forms live where they are spoken.

mod architecture;
mod disk_format;
mod failure;
mod inventory;
mod name;
mod status;
mod tag;
mod version;
mod versioned_name;

pub use architecture::{Architecture, Firmware};
pub use disk_format::DiskFormat;
pub use failure::{Failure, FailureKind, Position};
pub use inventory::{Inventory, Package};
pub use name::{NameError, ResourceName, slug};
pub use status::{ImageStatus, Stage};
pub use tag::{MOST_TAGS, Tag, TagError};
pub use version::{ImageVersion, Version, VersionError, VersionPattern};
pub use versioned_name::{VersionedName, VersionedNameError};
