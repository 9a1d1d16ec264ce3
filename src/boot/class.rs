//! What kept a guest from coming up, told from its console.

use crate::machine::Exit;
use std::fmt;

/// Why a boot failed, as far as the console shows it.
///
/// `tests/vm/classes.rs` breaks a real guest for each.
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

/// What a console says that tells the class.
struct Sign {
    class: Class,
    /// Nothing good comes after it, so that nobody has to wait for the limit.
    last: bool,
    /// Parts of lines, of which one is enough.
    words: &'static [&'static str],
}

const fn last(class: Class, words: &'static [&'static str]) -> Sign {
    Sign { class, last: true, words }
}

/// The guest may get over it; if it does not, it was this.
const fn hint(class: Class, words: &'static [&'static str]) -> Sign {
    Sign { class, last: false, words }
}

/// Words of firmwares, boot loaders, kernels, initramfs-tools, dracut and systemd. The first that is
/// found decides: a panic or a shell is the last thing that is seen, what led to it stands before it.
const SIGNS: &[Sign] = &[
    last(
        Class::NoBootEntry,
        &[
            // SeaBIOS
            "No bootable device.",
            // OVMF, with and without a shell in it
            "BdsDxe: No bootable option or device was found",
            UEFI_SHELL,
            // GRUB, without its modules or without its configuration
            "Entering rescue mode...",
            "grub rescue>",
            "Minimal BASH-like line editing is supported",
            GRUB_SHELL,
        ],
    ),
    last(
        Class::OutOfMemory,
        &[
            "System is deadlocked on memory",
            "Out of memory and no killable processes",
            // GRUB
            "error: out of memory.",
        ],
    ),
    hint(Class::OutOfMemory, &["Initramfs unpacking failed: write error", "Out of memory: Killed process"]),
    last(
        Class::NoRootDevice,
        &[
            // initramfs-tools
            "Gave up waiting for root file system device",
            "Gave up waiting for root device",
            "Unable to mount root fs",
        ],
    ),
    hint(Class::NoRootDevice, &["Cannot open root device", "dracut-initqueue timeout"]),
    hint(Class::DiskFull, &["No space left on device"]),
    last(
        Class::InitMissing,
        &["No working init found", "Attempted to kill init", "No init found. Try passing init="],
    ),
    last(Class::KernelPanic, &["Kernel panic - not syncing"]),
    last(
        Class::EmergencyShell,
        &[
            "You are in emergency mode",
            "You are in rescue mode",
            "Cannot open access to console, the root account is locked",
            // dracut
            "Entering emergency mode. Exit the shell to continue.",
            "Press Enter for emergency shell",
            // initramfs-tools
            "(initramfs)",
        ],
    ),
    // initramfs-tools, which then takes another init or a shell.
    hint(Class::InitMissing, &["Target filesystem doesn't have requested"]),
    last(
        Class::AgentNotStarted,
        &[
            "no disk has the serial kiln-agent",
            "the agent on /dev/",
            "no virtio-serial port is named kiln.agent",
            "kiln-agent.service: Failed",
        ],
    ),
];

/// The prompt of the shell in UEFI firmware, which is a line of its own. What it says before may still
/// end in `startup.nsh`.
const UEFI_SHELL: &str = "Shell>";

/// The same of GRUB: in a menu's entry or a message it is no prompt.
const GRUB_SHELL: &str = "grub>";

fn says(line: &str, word: &str) -> bool {
    match word {
        UEFI_SHELL | GRUB_SHELL => line.trim() == word,
        // Of watches on files the kernel says that no space is left on a device.
        _ => line.contains(word) && !line.contains("inotify"),
    }
}

impl Sign {
    fn is_in(&self, console: &[String]) -> bool {
        console.iter().any(|line| self.words.iter().any(|word| says(line, word)))
    }
}

impl Class {
    /// From the console's lines and, if the machine has ended, how.
    pub fn of(console: &[String], exit: Option<&Exit>) -> Class {
        match exit {
            Some(Exit::HostDisk { .. }) => return Class::HostDisk,
            Some(Exit::Crashed { .. }) => return Class::QemuFailed,
            _ => {}
        }
        if let Some(sign) = SIGNS.iter().find(|sign| sign.is_in(console)) {
            return sign.class;
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

    /// The line that the class is told from, where one tells it.
    pub fn sign(console: &[String]) -> Option<&str> {
        let sign = SIGNS.iter().find(|sign| sign.is_in(console))?;
        console.iter().rev().find(|line| sign.is_in(std::slice::from_ref(*line))).map(String::as_str)
    }

    /// Whether the console shows that the boot cannot succeed any more, though the machine still runs.
    pub fn is_decided(console: &[String]) -> bool {
        SIGNS.iter().any(|sign| sign.last && sign.is_in(console))
    }

    /// For programs: `class` in failures.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::NoBootEntry => "no-boot-entry",
            Class::NoRootDevice => "no-root-device",
            Class::InitMissing => "init-missing",
            Class::OutOfMemory => "out-of-memory",
            Class::DiskFull => "disk-full",
            Class::KernelPanic => "kernel-panic",
            Class::EmergencyShell => "emergency-shell",
            Class::AgentNotStarted => "agent-not-started",
            Class::FirmwareLoop => "firmware-loop",
            Class::RebootUnasked => "reboot-unasked",
            Class::HostDisk => "host-disk",
            Class::QemuFailed => "qemu-failed",
            Class::Unknown => "unknown",
        }
    }

    pub fn hint(self) -> &'static str {
        match self {
            Class::NoBootEntry => {
                "The disk has no boot loader for this firmware: see `kiln base inspect`, or choose another firmware."
            }
            Class::NoRootDevice => {
                "The kernel command line names a root that is not there: check root= in the disk's boot loader."
            }
            Class::InitMissing => {
                "The root file system has no working init: check init= in the disk's boot loader, and /sbin/init."
            }
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
            Class::FirmwareLoop => {
                "Neither kernel nor console says why: the boot loader may be for another firmware (`kiln base inspect`) or CPU."
            }
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
            Class::NoBootEntry => "firmware and boot loader found nothing to boot",
            Class::NoRootDevice => "the root file system was not found",
            Class::InitMissing => "the init is missing or ended",
            Class::OutOfMemory => "the guest ran out of memory",
            Class::DiskFull => "the guest's disk is full",
            Class::KernelPanic => "the guest's kernel panicked",
            Class::EmergencyShell => "the boot ended in an emergency shell",
            Class::AgentNotStarted => "the guest came up, kiln's agent in it did not",
            Class::FirmwareLoop => "firmware or boot loader reset the machine",
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
    fn only_what_nobody_gets_over_ends_the_wait() {
        let decided = |text: &str| Class::is_decided(&[text.to_owned()]);
        assert!(decided("[    1.2] Kernel panic - not syncing: Fatal exception") && decided("Shell> "));
        assert!(
            decided("   Minimal BASH-like line editing is supported. For the first word")
                && decided("grub> ")
        );
        for goes_on in [
            "press c for grub> ",
            "dd: No space left on device",
            "Target filesystem doesn't have requested /init.",
        ] {
            assert!(!decided(goes_on), "{goes_on}");
        }
    }

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
        assert_eq!(class("Shell> fs0:", None), Class::Unknown, "a startup.nsh may still boot");
        assert_eq!(class("inotify: No space left on device", None), Class::Unknown);
        let full = Exit::HostDisk { reason: "No space left on device".into(), no_space: true };
        assert_eq!(class("sh: write error: No space left on device", Some(&full)), Class::HostDisk);
        assert_eq!(class("sh: write error: No space left on device", None), Class::DiskFull);
    }
}
