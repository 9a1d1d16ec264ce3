//! From what to how: QEMU's command line, in a fixed order, with fixed places on the bus, pinned by golden files.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::firmware::FirmwareFiles;
use super::spec::{Accelerator, Cache, Disk, Interface, MachineSpec, Network};
use crate::model::{Architecture, DiskFormat};

/// Memory for translated code, in MiB. QEMU's own choice may be 1 GiB, and all of it is used in time.
const TRANSLATION_CACHE_MIB: u32 = 256;

/// Places on the PCI bus. A guest names its network card after the place, so they never move.
mod place {
    pub const SCREEN: u8 = 0x01;
    pub const NETWORK: u8 = 0x02;
    pub const RANDOM: u8 = 0x03;
    pub const SERIAL: u8 = 0x04;
    pub const PANIC: u8 = 0x05;
    pub const FIRST_DISK: u8 = 0x08;
}

/// What starting a machine adds to its specification.
#[derive(Clone, Debug)]
pub struct Layout {
    pub cpu: String,
    /// Code and this machine's own variables; None without UEFI.
    pub firmware: Option<FirmwareFiles>,
    /// One file per credential, in their order.
    pub credentials: Vec<PathBuf>,
    pub qmp: RawFd,
    pub agent: RawFd,
    /// The writing end of a pipe.
    pub console: RawFd,
    /// The machine waits for a memory to go on from, which is one of a machine of this versioned type.
    pub incoming: Option<String>,
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(format!("-{name}"));
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }

    fn blockdev(&mut self, value: Value) {
        self.option("blockdev", value.to_string());
    }
}

/// The arguments, the program's name not included. `spec` has passed its check.
pub fn argv(spec: &MachineSpec, layout: &Layout) -> Vec<String> {
    let mut a = Arguments::default();
    a.option("name", &spec.name);
    for flag in ["no-user-config", "nodefaults", "no-reboot", "S"] {
        a.flag(flag);
    }
    if layout.incoming.is_some() {
        a.option("incoming", "defer");
    }
    a.option("action", "panic=shutdown");
    a.option("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if let Some(firmware) = &layout.firmware {
        a.blockdev(firmware_file("code", &firmware.code, true));
        a.blockdev(firmware_file("vars", &firmware.vars, false));
    }
    a.option("machine", machine(spec, layout));
    a.option("accel", accelerator(spec.accelerator));
    a.option("cpu", &layout.cpu);
    a.option("smp", spec.vcpus.to_string());
    a.option("m", format!("{}M", spec.memory_mib));
    a.option("boot", "strict=on,menu=off");
    a.option("display", "none");
    a.option("chardev", format!("socket,id=qmp,fd={}", layout.qmp));
    a.option("mon", "chardev=qmp,mode=control");
    a.option("add-fd", format!("set=1,fd={}", layout.console));
    a.option("chardev", "file,id=console,path=/dev/fdset/1,append=on");
    a.option("serial", "chardev:console");
    devices(&mut a, spec, layout);
    for (index, disk) in spec.disks.iter().enumerate() {
        // A kernel of its own has the first place already, and QEMU refuses two.
        attach(&mut a, index as u8, disk, index == 0 && spec.kernel.is_none());
    }
    network(&mut a, &spec.network);
    for path in &layout.credentials {
        a.option("smbios", format!("type=11,path={}", escaped(path)));
    }
    if let Some(kernel) = &spec.kernel {
        a.option("kernel", text(&kernel.kernel));
        if let Some(initrd) = &kernel.initrd {
            a.option("initrd", text(initrd));
        }
        a.option("append", &kernel.command_line);
    }
    a.0
}

/// What of a machine its memory cannot do without, as text: the command line without what may be elsewhere
/// or of another name.
pub fn shape(spec: &MachineSpec, cpu: &str) -> String {
    let mut plain = MachineSpec { name: "machine".into(), ..spec.clone() };
    for (index, disk) in plain.disks.iter_mut().enumerate() {
        disk.path = format!("/disk-{index}").into();
        // How the host treats the file is nothing that the guest can see.
        disk.cache = Cache::Safe;
    }
    if let Some(kernel) = &mut plain.kernel {
        kernel.kernel = "/kernel".into();
        kernel.initrd = kernel.initrd.as_ref().map(|_| "/initrd".into());
    }
    let firmware =
        plain.has_uefi().then(|| FirmwareFiles { code: "/firmware".into(), vars: "/variables".into() });
    let credentials = plain.credentials.iter().map(|c| PathBuf::from(format!("/credential-{}", c.name)));
    let credentials = credentials.collect();
    let layout =
        Layout { cpu: cpu.into(), firmware, credentials, qmp: 3, agent: 4, console: 5, incoming: None };
    argv(&plain, &layout).join("\n")
}

