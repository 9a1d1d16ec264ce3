//! L5: the engine. From a plan to an image, or to a reason why not.

pub mod driver;
pub mod event;
pub mod lock;
pub mod recipe;
pub mod recover;
pub mod report;
pub mod state;
pub mod usage;
