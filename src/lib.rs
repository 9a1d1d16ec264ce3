//! kiln, room by room. Imports go down only; a test (`cargo xtask tidy`) holds them to it.
//!
//! | layer | rooms |
//! |---|---|
//! | L0 | `support` |
//! | L1 | `model` |
//! | L2 | `catalog`, `disk`, `machine`, `guest` |
//! | L3 | `appliance`, `component` |
//! | L4 | `base`, `boot`, `distribute` |
//! | L5 | `build` |
//! | L6 | `service` |
//! | L7 | `cli` |

// eprintln! panics where the terminal or the reader of stderr is gone.
#![deny(clippy::print_stderr)]

pub mod support;

pub mod model;

pub mod boot;
pub mod catalog;
pub mod disk;

pub mod guest;
pub mod machine;

pub mod appliance;

pub mod base;

pub mod distribute;

pub mod build;

pub mod service;

pub mod component;

pub mod cli;
