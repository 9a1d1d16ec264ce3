//! Byte pipes to an agent.

pub mod local;
