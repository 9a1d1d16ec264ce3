//! The agent's bytes, carried by this binary.

use crate::model::Architecture;

static HOST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kiln-agent-host"));
static AARCH64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kiln-agent-aarch64"));

/// The static agent binary for a guest of this architecture, or None when this kiln carries none.
pub fn binary(architecture: Architecture) -> Option<&'static [u8]> {
    match architecture {
        a if a == Architecture::HOST => Some(HOST),
        Architecture::Aarch64 if !AARCH64.is_empty() => Some(AARCH64),
        _ => None,
    }
}