fn machine(spec: &MachineSpec, layout: &Layout) -> String {
    let (kind, options) = match spec.architecture {
        // What SeaBIOS, and boot loaders through it, write to the screen goes to the console, too.
        Architecture::X86_64 if spec.screen && !spec.has_uefi() && spec.kernel.is_none() => {
            ("q35", "smm=off,vmport=off,graphics=off")
        }
        Architecture::X86_64 => ("q35", "smm=off,vmport=off"),
        Architecture::Aarch64 => ("virt", "gic-version=max"),
    };
    // The short name is that of QEMU's newest type, which need not be the one that the memory was in.
    let kind = layout.incoming.as_deref().unwrap_or(kind);
    let flash = if layout.firmware.is_some() { ",pflash0=code,pflash1=vars" } else { "" };
    format!("{kind},{options},usb=off{flash}")
}

fn accelerator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".into(),
        Accelerator::Tcg => format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"),
    }
}

fn devices(a: &mut Arguments, spec: &MachineSpec, layout: &Layout) {
    if spec.screen {
        match spec.architecture {
            Architecture::X86_64 => a.option("device", format!("VGA,addr={:#04x}", place::SCREEN)),
            // The only one that is part of every QEMU's own program, and firmware draws on it.
            Architecture::Aarch64 => a.option("device", "ramfb"),
        }
    }
    a.option("object", "rng-builtin,id=random");
    a.option("device", format!("virtio-rng-pci,rng=random,addr={:#04x}", place::RANDOM));
    a.option("device", format!("virtio-serial-pci,id=ports,addr={:#04x}", place::SERIAL));
    a.option("chardev", format!("socket,id=agent,fd={}", layout.agent));
    a.option("device", "virtserialport,id=port,bus=ports.0,nr=1,chardev=agent,name=kiln.agent");
    match spec.architecture {
        // Older kernels know the ISA one only.
        Architecture::X86_64 => a.option("device", "pvpanic"),
        Architecture::Aarch64 => a.option("device", format!("pvpanic-pci,addr={:#04x}", place::PANIC)),
    }
}

fn attach(a: &mut Arguments, index: u8, disk: &Disk, boots: bool) {
    let node = node_name(index, 0);
    a.blockdev(disk_node(&node, disk));
    let mut device = match disk.interface {
        // What goes wrong on the host stops the machine: the guest must not take it for its own trouble.
        Interface::Virtio => format!("virtio-blk-pci,drive={node},werror=stop,rerror=stop"),
        Interface::Nvme => format!("nvme,drive={node}"),
    };
    match (&disk.serial, disk.interface) {
        (Some(serial), _) => device += &format!(",serial={serial}"),
        // NVMe needs one.
        (None, Interface::Nvme) => device += &format!(",serial={node}"),
        (None, Interface::Virtio) => {}
    }
    if boots {
        device += ",bootindex=0";
    }
    a.option("device", format!("{device},addr={:#04x}", place::FIRST_DISK + index));
}

/// The name of what a disk of the machine writes to, after so many snapshots.
pub fn node_name(disk: u8, snapshots: u32) -> String {
    match snapshots {
        0 => format!("disk{disk}"),
        n => format!("disk{disk}-{n}"),
    }
}

/// A disk's file as QEMU is told to open it.
pub fn disk_node(node: &str, disk: &Disk) -> Value {
    let cache = json!({"direct": false, "no-flush": disk.cache == Cache::Unsafe});
    let file = json!({
        "driver": "file", "filename": text(&disk.path), "locking": "auto", "read-only": disk.read_only,
        "discard": "unmap", "cache": cache,
    });
    json!({
        "node-name": node, "driver": driver(disk.format), "read-only": disk.read_only, "discard": "unmap",
        "cache": cache, "file": file,
    })
}

fn network(a: &mut Arguments, network: &Network) {
    let Network::User { restricted, forwards } = network else { return };
    let mut user = format!("user,id=net,ipv6=off,restrict={}", if *restricted { "on" } else { "off" });
    for f in forwards {
        user += &format!(",hostfwd=tcp:{}:{}-:{}", f.host, f.host_port, f.guest_port);
    }
    a.option("netdev", user);
    // Without its boot program the card is no way to boot, and the firmware is faster.
    a.option("device", format!("virtio-net-pci,netdev=net,romfile=,addr={:#04x}", place::NETWORK));
}

fn firmware_file(node: &str, path: &Path, read_only: bool) -> Value {
    json!({
        "node-name": node, "driver": "raw", "read-only": read_only,
        "file": {"driver": "file", "filename": text(path), "read-only": read_only},
    })
}

fn driver(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Vhd => "vpc",
        other => other.as_str(),
    }
}

/// The check of the specification let only UTF-8 through.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A comma would end the value.
fn escaped(path: &Path) -> String {
    text(path).replace(',', ",,")
}

#[cfg(test)]
mod tests;
