//! What a machine is to be. How QEMU is told so is [`super::argv`]'s business.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Architecture, DiskFormat, Firmware};

/// Linux on both architectures takes no longer command line, in bytes.
const COMMAND_LINE_LIMIT: usize = 2047;
/// The bus has 32 places; kiln's own devices take some.
const DISK_LIMIT: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// For people who look at a process list: letters, digits, `-`, `_`, `.`.
    pub name: String,
    pub architecture: Architecture,
    pub accelerator: Accelerator,
    /// QEMU's name of a CPU model with its features; None takes [`super::default_cpu`].
    pub cpu: Option<String>,
    pub vcpus: u32,
    pub memory_mib: u32,
    /// Bios on aarch64 means no firmware at all, which needs a kernel.
    pub firmware: Firmware,
    pub kernel: Option<DirectKernel>,
    /// The machine boots from the first, and from no other.
    pub disks: Vec<Disk>,
    pub network: Network,
    /// Handed to systemd in the guest (252 or later) by SMBIOS strings; on aarch64 only with Uefi.
    pub credentials: Vec<Credential>,
    /// Whether there is a graphics card, and so something to take a screenshot of.
    pub screen: bool,
    /// The machine is killed when it lives longer than this.
    pub limit: Duration,
}

/// A kernel that QEMU loads itself, without a boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub read_only: bool,
    pub interface: Interface,
    /// At most 20 letters, digits, `-`, `_`; the guest sees it in /dev/disk/by-id.
    pub serial: Option<String>,
    pub cache: Cache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Virtio,
    /// Errors of the host's disk reach the guest as errors of its own.
    Nvme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// What the guest flushes is on the host's disk.
    Safe,
    /// Flushes are ignored: for disks that are thrown away when the host crashes.
    Unsafe,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    None,
    /// QEMU's own network behind the host; `restricted` leaves only the forwards.
    User {
        restricted: bool,
        forwards: Vec<Forward>,
    },
}

/// A TCP port of the host that leads to one of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    pub host: IpAddr,
    pub host_port: u16,
    pub guest_port: u16,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Letters, digits, `-`, `_`, `.`.
    pub name: String,
    pub value: Vec<u8>,
}

/// A specification that no machine can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine {name} cannot be: {problem}")]
pub struct SpecError {
    pub name: String,
    pub problem: String,
}

impl MachineSpec {
    /// One virtual CPU, 1 GiB, no disk, no network, no screen, an hour to live.
    pub fn new(name: impl Into<String>, architecture: Architecture, accelerator: Accelerator) -> MachineSpec {
        MachineSpec {
            name: name.into(),
            architecture,
            accelerator,
            cpu: None,
            vcpus: 1,
            memory_mib: 1024,
            firmware: match architecture {
                Architecture::X86_64 => Firmware::Bios,
                Architecture::Aarch64 => Firmware::Uefi,
            },
            kernel: None,
            disks: Vec::new(),
            network: Network::None,
            credentials: Vec::new(),
            screen: false,
            limit: Duration::from_secs(3600),
        }
    }

    /// Whether the machine begins in UEFI firmware.
    pub fn has_uefi(&self) -> bool {
        self.firmware == Firmware::Uefi
    }

    pub fn check(&self) -> Result<(), SpecError> {
        match self.problem() {
            Some(problem) => Err(SpecError { name: self.name.clone(), problem }),
            None => Ok(()),
        }
    }

    fn problem(&self) -> Option<String> {
        let arm = self.architecture == Architecture::Aarch64;
        if !is_word(&self.name, 64) {
            return Some("its name needs 1 to 64 letters, digits, `-`, `_` or `.`".into());
        }
        if self.vcpus == 0 || self.vcpus > 255 {
            return Some(format!("{} virtual CPUs; 1 to 255 are possible", self.vcpus));
        }
        if self.memory_mib < 16 {
            return Some(format!("{} MiB of memory; at least 16 are needed", self.memory_mib));
        }
        if arm && self.firmware == Firmware::Bios && self.kernel.is_none() {
            return Some("aarch64 has no BIOS: it needs UEFI or a kernel".into());
        }
        if arm && self.firmware == Firmware::Bios && !self.credentials.is_empty() {
            return Some("aarch64 shows SMBIOS credentials only under UEFI".into());
        }
        if let Some(bad) = self.cpu.as_deref().filter(|c| !is_cpu(c)) {
            return Some(format!("`{bad}` is no CPU model"));
        }
        if let Some(kernel) = self.kernel.as_ref().filter(|k| !is_command_line(&k.command_line)) {
            let n = kernel.command_line.len();
            return Some(format!(
                "kernel command line of {n} bytes; one line of {COMMAND_LINE_LIMIT} is the limit"
            ));
        }
        if let Some(c) = self.credentials.iter().find(|c| !is_word(&c.name, 255)) {
            return Some(format!("credential name `{}`: letters, digits, `-`, `_`, `.` only", c.name));
        }
        if let Network::User { forwards, .. } = &self.network {
            let mut seen = BTreeSet::new();
            if let Some(f) = forwards.iter().find(|f| !seen.insert((f.host, f.host_port))) {
                return Some(format!("port {} of the host is forwarded twice", f.host_port));
            }
        }
        self.disk_problem().or_else(|| self.path_problem())
    }

