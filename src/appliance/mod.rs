//! L3: kiln's own small guest, and the jobs it does on a disk.

mod kernel;
mod kit;
mod modules;

pub use kernel::KernelError;
pub use kit::{Kit, KitError};
