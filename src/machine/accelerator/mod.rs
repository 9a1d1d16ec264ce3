//! Whether this host can really run guests by hardware, and what to do when it cannot.
//!
//! A KVM that opens and makes virtual machines may still hang every ordinary guest (some paravirtual ones
//! do). So the verdict is a guest: 512 bytes that the firmware loads from a disk and that end the machine.

mod cache;
mod guest;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::MachineError;
use super::qemu::Qemu;
use super::spec::Accelerator;
use crate::model::{Architecture, Failure, FailureKind};
use crate::support::wait::Patience;

const NODE: &str = "/dev/kvm";

/// How to go on without KVM.
pub const EMULATE: &str = "To run guests in emulation, about ten times slower: `--accel tcg`, or KILN_ACCEL=tcg in the environment.";

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// KVM where it is usable; nothing else.
    Auto,
    /// KVM, tried anew whatever an earlier trial said.
    Kvm,
    Tcg,
}

/// Why guests cannot be run by hardware here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The guests are of another architecture than the host.
    Foreign { host: Architecture, guest: Architecture },
    /// No /dev/kvm; `capable`: the processor shows that it could.
    NoNode { capable: bool },
    /// The node is there and this user may not use it.
    Denied { group: String },
    /// The node is there and does not open.
    Broken { said: String },
    /// QEMU ends instead of running the trial guest.
    Fails { said: String },
    /// The trial guest runs, and never gets to its end.
    Hangs,
}

/// How the trial guest did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Trial {
    Works,
    Fails(String),
    Hangs,
}

/// How old a trial's result may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The result of any trial since the host's boot, with the same QEMU.
    SinceBoot,
    /// A trial is made now.
    Now,
}

/// None when guests of this architecture can be run by KVM, else why not.
///
/// Remembers the trial guest's result in `home` for as long as the host stays up and QEMU the same.
pub async fn probe(
    architecture: Architecture,
    home: &Path,
    freshness: Freshness,
    patience: &Patience,
) -> Result<Option<Unusable>, MachineError> {
    if let Some(unusable) = access(architecture) {
        return Ok(Some(unusable));
    }
    let qemu = Qemu::find(architecture, patience).await?;
    let key = cache::Key::of(&qemu);
    let known = if freshness == Freshness::SinceBoot { cache::load(home, &key) } else { None };
    let trial = match known {
        Some(trial) => trial,
        None => {
            let trial = guest::run(&qemu, Accelerator::Kvm, home, guest::LIMIT, patience).await?;
            cache::store(home, key, &trial);
            trial
        }
    };
    Ok(match trial {
        Trial::Works => None,
        Trial::Fails(said) => Some(Unusable::Fails { said }),
        Trial::Hangs => Some(Unusable::Hangs),
    })
}

/// Whether QEMU can run the trial guest in emulation: if not, nothing will run here.
pub async fn emulation_works(
    architecture: Architecture,
    home: &Path,
    patience: &Patience,
) -> Result<Result<(), String>, MachineError> {
    let qemu = Qemu::find(architecture, patience).await?;
    Ok(match guest::run(&qemu, Accelerator::Tcg, home, guest::LIMIT, patience).await? {
        Trial::Works => Ok(()),
        Trial::Fails(said) => Err(said),
        Trial::Hangs => Err("it did not come to its end".into()),
    })
}

/// From what the user wants to what guests get, or why there is nothing for it.
pub async fn resolve(
    choice: Choice,
    architecture: Architecture,
    home: &Path,
    patience: &Patience,
) -> Result<Accelerator, Failure> {
    let freshness = match choice {
        Choice::Tcg => return Ok(Accelerator::Tcg),
        Choice::Kvm => Freshness::Now,
        Choice::Auto => Freshness::SinceBoot,
    };
    match probe(architecture, home, freshness, patience).await.map_err(|e| e.failure())? {
        None => Ok(Accelerator::Kvm),
        Some(unusable) => Err(unusable.failure()),
    }
}

/// What can be known without starting anything.
fn access(architecture: Architecture) -> Option<Unusable> {
    if architecture != Architecture::HOST {
        return Some(Unusable::Foreign { host: Architecture::HOST, guest: architecture });
    }
    let error = OpenOptions::new().read(true).write(true).open(NODE).err()?;
    Some(match error.kind() {
        ErrorKind::NotFound => Unusable::NoNode { capable: processor_is_capable() },
        ErrorKind::PermissionDenied => Unusable::Denied { group: group_of_node() },
        _ => Unusable::Broken { said: error.to_string() },
    })
}

fn processor_is_capable() -> bool {
    // aarch64 does not tell in this file; a kernel that could would have made the node.
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|f| f == "vmx" || f == "svm")
}

