//! L5: the engine. From a plan to an image, or to a reason why not.

pub mod event;
pub mod recipe;
pub mod report;
pub mod state;
