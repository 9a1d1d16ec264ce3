//! L3: component documents. Parse, check, plan, and run against a guest.
//!
//! Knows no machines and no builds: a document runs the same in a guest, on
//! this machine, or wherever a `Guest` is.

pub mod action;
mod bind;
mod check;
pub mod condition;
mod decode;
mod document;
mod encoding;
pub mod expression;
pub mod fetch;
pub mod library;
pub mod loops;
mod name;
mod plan;
pub mod provider;
pub mod records;
pub mod run;
pub mod schema;
pub mod standalone;
mod values;
mod world;

pub use bind::{BindError, Component, Strictness};
pub use document::{
    Constant, DEFAULT_TIMEOUT, Document, Inputs, OnFailure, Parameter, Phase, Platform, Rules, Step,
};
pub use plan::{Iterations, PlannedStep, plan};
pub use run::{Job, Options, RunReport, RunState, run};
pub use values::Values;
pub use world::World;

#[cfg(test)]
mod tests;