fn group_of_node() -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let id = std::fs::metadata(NODE).map(|m| m.gid().to_string()).unwrap_or_default();
    let named = groups.lines().find_map(|l| {
        let mut fields = l.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.unwrap_or(id)
}

impl Unusable {
    /// One sentence.
    pub fn explain(&self) -> String {
        match self {
            Unusable::Foreign { host, guest } => {
                format!("KVM runs guests of the host's own architecture only ({guest} on {host})")
            }
            Unusable::NoNode { capable: true } => {
                format!("there is no {NODE}: the processor can, the kernel module is not loaded")
            }
            Unusable::NoNode { capable: false } => {
                format!("there is no {NODE}, and the processor shows no virtualization")
            }
            Unusable::Denied { .. } => format!("this user may not open {NODE}"),
            Unusable::Broken { said } => format!("{NODE} does not open: {said}"),
            Unusable::Fails { said } => {
                format!("{NODE} opens, but QEMU cannot run a guest with it: {said}{}", paravirtual())
            }
            Unusable::Hangs => {
                format!("{NODE} opens, but a trial guest of 512 bytes hangs{}", paravirtual())
            }
        }
    }

    /// What would make KVM usable.
    pub fn cure(&self) -> String {
        match self {
            Unusable::Foreign { guest, .. } => format!("Build on an {guest} host, or in emulation."),
            Unusable::NoNode { capable: true } => {
                "Load it: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`. In a container, pass the node in: `--device /dev/kvm`.".into()
            }
            Unusable::NoNode { capable: false } => {
                "Switch virtualization (VT-x, AMD-V) on in the firmware's settings; if this host is a virtual machine, switch nested virtualization on for it.".into()
            }
            Unusable::Denied { group } if group == "root" => {
                "Give it to a group: `sudo groupadd --system kvm`, the udev rule `KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"`, `sudo usermod -aG kvm $USER`; then log in again.".into()
            }
            Unusable::Denied { group } => {
                format!("Join the group: `sudo usermod -aG {group} $USER`, then log in again.")
            }
            Unusable::Broken { .. } | Unusable::Fails { .. } | Unusable::Hangs => {
                "If this host is a virtual machine, its own host has to give it real nested virtualization; else look at `dmesg` for lines about kvm.".into()
            }
        }
    }

    /// The failure of a command that needs KVM.
    pub fn failure(&self) -> Failure {
        let message = format!("KVM is not usable on this host: {}", self.explain());
        Failure::new(FailureKind::Environment, message).hint(self.cure()).hint(EMULATE)
    }
}

fn paravirtual() -> &'static str {
    if Path::new("/sys/module/kvm_pvm").exists() {
        " (the kernel module kvm_pvm runs only guests made for it)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(60), &CancellationToken::new())
    }

    const FOREIGN: Architecture = match Architecture::HOST {
        Architecture::X86_64 => Architecture::Aarch64,
        Architecture::Aarch64 => Architecture::X86_64,
    };

    #[tokio::test]
    async fn emulation_is_taken_only_when_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let resolve =
            async |choice, architecture| resolve(choice, architecture, home.path(), &patience()).await;
        assert_eq!(resolve(Choice::Tcg, FOREIGN).await.unwrap(), Accelerator::Tcg);
        for choice in [Choice::Auto, Choice::Kvm] {
            let failure = resolve(choice, FOREIGN).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Environment);
            assert!(failure.hints.iter().any(|h| h.contains("--accel tcg")), "{failure:?}");
        }
    }

    /// Asked for by name, KVM is held to what doctor finds, with the cure.
    #[tokio::test]
    async fn kvm_that_is_asked_for_is_tried() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        let found = probe(Architecture::HOST, home.path(), Freshness::Now, &patience()).await.unwrap();
        let resolved = resolve(Choice::Kvm, Architecture::HOST, home.path(), &patience()).await;
        match found {
            None => assert_eq!(resolved.unwrap(), Accelerator::Kvm),
            Some(unusable) => {
                let failure = resolved.unwrap_err();
                assert_eq!(failure.message, unusable.failure().message);
                assert_eq!(failure.hints[0], unusable.cure());
            }
        }
    }

    #[test]
    fn every_reason_has_a_cure() {
        let all = [
            Unusable::Foreign { host: Architecture::HOST, guest: FOREIGN },
            Unusable::NoNode { capable: true },
            Unusable::NoNode { capable: false },
            Unusable::Denied { group: "root".into() },
            Unusable::Denied { group: "kvm".into() },
            Unusable::Broken { said: "x".into() },
            Unusable::Fails { said: "x".into() },
            Unusable::Hangs,
        ];
        let cures: std::collections::BTreeSet<String> = all.iter().map(Unusable::cure).collect();
        assert!(cures.len() >= 6 && cures.iter().all(|c| c.ends_with('.')), "{cures:?}");
        assert!(all.iter().all(|u| !u.explain().is_empty()));
    }

    #[tokio::test]
    async fn every_way_not_to_work_is_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("qemu");
        let version = crate::machine::Version { major: 7, minor: 2, micro: 0 };
        let qemu = Qemu { architecture: Architecture::X86_64, program: program.clone(), version };
        let (soon, late) = (Duration::from_millis(300), Duration::from_secs(60));
        let trial = async |script: &str, limit: Duration, patience: &Patience| {
            // Written by another process: a fork of a neighbouring test must not hold it open for writing.
            let text = format!("#!/bin/sh\n{script}\n");
            let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod +x \"$0\""];
            let mut sh = std::process::Command::new("sh");
            assert!(sh.args(write).arg(&program).arg(text).status().unwrap().success());
            guest::run(&qemu, Accelerator::Kvm, home.path(), limit, patience).await
        };
        assert_eq!(trial("exec sleep 60", soon, &patience()).await.unwrap(), Trial::Hangs);
        assert_eq!(trial("exit 33", late, &patience()).await.unwrap(), Trial::Works);
        let early = trial("exit 0", late, &patience()).await.unwrap();
        assert!(matches!(early, Trial::Fails(_)), "{early:?}");
        let said = "echo x >&2; echo 'error: no MSR' >&2; echo y >&2; kill -ABRT $$";
        let said = trial(said, late, &patience()).await;
        assert_eq!(said.unwrap(), Trial::Fails("error: no MSR".into()));
        // The caller's own end is no verdict.
        let short = patience().at_most(Duration::from_millis(100));
        trial("exec sleep 60", late, &short).await.unwrap_err();
    }

    #[tokio::test]
    async fn the_trial_guest_tells_a_host_that_works() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(emulation_works(Architecture::HOST, home.path(), &patience()).await.unwrap(), Ok(()));
        assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }
}
