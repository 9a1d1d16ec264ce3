//! Component documents, run on this machine through the real agent.

mod actions;
mod diagnostics;
mod flow;
mod reboots;
mod rig;
