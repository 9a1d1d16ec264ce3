//! L2: disk image files: overlays, conversion and digests through `qemu-img`; partitions, file systems and
//! rpm's database as functions over bytes.
//!
//! Every open names its format: a guest that writes a qcow2 header into its raw disk changes nothing.

pub mod block;
pub mod blocklist;
mod extents;
pub mod filesystem;
mod foreign;
pub mod gpt;
mod image;
mod nbd;
pub mod reader;
pub mod rpm;
pub mod writer;

pub use crate::model::DiskFormat as Format;
pub use foreign::{Brought, Foreign, ForeignError, take_in};
pub use image::{
    Check, Compression, DiskError, Info, check, convert, create_overlay, create_overlay_unopened, head, info,
    rebase, rename_backing, sha256, stand_on, tool_version,
};
