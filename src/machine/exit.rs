//! How a machine ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use super::qmp::{Ending, HostDisk};
use crate::model::{Failure, FailureKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest reset itself: a reboot, a triple fault.
    GuestReset,
    /// The guest powered off.
    GuestShutdown,
    /// QEMU was told to quit.
    HostQuit,
    /// The guest's kernel panicked and said so.
    Panicked,
    /// The host could not read or write the machine's disk; kiln killed it.
    HostDisk {
        /// The system's words.
        reason: String,
        /// The host's disk is full.
        no_space: bool,
    },
    /// kiln killed it.
    Killed,
    /// It lived longer than its specification allows, and kiln killed it.
    LimitReached(Duration),
    /// QEMU ended by itself, or somebody else ended it.
    Crashed { status: ExitStatus, stderr: String },
}

/// Why kiln ended the process, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    No,
    Killed,
    LimitReached(Duration),
}

impl Exit {
    /// `stopped` wins only where the machine did not come to its own end first.
    pub(super) fn of(ending: &Ending, status: ExitStatus, stopped: Stopped, stderr: String) -> Exit {
        let end = match ending.shutdown.as_deref() {
            _ if ending.panicked => Some(Exit::Panicked),
            Some("guest-panic") => Some(Exit::Panicked),
            Some("guest-reset" | "subsystem-reset") => Some(Exit::GuestReset),
            Some("guest-shutdown") => Some(Exit::GuestShutdown),
            Some("host-qmp-quit") => Some(Exit::HostQuit),
            _ => None,
        };
        let failed = || {
            let HostDisk { reason, no_space } = ending.host_disk.clone()?;
            Some(Exit::HostDisk { reason, no_space })
        };
        end.or_else(failed).unwrap_or(match stopped {
            Stopped::Killed => Exit::Killed,
            Stopped::LimitReached(limit) => Exit::LimitReached(limit),
            Stopped::No => Exit::Crashed { status, stderr },
        })
    }

    /// What kind of failure it is when nobody asked the machine to end: the guest's doing, or this host's.
    pub fn kind(&self) -> FailureKind {
        match self {
            Exit::HostDisk { .. } | Exit::Crashed { .. } => FailureKind::Environment,
            Exit::LimitReached(_) => FailureKind::TimedOut,
            Exit::GuestReset | Exit::GuestShutdown | Exit::HostQuit | Exit::Panicked | Exit::Killed => {
                FailureKind::Build
            }
        }
    }

    /// What to do next when it came unasked, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Exit::GuestReset | Exit::GuestShutdown => Some(
                "If a step of a booted component rebooted or stopped the guest itself: with the Reboot action, or exit code 194, the run goes on afterwards.",
            ),
            Exit::Panicked => Some(
                "The console says what the kernel stumbled over. With too little memory, give the guest more (`kiln: {memory: ...}` in the recipe).",
            ),
            Exit::HostDisk { no_space: true, .. } => Some(
                "Make room on this host where kiln's home folder is, then build again. The guest's own disk is not what is full.",
            ),
            Exit::HostDisk { no_space: false, .. } => {
                Some("Look at the disk of this host (`dmesg` shows its errors), then build again.")
            }
            Exit::Crashed { status, .. } if status.signal() == Some(SIGKILL) => Some(
                "Somebody killed QEMU, or this host's kernel did because memory ran out (`dmesg` tells): free some, or give the guest less memory, then build again.",
            ),
            Exit::Crashed { .. } => Some("`kiln doctor` tries whether machines run on this host."),
            Exit::LimitReached(_) => Some(
                "Something kept it busy for that long; in a build `kiln: {timeouts: {build: ...}}` gives it longer.",
            ),
            Exit::HostQuit | Exit::Killed => None,
        }
    }

    /// The failure of a machine that ended unasked while somebody was `doing` something with it.
    pub fn unasked(&self, doing: &str) -> Failure {
        let failure = Failure::new(self.kind(), format!("{self}, during: {doing}"));
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

const SIGKILL: i32 = 9;

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::GuestReset => f.write_str("the guest rebooted, though kiln did not ask it to"),
            Exit::GuestShutdown => f.write_str("the guest powered off, though kiln did not ask it to"),
            Exit::HostQuit => f.write_str("kiln ended the machine"),
            Exit::Panicked => f.write_str("the guest's kernel panicked"),
            Exit::HostDisk { reason, .. } => {
                write!(f, "this host could not read or write the file of the guest's disk ({reason})")
            }
            Exit::Killed => f.write_str("kiln killed the machine"),
            Exit::LimitReached(limit) => {
                write!(f, "the machine reached its limit of {} s and was killed", limit.as_secs())
            }
            Exit::Crashed { status, stderr } if stderr.trim().is_empty() => {
                write!(f, "QEMU ended unasked ({status}) and said nothing")
            }
            Exit::Crashed { status, stderr } => write!(f, "QEMU ended unasked ({status}): {}", stderr.trim()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_end_wins() {
        let exit = |reason: Option<&str>, panicked, stopped| {
            let ending = Ending { shutdown: reason.map(str::to_owned), panicked, ..Ending::default() };
            Exit::of(&ending, ExitStatus::from_raw(9), stopped, "oops".into())
        };
        let limit = Stopped::LimitReached(Duration::from_secs(1));
        assert_eq!(exit(Some("guest-reset"), false, Stopped::No), Exit::GuestReset);
        assert_eq!(exit(Some("guest-shutdown"), false, Stopped::Killed), Exit::GuestShutdown);
        assert_eq!(exit(Some("host-qmp-quit"), false, Stopped::No), Exit::HostQuit);
        assert_eq!(exit(Some("guest-panic"), false, Stopped::No), Exit::Panicked);
        assert_eq!(exit(None, true, Stopped::Killed), Exit::Panicked);
        assert_eq!(exit(Some("host-signal"), false, Stopped::Killed), Exit::Killed);
        assert_eq!(exit(None, false, limit), Exit::LimitReached(Duration::from_secs(1)));
        let crashed = exit(Some("host-signal"), false, Stopped::No);
        assert!(
            crashed.to_string().contains("signal: 9") && crashed.to_string().ends_with("oops"),
            "{crashed}"
        );
    }
}
