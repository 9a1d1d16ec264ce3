//! Guests that have booted, kept with their memory, and gone on from instead of booting.
//!
//! To the memory comes a copy of the disk that the guest wrote on. Every guest that wakes has a disk of its
//! own, a copy of that copy on the same parent: so nothing depends on a state here, either.

mod keep;
mod known;
mod origin;
mod wake;

pub use keep::{About, keep};
pub use known::Known;
pub use origin::Origin;
pub use wake::wake;
