//! L4: from a disk to a guest that is ready, and back again across its reboots.

mod class;
mod error;
mod guest;
mod ready;
mod route;
mod start;
pub mod warm;

pub use class::Class;
pub use error::BootError;
pub use guest::{BootedGuest, Watch};
pub use ready::{NotReady, Ready, Waiting};
pub use route::{Holds, NoRoute, Start, choose};
pub use start::{BootRequest, CloudInit};
