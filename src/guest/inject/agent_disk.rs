//! The disk that brings the agent: one block of configuration, then the program.

use serde_json::json;

/// Serial of the virtio disk; the launcher looks for it.
pub const SERIAL: &str = "kiln-agent";

/// Bytes of the configuration block before the program.
pub const CONFIG_BLOCK: usize = 4096;

/// Disks are read in sectors of this size.
const SECTOR: usize = 512;

/// The raw image of the agent's disk.
///
/// The block is JSON and newlines, so that who reads too much of it reads the
/// same; what pads the program to a whole sector is zeros.
pub fn image(nonce: &str, agent: &[u8]) -> Vec<u8> {
    let mut bytes = json!({ "nonce": nonce, "mode": "guest" }).to_string().into_bytes();
    assert!(bytes.len() < CONFIG_BLOCK, "a nonce is short");
    bytes.resize(CONFIG_BLOCK, b'\n');
    bytes.extend_from_slice(agent);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_json_and_the_program_follows_it() {
        let image = image("abc", b"\x7fELF and more");
        assert_eq!(image.len() % SECTOR, 0);
        let config: serde_json::Value = serde_json::from_slice(&image[..CONFIG_BLOCK]).unwrap();
        assert_eq!(config, json!({ "nonce": "abc", "mode": "guest" }));
        assert!(image[CONFIG_BLOCK..].starts_with(b"\x7fELF and more\0"));
    }
}
