//! Why a machine does not start or obey, with QEMU's own words put in plain ones.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::firmware::FirmwareMissing;
use super::qemu::Qemu;
use super::qmp::QmpError;
use super::spec::SpecError;
use crate::model::{Architecture, Failure, FailureKind};
use crate::support::command::CommandError;
use crate::support::wait::Impatience;

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("`{}` is not installed, or not on the PATH", Qemu::program_name(*architecture))]
    QemuMissing { architecture: Architecture },
    #[error("{} does not say which version of QEMU it is, but `{said}`", program.display())]
    QemuUnknown { program: PathBuf, said: String },
    #[error(transparent)]
    Tool(#[from] CommandError),
    #[error(transparent)]
    Firmware(#[from] FirmwareMissing),
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the system refused kiln a process or a socket for the machine")]
    System(#[source] io::Error),
    #[error("the disk {image} is in use by another machine")]
    DiskLocked { image: String },
    #[error("the port is already in use on this host: {rule}")]
    PortInUse { rule: String },
    #[error("this user may not use /dev/kvm, or there is none: {stderr}")]
    KvmDenied { stderr: String },
    #[error("the host has not enough free memory for this machine: {stderr}")]
    NoMemory { stderr: String },
    #[error("QEMU did not start ({status}): {stderr}")]
    NotStarted { status: ExitStatus, stderr: String },
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("the machine's memory could not be saved: {0}")]
    NotSaved(String),
    #[error("the saved memory cannot be gone on from: {0}")]
    NotRestored(String),
    #[error("the screenshot is not one: {0}")]
    Screenshot(String),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

impl MachineError {
    /// What QEMU meant when it ended before the machine ran.
    pub(super) fn from_stderr(status: ExitStatus, stderr: &str) -> MachineError {
        let stderr = stderr.trim().to_owned();
        let between = |from: &str, to: &str| {
            let rest = stderr.split_once(from)?.1;
            Some(rest.split_once(to)?.0.to_owned())
        };
        if stderr.contains("\" lock") {
            let image = between("using the image [", "]").unwrap_or_else(|| "of this machine".into());
            return MachineError::DiskLocked { image };
        }
        if let Some(rule) = between("host forwarding rule '", "'") {
            return MachineError::PortInUse { rule };
        }
        if stderr.contains("KVM kernel module") || stderr.contains("failed to initialize kvm") {
            return MachineError::KvmDenied { stderr };
        }
        if stderr.contains("cannot set up guest memory") {
            return MachineError::NoMemory { stderr };
        }
        MachineError::NotStarted { status, stderr }
    }

    pub fn kind(&self) -> FailureKind {
        match self {
            MachineError::Spec(_) => FailureKind::Input,
            MachineError::DiskLocked { .. } | MachineError::PortInUse { .. } => FailureKind::Conflict,
            MachineError::Impatience(i) | MachineError::Qmp(QmpError::Impatience(i)) => i.into(),
            MachineError::Tool(CommandError::Stopped { source, .. }) => source.into(),
            MachineError::QemuMissing { .. }
            | MachineError::QemuUnknown { .. }
            | MachineError::Tool(_)
            | MachineError::Firmware(_)
            | MachineError::File { .. }
            | MachineError::System(_)
            | MachineError::KvmDenied { .. }
            | MachineError::NoMemory { .. }
            | MachineError::NotSaved(_)
            | MachineError::NotRestored(_)
            | MachineError::NotStarted { .. } => FailureKind::Environment,
            MachineError::Qmp(_) | MachineError::Screenshot(_) => FailureKind::Build,
        }
    }

    /// What to do next, where that can be said.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            MachineError::QemuMissing { architecture: Architecture::X86_64 } => {
                "Install it: `apt install qemu-system-x86` (Debian, Ubuntu) or `dnf install qemu-system-x86-core` (Fedora)."
            }
            MachineError::QemuMissing { architecture: Architecture::Aarch64 } => {
                "Install it: `apt install qemu-system-arm` (Debian, Ubuntu) or `dnf install qemu-system-aarch64-core` (Fedora)."
            }
            MachineError::Firmware(missing) => return Some(missing.hint()),
            MachineError::DiskLocked { .. } => {
                "Wait for the other machine, or end it; `fuser FILE` names its process."
            }
            MachineError::PortInUse { .. } => "Choose another port of the host, or end what listens there.",
            MachineError::KvmDenied { .. } => "`kiln doctor` says what is missing and how to get it.",
            MachineError::NotStarted { .. } => "`kiln doctor` tries QEMU on this host.",
            MachineError::NoMemory { .. } => "Give the machine less memory, or end other programs.",
            _ => return None,
        };
        Some(hint.into())
    }

    pub fn failure(&self) -> Failure {
        let failure = Failure::from_error(self.kind(), self);
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn qemus_words_are_translated() {
        let say = |stderr: &str| MachineError::from_stderr(ExitStatus::from_raw(256), stderr);
        let locked = "qemu-system-x86_64: -blockdev {...}: Failed to get \"write\" lock\n\
                      Is another process using the image [/b/overlay.qcow2]?";
        assert_eq!(say(locked).to_string(), "the disk /b/overlay.qcow2 is in use by another machine");
        let port =
            "qemu-system-x86_64: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'";
        assert!(say(port).to_string().ends_with("tcp:127.0.0.1:80-:80"));
        assert_eq!(say(port).kind(), FailureKind::Conflict);
        let kvm = "Could not access KVM kernel module: Permission denied\nqemu-system-x86_64: failed to initialize kvm";
        assert!(say(kvm).failure().hints[0].contains("kiln doctor"));
        assert!(say("qemu: whatever").to_string().ends_with("(exit status: 1): qemu: whatever"));
    }
}
