//! What kept a guest from coming up, told from its console.

use crate::machine::Exit;
use std::fmt;

/// Why a boot failed, as far as the console shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    NoBootEntry,
    NoRootDevice,
    InitMissing,
    OutOfMemory,
    DiskFull,
    KernelPanic,
    EmergencyShell,
    AgentNotStarted,
    FirmwareLoop,
    RebootUnasked,
    HostDisk,
    QemuFailed,
    /// Nothing on the console tells.
    Unknown,
}

/// Words of firmwares, boot loaders, kernels, initramfs and systemd. The first that is found decides:
/// a panic is the last thing that is said, what led to it stands before it.
const SIGNS: &[(Class, &[&str])] = &[
    (
        Class::NoBootEntry,
        &[
            "No bootable device",
            "Boot failed: not a bootable disk",
            "Boot failed: could not read the boot disk",
            "No bootable option or device was found",
            "error: no such partition",
            "Entering rescue mode",
        ],
    ),
    (
        Class::OutOfMemory,
        &["System is deadlocked on memory", "Out of memory and no killable processes", "out of memory."],
    ),
    (
        Class::NoRootDevice,
        &[
            "Gave up waiting for root file system device",
            "Gave up waiting for root device",
            "Unable to mount root fs",
            "Cannot open root device",
        ],
    ),
    (
        Class::InitMissing,
        &[
            "No working init found",
            "Attempted to kill init",
            "Target filesystem doesn't have requested",
            "No init found. Try passing init=",
        ],
    ),
    (Class::DiskFull, &["No space left on device"]),
    (Class::KernelPanic, &["Kernel panic - not syncing", "end Kernel panic"]),
    (
        Class::EmergencyShell,
        &[
            "You are in emergency mode",
            "You are in rescue mode",
            "Cannot open access to console, the root account is locked",
            "(initramfs)",
        ],
    ),
    (
        Class::AgentNotStarted,
        &[
            "no disk has the serial kiln-agent",
            "the agent on /dev/",
            "no virtio-serial port is named kiln.agent",
            "kiln-agent.service: Failed",
        ],
    ),
];

/// Signs after which nothing good comes any more, so that nobody has to wait for the limit.
const FINAL: &[Class] = &[
    Class::NoBootEntry,
    Class::OutOfMemory,
    Class::NoRootDevice,
    Class::InitMissing,
    Class::KernelPanic,
    Class::EmergencyShell,
    Class::AgentNotStarted,
];

impl Class {
    /// From the console's lines and, if the machine has ended, how.
    pub fn of(console: &[String], exit: Option<&Exit>) -> Class {
        match exit {
            Some(Exit::HostDisk { .. }) => return Class::HostDisk,
            Some(Exit::Crashed { .. }) => return Class::QemuFailed,
            _ => {}
        }
        let said = |signs: &[&str]| console.iter().any(|line| signs.iter().any(|s| line.contains(s)));
        if let Some((class, _)) = SIGNS.iter().find(|(_, signs)| said(signs)) {
            return *class;
        }
        match exit {
            Some(Exit::Panicked) => Class::KernelPanic,
            Some(Exit::GuestReset)
                if console.iter().any(|l| l.contains("systemd[1]") || l.contains("Linux version")) =>
            {
                Class::RebootUnasked
            }
            Some(Exit::GuestReset) => Class::FirmwareLoop,
            _ => Class::Unknown,
        }
    }

    /// A class whose boot cannot succeed any more, though the machine still runs.
    pub fn is_final(self) -> bool {
        FINAL.contains(&self)
    }

    pub fn hint(self) -> &'static str {
        match self {
            Class::NoBootEntry => {
                "The disk has no boot loader for this firmware: see `kiln base inspect`, or choose another firmware."
            }
            Class::NoRootDevice => {
                "The kernel command line names a root that is not there: check root= in the disk's boot loader."
            }
            Class::InitMissing => "The root file system has no working init: check init= and /sbin/init.",
            Class::OutOfMemory => "Give the guest more memory (`kiln: {memory: ...}` in the recipe).",
            Class::DiskFull => "Give the image a larger disk (`blockDeviceMappings`, `volumeSize`).",
            Class::KernelPanic => {
                "The console's last lines say what the kernel stumbled over; the CPU model may be too new or too old for it."
            }
            Class::EmergencyShell => {
                "A mount of /etc/fstab or a unit that the boot needs failed: the console names it."
            }
            Class::AgentNotStarted => {
                "The guest is up, but could not start kiln's agent; the console says why."
            }
            Class::FirmwareLoop => "The firmware gave up and reset the machine; try the other firmware.",
            Class::RebootUnasked => "Something in the guest reboots while it boots.",
            Class::HostDisk => "Look at the disk of this host where kiln's home folder is.",
            Class::QemuFailed => {
                "QEMU's own message is above; `kiln doctor` tries whether machines run on this host."
            }
            Class::Unknown => {
                "The console shows how far it came; a slow host may need a longer `kiln: {timeouts: {boot: ...}}`."
            }
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::NoBootEntry => "the firmware found nothing to boot",
            Class::NoRootDevice => "the root file system was not found",
            Class::InitMissing => "the kernel found no init to start",
            Class::OutOfMemory => "the guest ran out of memory",
            Class::DiskFull => "the guest's disk is full",
            Class::KernelPanic => "the guest's kernel panicked",
            Class::EmergencyShell => "the boot ended in an emergency shell",
            Class::AgentNotStarted => "the guest came up, kiln's agent in it did not",
            Class::FirmwareLoop => "the firmware reset the machine",
            Class::RebootUnasked => "the guest rebooted before its boot was over",
            Class::HostDisk => "this host's disk failed it",
            Class::QemuFailed => "QEMU failed",
            Class::Unknown => "nothing on the console says why",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_wins_over_the_panic_it_leads_to() {
        let class = |text: &str, exit| Class::of(&text.lines().map(str::to_owned).collect::<Vec<_>>(), exit);
        let panic = "VFS: Unable to mount root fs on unknown-block(0,0)\nKernel panic - not syncing: VFS";
        assert_eq!(class(panic, Some(&Exit::GuestReset)), Class::NoRootDevice);
        assert_eq!(class("Kernel panic - not syncing: Fatal exception", None), Class::KernelPanic);
        let gone = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        assert_eq!(class(gone, None), Class::InitMissing);
        assert_eq!(class("Linux version 6.1", Some(&Exit::GuestReset)), Class::RebootUnasked);
        assert_eq!(class("SeaBIOS", Some(&Exit::GuestReset)), Class::FirmwareLoop);
        assert_eq!(class("all is well", None), Class::Unknown);
        let full = Exit::HostDisk { reason: "No space left on device".into(), no_space: true };
        assert_eq!(class("sh: write error: No space left on device", Some(&full)), Class::HostDisk);
        assert_eq!(class("sh: write error: No space left on device", None), Class::DiskFull);
    }
}
