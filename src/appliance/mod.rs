//! L3: kiln's own small guest, and the jobs it does on a disk.

mod error;
mod kernel;
mod kit;
mod modules;
mod start;

pub use error::{ApplianceError, DiskProblem};
pub use kernel::KernelError;
pub use kit::{Kit, KitError};
pub use start::Appliance;
