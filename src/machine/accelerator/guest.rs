//! The smallest guest that tells a host that works from one that does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Trial;
use crate::machine::error::MachineError;
use crate::machine::qemu::{Qemu, default_cpu};
use crate::machine::spec::Accelerator;
use crate::model::Architecture;
use crate::support::command::{CommandError, Tool};
use crate::support::files;
use crate::support::wait::Patience;

/// A host that works needs a tenth of a second.
pub(super) const LIMIT: Duration = Duration::from_secs(5);
/// A guest that tells QEMU to exit with 0x10 makes it exit with 0x10 * 2 + 1.
const EXIT: u8 = 0x10;

/// A boot sector: `mov al, 0x10; mov dx, 0xf4; out dx, al`, then halt for ever.
const SECTOR: [u8; 9] = [0xb0, EXIT, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd];
/// The firmware reads by cylinder, head and sector: a disk below one cylinder has no first sector.
const DISK: usize = 2 << 20;

/// A kernel for aarch64: PSCI's SYSTEM_OFF (0x84000008 in w0, then hvc), then wait for ever.
const KERNEL: [u32; 5] = [0x52b0_8000, 0x7280_0100, 0xd400_0002, 0xd503_207f, 0x17ff_ffff];

/// A file in `home` that is gone when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) async fn run(
    qemu: &Qemu,
    accelerator: Accelerator,
    home: &Path,
    limit: Duration,
    patience: &Patience,
) -> Result<Trial, MachineError> {
    let folder = home.join("tmp");
    let scratch = Scratch(folder.join(format!("trial-guest-{}-{accelerator}", std::process::id())));
    let path = scratch.0.as_path();
    let write = files::private_folder(&folder).and_then(|()| std::fs::write(path, image(qemu.architecture)));
    write.map_err(|source| MachineError::File { doing: "cannot write", path: path.into(), source })?;
    let tool = Tool::new(&qemu.program)
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-m", "32M"])
        .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
        .args(["-accel", accelerator.as_str()])
        .args(["-cpu", default_cpu(qemu.architecture, accelerator, qemu.version)])
        .args(boot(qemu.architecture, path));
    match tool.run(&patience.at_most(limit)).await {
        Ok(_) if qemu.architecture == Architecture::Aarch64 => Ok(Trial::Works),
        Ok(_) => Ok(Trial::Fails("QEMU ended before the guest did".into())),
        Err(CommandError::Failed { status, .. }) if ended_by_guest(qemu.architecture, status.code()) => {
            Ok(Trial::Works)
        }
        Err(CommandError::Failed { status, last_lines, .. }) => {
            let said = last_lines.iter().find(|l| l.contains("rror") || l.contains("ailed"));
            Ok(Trial::Fails(said.or(last_lines.last()).cloned().unwrap_or_else(|| status.to_string())))
        }
        // If the caller's own time or will is over, too, nothing is known.
        Err(CommandError::Stopped { .. }) if patience.remains() => Ok(Trial::Hangs),
        Err(error) => Err(error.into()),
    }
}

fn ended_by_guest(architecture: Architecture, code: Option<i32>) -> bool {
    architecture == Architecture::X86_64 && code == Some(i32::from(EXIT) * 2 + 1)
}

fn image(architecture: Architecture) -> Vec<u8> {
    match architecture {
        Architecture::X86_64 => {
            let mut disk = SECTOR.to_vec();
            disk.resize(510, 0);
            disk.extend([0x55, 0xaa]);
            disk.resize(DISK, 0);
            disk
        }
        Architecture::Aarch64 => KERNEL.iter().flat_map(|word| word.to_le_bytes()).collect(),
    }
}

fn boot(architecture: Architecture, path: &Path) -> Vec<String> {
    let arguments = match architecture {
        Architecture::X86_64 => {
            let file =
                serde_json::json!({"driver": "file", "filename": path.to_string_lossy(), "read-only": true});
            let disk =
                serde_json::json!({"node-name": "disk", "driver": "raw", "read-only": true, "file": file});
            let exit = "isa-debug-exit,iobase=0xf4,iosize=4";
            let blockdev = disk.to_string();
            return [
                "-machine",
                "pc",
                "-blockdev",
                &blockdev,
                "-device",
                "virtio-blk-pci,drive=disk",
                "-device",
                exit,
            ]
            .map(str::to_owned)
            .to_vec();
        }
        Architecture::Aarch64 => ["-machine", "virt,gic-version=max", "-kernel"],
    };
    arguments.into_iter().map(str::to_owned).chain([path.to_string_lossy().into_owned()]).collect()
}