    fn disk_problem(&self) -> Option<String> {
        if self.disks.len() > DISK_LIMIT {
            return Some(format!("{} disks; {DISK_LIMIT} are possible", self.disks.len()));
        }
        let mut serials = BTreeSet::new();
        for serial in self.disks.iter().filter_map(|d| d.serial.as_deref()) {
            if !is_word(serial, 20) {
                return Some(format!("disk serial `{serial}`: 1 to 20 letters, digits, `-`, `_`, `.`"));
            }
            if !serials.insert(serial) {
                return Some(format!("two disks have the serial `{serial}`"));
            }
        }
        None
    }

    fn path_problem(&self) -> Option<String> {
        let kernel = self.kernel.iter().flat_map(|k| std::iter::once(&k.kernel).chain(&k.initrd));
        self.disks.iter().map(|d| &d.path).chain(kernel).find_map(|path| path_problem(path))
    }
}

impl Disk {
    /// A virtio disk to write on, whose writes are safe.
    pub fn new(path: impl Into<PathBuf>, format: DiskFormat) -> Disk {
        Disk {
            path: path.into(),
            format,
            read_only: false,
            interface: Interface::Virtio,
            serial: None,
            cache: Cache::Safe,
        }
    }

    pub fn read_only(mut self) -> Disk {
        self.read_only = true;
        self
    }

    pub fn serial(mut self, serial: impl Into<String>) -> Disk {
        self.serial = Some(serial.into());
        self
    }

    pub fn cache(mut self, cache: Cache) -> Disk {
        self.cache = cache;
        self
    }

    pub fn interface(mut self, interface: Interface) -> Disk {
        self.interface = interface;
        self
    }
}

impl Forward {
    /// Reachable from this host only.
    pub fn local(host_port: u16, guest_port: u16) -> Forward {
        Forward { host: IpAddr::V4(Ipv4Addr::LOCALHOST), host_port, guest_port }
    }
}

impl Accelerator {
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, {} bytes)", self.name, self.value.len())
    }
}

fn is_word(text: &str, longest: usize) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    (1..=longest).contains(&text.len()) && text.bytes().all(plain)
}

fn is_cpu(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.,=+".contains(&c))
}

fn is_command_line(text: &str) -> bool {
    text.len() <= COMMAND_LINE_LIMIT && !text.contains(['\n', '\0'])
}

pub(super) fn path_problem(path: &Path) -> Option<String> {
    match path.to_str() {
        None => Some(format!("QEMU takes only paths in UTF-8: {}", path.display())),
        Some(_) if !path.is_absolute() => Some(format!("{} is not an absolute path", path.display())),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec::new("m", Architecture::X86_64, Accelerator::Tcg)
    }

    #[test]
    fn what_cannot_be_is_said() {
        let disk = || Disk::new("/d", DiskFormat::Raw);
        let kernel =
            |line: &str| DirectKernel { kernel: "/k".into(), initrd: None, command_line: line.into() };
        let arm = |firmware| MachineSpec { architecture: Architecture::Aarch64, firmware, ..spec() };
        let cases = [
            (spec(), ""),
            (MachineSpec { name: "a,b".into(), ..spec() }, "name"),
            (MachineSpec { vcpus: 0, ..spec() }, "CPUs"),
            (MachineSpec { memory_mib: 1, ..spec() }, "memory"),
            (MachineSpec { cpu: Some("max foo".into()), ..spec() }, "no CPU model"),
            (MachineSpec { kernel: Some(kernel("a\nb")), ..spec() }, "command line"),
            (MachineSpec { kernel: Some(kernel(&"x".repeat(2048))), ..spec() }, "2048 bytes"),
            (MachineSpec { disks: vec![disk(); 17], ..spec() }, "17 disks"),
            (MachineSpec { disks: vec![disk().serial("a"); 2], ..spec() }, "two disks"),
            (MachineSpec { disks: vec![disk().serial("a b")], ..spec() }, "serial `a b`"),
            (MachineSpec { disks: vec![Disk::new("d", DiskFormat::Raw)], ..spec() }, "not an absolute"),
            (arm(Firmware::Bios), "no BIOS"),
            (arm(Firmware::Uefi), ""),
            (MachineSpec { kernel: Some(kernel("")), ..arm(Firmware::Bios) }, ""),
            (
                MachineSpec {
                    network: Network::User {
                        restricted: true,
                        forwards: vec![Forward::local(1, 2), Forward::local(1, 3)],
                    },
                    ..spec()
                },
                "twice",
            ),
        ];
        for (spec, expected) in cases {
            let said = spec.check().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{expected}: {said}");
        }
    }
}
