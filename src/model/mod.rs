//! L1: pure nouns, one per file. No I/O, no serde: wire forms live where they are spoken.

mod architecture;
mod disk_format;
mod failure;
mod inventory;
mod name;
mod status;
mod version;

pub use architecture::{Architecture, Firmware};
pub use disk_format::DiskFormat;
pub use failure::{Failure, FailureKind, Position};
pub use inventory::{Inventory, Package};
pub use name::{NameError, ResourceName, slug};
pub use status::{ImageStatus, Stage};
pub use version::{ImageVersion, Version, VersionError, VersionPattern};
