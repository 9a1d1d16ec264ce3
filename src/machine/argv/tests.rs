//! The command lines of the golden files. To take over a wanted change: `KILN_BLESS=1 cargo test argv`.

use super::*;
use crate::machine::spec::{Credential, DirectKernel, Forward};
use crate::model::Firmware;

fn layout() -> Layout {
    let cpu = "max,-cx16".into();
    Layout { cpu, firmware: None, credentials: Vec::new(), qmp: 3, agent: 4, console: 5, incoming: None }
}

fn spec(architecture: Architecture) -> MachineSpec {
    let mut spec = MachineSpec::new("golden", architecture, Accelerator::Tcg);
    spec.disks = vec![Disk::new("/b/overlay.qcow2", DiskFormat::Qcow2).cache(Cache::Unsafe)];
    spec
}

fn uefi(layout: Layout, code: &str) -> Layout {
    Layout { firmware: Some(FirmwareFiles { code: code.into(), vars: "/b/efivars.fd".into() }), ..layout }
}

fn kernel() -> Option<DirectKernel> {
    let command_line = "console=ttyS0 quiet".into();
    Some(DirectKernel { kernel: "/k/vmlinuz".into(), initrd: Some("/k/initrd".into()), command_line })
}

/// One option with its value per line.
fn text(arguments: &[String]) -> String {
    let mut lines = String::new();
    for argument in arguments {
        lines.push_str(if argument.starts_with('-') { "\n" } else { " " });
        lines.push_str(argument);
    }
    lines.trim_start().to_owned() + "\n"
}

fn golden(name: &str, spec: &MachineSpec, layout: &Layout) {
    spec.check().unwrap();
    let text = text(&argv(spec, layout));
    let path = format!("{}/src/machine/argv/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{path}");
}

#[test]
fn x86_64_bios() {
    let mut spec = spec(Architecture::X86_64);
    spec.disks.push(Disk::new("/b/seed, and more.img", DiskFormat::Raw).read_only().serial("kiln-agent"));
    spec.network = Network::User { restricted: true, forwards: vec![Forward::local(8080, 80)] };
    spec.screen = true;
    golden("x86_64-bios", &spec, &layout());
}

#[test]
fn x86_64_uefi() {
    let mut spec = spec(Architecture::X86_64);
    spec.firmware = Firmware::Uefi;
    spec.accelerator = Accelerator::Kvm;
    spec.vcpus = 4;
    spec.credentials = vec![Credential { name: "tmpfiles.extra".into(), value: b"x".to_vec() }];
    spec.network = Network::User { restricted: false, forwards: Vec::new() };
    let credentials = vec!["/b/x,y/credential-0".into()];
    let layout = Layout { cpu: "host".into(), credentials, ..layout() };
    golden("x86_64-uefi", &spec, &uefi(layout, "/usr/share/OVMF/OVMF_CODE_4M.fd"));
}

#[test]
fn x86_64_kernel() {
    let mut spec = spec(Architecture::X86_64);
    spec.kernel = kernel();
    spec.memory_mib = 512;
    golden("x86_64-kernel", &spec, &layout());
}

#[test]
fn x86_64_nvme() {
    let mut spec = spec(Architecture::X86_64);
    spec.disks[0].interface = Interface::Nvme;
    spec.disks.push(Disk::new("/b/data.vhd", DiskFormat::Vhd).serial("data").interface(Interface::Nvme));
    golden("x86_64-nvme", &spec, &layout());
}

#[test]
fn aarch64_uefi() {
    let mut spec = spec(Architecture::Aarch64);
    spec.screen = true;
    spec.network = Network::User { restricted: true, forwards: Vec::new() };
    let layout = Layout { cpu: "cortex-a72".into(), ..layout() };
    golden("aarch64-uefi", &spec, &uefi(layout, "/usr/share/AAVMF/AAVMF_CODE.fd"));
}

#[test]
fn aarch64_kernel() {
    let mut spec = spec(Architecture::Aarch64);
    spec.firmware = Firmware::Bios;
    spec.kernel = kernel();
    golden("aarch64-kernel", &spec, &Layout { cpu: "cortex-a72".into(), ..layout() });
}

#[test]
fn x86_64_incoming() {
    let mut spec = spec(Architecture::X86_64);
    spec.kernel = kernel();
    golden("x86_64-incoming", &spec, &Layout { incoming: Some("pc-q35-7.2".into()), ..layout() });
}

#[test]
fn aarch64_incoming() {
    let mut spec = spec(Architecture::Aarch64);
    spec.firmware = Firmware::Bios;
    spec.kernel = kernel();
    let layout = Layout { cpu: "cortex-a72".into(), incoming: Some("virt-7.2".into()), ..layout() };
    golden("aarch64-incoming", &spec, &layout);
}

#[test]
fn a_shape_is_of_what_the_guest_can_see() {
    let mut first = spec(Architecture::X86_64);
    first.kernel = kernel();
    let shape_of = |change: &dyn Fn(&mut MachineSpec)| {
        let mut spec = first.clone();
        change(&mut spec);
        shape(&spec, "max")
    };
    let same = shape(&first, "max");
    assert_eq!(shape_of(&|s| s.name = "other".into()), same);
    assert_eq!(shape_of(&|s| s.disks[0].path = "/elsewhere".into()), same);
    assert_eq!(shape_of(&|s| s.disks[0].cache = Cache::Safe), same);
    assert_eq!(shape_of(&|s| s.kernel.as_mut().unwrap().kernel = "/elsewhere".into()), same);
    assert_eq!(shape_of(&|s| s.limit *= 2), same);
    assert_ne!(shape(&first, "qemu64"), same);
    assert_ne!(shape_of(&|s| s.memory_mib += 1), same);
    assert_ne!(shape_of(&|s| s.vcpus += 1), same);
    assert_ne!(shape_of(&|s| s.screen = true), same);
    assert_ne!(shape_of(&|s| s.disks[0].serial = Some("a".into())), same);
    assert_ne!(shape_of(&|s| s.disks.push(Disk::new("/d", DiskFormat::Raw))), same);
    assert_ne!(shape_of(&|s| s.network = Network::User { restricted: false, forwards: vec![] }), same);
    assert_ne!(shape_of(&|s| s.kernel.as_mut().unwrap().command_line.push('x')), same);
}
