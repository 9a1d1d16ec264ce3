//! Layers: the disk as it was after a component, kept so that no later build makes it again.
//!
//! A layer's key is a pure function of all that went in ([`key`], [`parts`]); a plan starts from the
//! deepest layer that still holds ([`choice`]); [`keep`] makes them while the guest runs on. A layer
//! means "as after a reboot at this point": what lived in memory only is not in it.

pub mod choice;
mod hardware;
mod keep;
pub mod key;
mod merge;
mod parts;
mod span;
#[cfg(test)]
mod tests;

pub use choice::{Layers, Resume, Reuse, Why, position};
pub use hardware::start;
pub use keep::Base;
pub use key::{Part, keys};
pub use parts::{ComponentInputs, Surroundings};
pub use span::Ttl;
