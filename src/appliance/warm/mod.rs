//! Warm states: machines kept with their memory, and gone on from instead of booting.
//!
//! A state is the memory of a machine that stood still, and what else the machine was made of. Nothing ever
//! depends on one: it may be removed at any time, and whatever is wrong with it, the answer is an ordinary
//! boot. What is kept here of guests is `boot::warm`'s, what of the appliance `super::wake`'s.

use super::Alive;

mod error;
mod identity;
mod nap;
mod record;
mod store;

pub use error::{WarmError, file};
pub use identity::{Identity, hex, host_cpu};
pub use nap::{lay_down, rouse};
pub use record::{MEMORY, Piece, Record, copy};
pub use store::{Listed, State, Store};
