//! L5: the engine. From a plan to an image, or to a reason why not.

pub mod begin;
pub mod breaks;
pub mod details;
pub mod driver;
pub mod event;
mod hand_over;
pub mod host_files;
pub mod layers;
pub mod lock;
pub mod machines;
mod named;
pub mod outside;
pub mod plan;
pub mod recipe;
pub mod recover;
pub mod report;
pub mod running;
mod stage;
pub mod state;
pub mod steps;
pub mod tray;
pub mod usage;
pub mod warm;
pub mod workshop;
