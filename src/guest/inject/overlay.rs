//! The launcher as files appended to the disk's own initramfs (initramfs-tools).
//!
//! The kernel unpacks one archive after the other, so what is appended adds to
//! what the disk has. initramfs-tools reads `conf/conf.d/*` before /run exists
//! and before its own functions are known: all that can be done there is to add
//! a line to the list of what runs last. Then /run is there, moves into the real
//! root as it is, and systemd finds the unit in it when it computes its first
//! transaction. The smallest of these initramfs have no cp and no chmod.

use super::cpio::Archive;
use super::launcher::{SCRIPT_PATH, UNIT, UNIT_PATH, script, unit};

const HOOK: &str = "kiln/hook";

/// `initrd` with kiln's files appended.
pub fn append(initrd: &[u8]) -> Vec<u8> {
    let files = archive();
    let mut bytes = Vec::with_capacity(initrd.len() + files.len() + 4);
    bytes.extend_from_slice(initrd);
    // Archives begin at multiples of 4; zeros between them are skipped.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(&files);
    bytes
}

fn archive() -> Vec<u8> {
    let order = "/scripts/init-bottom/ORDER";
    let mut archive = Archive::new();
    for folder in ["conf", "conf/conf.d", "kiln"] {
        archive.folder(folder);
    }
    archive.file("conf/conf.d/zz-kiln", 0o644, format!("echo '. /{HOOK}' >> {order}\n").as_bytes());
    archive.file(HOOK, 0o644, hook().as_bytes());
    archive.file("kiln/launch", 0o644, script().as_bytes());
    archive.file("kiln/unit", 0o644, unit().as_bytes());
    archive.finish()
}

fn hook() -> String {
    let wants = "/run/systemd/system/sysinit.target.wants";
    format!(
        "mkdir -p /run/kiln {wants}\n\
         cat /kiln/launch > {SCRIPT_PATH}\n\
         cat /kiln/unit > {UNIT_PATH}\n\
         ln -s ../{UNIT} {wants}/{UNIT}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_and_the_rest_is_aligned() {
        let bytes = append(b"12345");
        assert!(bytes.starts_with(b"12345\x00\x00\x00070701"));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(append(b"1234")[4..10], *b"070701");
    }
}
