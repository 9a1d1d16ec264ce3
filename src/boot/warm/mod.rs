//! Warm states: guests that have booted, kept with their memory, and gone on from instead of booting.
//!
//! A state is the memory of a machine that stood still, a copy of the disk it wrote on, and what else the
//! machine was made of. Every guest that wakes has a disk of its own, a copy of that copy on the same
//! parent: so nothing ever depends on a state, and one may be removed at any time. Whatever is wrong with
//! a state, the answer is an ordinary boot.

mod error;
mod keep;
mod nap;
mod origin;
mod record;
mod store;
mod wake;

pub use error::WarmError;
pub use keep::{About, keep};
pub use nap::{lay_down, rouse};
pub use origin::{Identity, Origin, host_cpu};
pub use record::Known;
pub use store::{Listed, State, Store};
pub use wake::wake;
