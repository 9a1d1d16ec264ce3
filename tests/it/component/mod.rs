//! Component documents, run on this machine through the real agent.

mod actions;
mod diagnostics;
mod downloads;
mod flow;
mod hostile;
mod reboots;
mod rig;
mod s3;
mod s3_store;
mod standalone;
mod update_os;
pub mod web;
mod windows;
