//! L4: from a disk to a guest that is ready, and back again across its reboots.

mod ready;

pub use ready::{NotReady, Ready, Waiting};
