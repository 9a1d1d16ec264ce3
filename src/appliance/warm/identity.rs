//! Whose state a state is.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::machine::Accelerator;

/// Names a state. Machines of the same parts can go on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 over the parts, in hex.
    pub digest: String,
    pub parts: BTreeMap<String, String>,
}

impl Identity {
    /// `parts` is everything that a memory depends on, by name.
    pub fn of(parts: BTreeMap<String, String>) -> Identity {
        let mut digest = Sha256::new();
        for (name, value) in &parts {
            // The length says where a value ends, whatever is in it.
            digest.update(format!("{name} {} {value}\n", value.len()));
        }
        Identity { digest: hex(&digest.finalize()), parts }
    }
}

/// Whether a guest sees the host's own processor, and then which one: a memory is of no use on another.
pub fn host_cpu(accelerator: Accelerator) -> Option<String> {
    if accelerator == Accelerator::Tcg {
        return None;
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let tells = ["model name", "stepping", "flags", "Features", "CPU part"];
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<&str> = first.lines().filter(|l| tells.iter().any(|t| l.starts_with(t))).collect();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Some(hex(&Sha256::digest(format!("{kernel}\n{}", lines.join("\n")))))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_counts_only_where_guests_see_it() {
        assert_eq!(host_cpu(Accelerator::Tcg), None);
        assert_eq!(host_cpu(Accelerator::Kvm).unwrap().len(), 64);
    }
}
