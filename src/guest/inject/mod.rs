//! What goes into a machine from outside so that its guest starts kiln's agent, for one boot.
//!
//! The agent itself comes on a read-only disk of its own ([`agent_disk`]), with
//! the nonce of this boot beside it. What a [`Route`] carries is only a small
//! launcher, the same for all, that copies the agent from that disk into memory
//! and runs it. So nothing that a guest may keep (cloud-init's state, a journal)
//! ever contains the agent's bytes or the nonce.
//!
//! Everything here is a pure function from a description to bytes.

pub mod agent_disk;
pub mod cpio;
mod launcher;
pub mod overlay;
pub mod seed;
pub mod smbios;

use std::fmt;

/// The way by which the launcher gets into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// cloud-init's NoCloud seed, on a disk labelled CIDATA.
    Seed,
    /// systemd's credentials in SMBIOS strings (systemd 252 or newer, x86_64 and aarch64).
    Smbios,
    /// Files appended to the disk's own initramfs, with the kernel started directly.
    Overlay,
}

impl Route {
    pub fn as_str(self) -> &'static str {
        match self {
            Route::Seed => "seed",
            Route::Smbios => "smbios",
            Route::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
