//! The launcher as a systemd credential in an SMBIOS string (type 11).
//!
//! systemd 252 is the first that imports such strings, and the only credential
//! of it that can write files is `tmpfiles.extra`. It is read when the boot's
//! transaction is already computed, so files alone start nothing. What starts
//! the unit is the agent's port: as a device unit it may want others, which
//! systemd looks up when the device appears. So the port is made to appear
//! again, by events that the kernel sends on request.

use super::launcher::{SCRIPT_PATH, UNIT, UNIT_PATH, script, unit};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use kiln_protocol::PORT_NAME;

/// Name of the credential.
pub const NAME: &str = "tmpfiles.extra";

/// Value of the credential.
pub fn value() -> Vec<u8> {
    tmpfiles().into_bytes()
}

/// tmpfiles.d lines. In a path `\\` stands for one backslash, and `~` takes the content as base64.
fn tmpfiles() -> String {
    // `-` in the port's path below /dev is escaped in the name of its unit.
    let device = format!("dev-virtio\\\\x2dports-{PORT_NAME}.device");
    let events = "/sys/class/virtio-ports/vport*/uevent";
    format!(
        "f+~ {SCRIPT_PATH} 0600 root root - {}\n\
         f+~ {UNIT_PATH} 0644 root root - {}\n\
         L+ /run/systemd/system/{device}.wants/{UNIT} - - - - ../{UNIT}\n\
         w+ {events} - - - - remove\n\
         w+ {events} - - - - add\n",
        BASE64.encode(script().as_bytes()),
        BASE64.encode(unit().as_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_and_no_word_that_ends_early() {
        let text = tmpfiles();
        assert_eq!(text.lines().count(), 5);
        // `%` would begin a specifier of tmpfiles.d.
        assert!(
            text.bytes().all(|b| (b.is_ascii_graphic() || b == b' ' || b == b'\n') && b != b'%'),
            "{text}"
        );
    }
}
