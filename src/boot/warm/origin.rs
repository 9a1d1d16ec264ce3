//! What a warm state is of: a pure function of everything that a guest's memory depends on.

use kiln_protocol::VERSION;
use sha2::{Digest, Sha256};

use crate::appliance::warm::{Identity, hex};
use crate::boot::Start;
use crate::machine::{Accelerator, Interface, Network};
use crate::model::Architecture;

/// Raised when kiln boots guests in another way, or keeps states in another form.
const GENERATION: u32 = 1;

/// A disk and the machine that it is booted in.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// Digest of the disk file that the guest's own overlay stands on, in hex.
    pub disk: &'a str,
    /// Bytes that the guest sees of it.
    pub size: u64,
    pub architecture: Architecture,
    pub accelerator: Accelerator,
    pub cpu: &'a str,
    /// See [`crate::appliance::warm::host_cpu`].
    pub host_cpu: Option<String>,
    pub vcpus: u32,
    /// MiB.
    pub memory: u64,
    pub interface: Interface,
    pub network: &'a Network,
    pub start: Start,
    /// See `Qemu::stamp`.
    pub qemu: &'a str,
    /// The agent's own bytes.
    pub agent: &'a [u8],
}

impl Origin<'_> {
    pub fn identity(&self) -> Identity {
        let start = match self.start {
            Start::Fast => "fast",
            Start::Real(firmware) => firmware.as_str(),
        };
        let interface = match self.interface {
            Interface::Virtio => "virtio",
            Interface::Nvme => "nvme",
        };
        let parts = [
            ("generation", GENERATION.to_string()),
            ("disk", self.disk.into()),
            ("size", self.size.to_string()),
            ("architecture", self.architecture.to_string()),
            ("accelerator", self.accelerator.to_string()),
            ("cpu", self.cpu.into()),
            ("hostCpu", self.host_cpu.clone().unwrap_or_default()),
            ("vcpus", self.vcpus.to_string()),
            ("memory", self.memory.to_string()),
            ("interface", interface.into()),
            ("network", network(self.network)),
            ("start", start.into()),
            ("qemu", self.qemu.into()),
            ("agent", hex(&Sha256::digest(self.agent))),
            ("protocol", VERSION.to_string()),
        ];
        Identity::of(parts.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

fn network(network: &Network) -> String {
    match network {
        Network::None => "none".into(),
        Network::User { restricted, forwards } => {
            let forwards: Vec<String> =
                forwards.iter().map(|f| format!(" {}:{}:{}", f.host, f.host_port, f.guest_port)).collect();
            format!("user {restricted}{}", forwards.concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Forward;
    use crate::model::Firmware;

    static USER: Network = Network::User { restricted: false, forwards: Vec::new() };

    fn origin() -> Origin<'static> {
        Origin {
            disk: "d",
            size: 1,
            architecture: Architecture::X86_64,
            accelerator: Accelerator::Tcg,
            cpu: "max",
            host_cpu: None,
            vcpus: 1,
            memory: 1024,
            interface: Interface::Virtio,
            network: &USER,
            start: Start::Fast,
            qemu: "7.2.22",
            agent: b"agent",
        }
    }

    #[test]
    fn whatever_a_memory_depends_on_is_in_its_name() {
        let same = origin().identity();
        assert_eq!(origin().identity(), same);
        assert_eq!(Identity::of(same.parts.clone()), same);
        let restricted = Network::User { restricted: true, forwards: Vec::new() };
        let forwarding = Network::User { restricted: false, forwards: vec![Forward::local(1, 2)] };
        let others = [
            Origin { disk: "e", ..origin() },
            Origin { size: 2, ..origin() },
            Origin { architecture: Architecture::Aarch64, ..origin() },
            Origin { accelerator: Accelerator::Kvm, ..origin() },
            Origin { cpu: "max,-cx16", ..origin() },
            Origin { host_cpu: Some("a".into()), ..origin() },
            Origin { vcpus: 2, ..origin() },
            Origin { memory: 1025, ..origin() },
            Origin { interface: Interface::Nvme, ..origin() },
            Origin { network: &Network::None, ..origin() },
            Origin { network: &restricted, ..origin() },
            Origin { network: &forwarding, ..origin() },
            Origin { start: Start::Real(Firmware::Bios), ..origin() },
            Origin { start: Start::Real(Firmware::Uefi), ..origin() },
            Origin { qemu: "7.2.23", ..origin() },
            Origin { agent: b"other", ..origin() },
        ];
        let mut names: Vec<String> = others.iter().map(|o| o.identity().digest).collect();
        names.push(same.digest);
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "each of them has a name of its own");
    }
}
