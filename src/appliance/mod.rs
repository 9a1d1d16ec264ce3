//! L3: kiln's own small guest, and the jobs it does on a disk.
//!
//! [`Kit`] is what it boots from, [`Appliance`] one that runs. A job that failed
//! leaves it good for nothing but [`Appliance::shutdown`].

mod alive;
mod boot_files;
mod chroot;
mod error;
pub mod facts;
mod files;
mod fstab;
mod grow;
mod inspect;
mod kernel;
mod kit;
mod modules;
pub mod seal;
mod start;
mod tree;
mod vmlinux;
mod volumes;
mod wake;
pub mod warm;
mod within;

pub use alive::Alive;
pub use boot_files::BootFiles;
pub use chroot::Chroot;
pub use error::{ApplianceError, DiskProblem};
pub use facts::DiskFacts;
pub use files::{ImageFile, read_listing};
pub use inspect::{Contents, Details};
pub use kernel::KernelError;
pub use kit::{Kit, KitError};
pub use seal::SealReport;
pub use start::{Appliance, Begun};
pub use tree::Mount;
