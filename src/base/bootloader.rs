//! GRUB for a built disk, made without running anything of the guest and without mounts.
//!
//! The images come from the host's GRUB packages; their modules are copied into the
//! tree, so that code and modules are of one version. GRUB finds the root file
//! system by label and loads `/vmlinuz` and `/initrd.img`, the links that Debian's
//! kernel packages keep up to date: an upgrade of the kernel needs no GRUB at all.

use super::BaseError;
use super::layout::{BOOT_CODE, Extent, Layout};
use crate::disk::gpt::SECTOR;
use crate::model::{Architecture, Firmware};
use crate::support::command::{CommandError, Tool};
use crate::support::wait::Patience;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub const GRUB: &str = "/usr/lib/grub";
/// Label of the root file system.
pub const ROOT_LABEL: &str = "root";

const MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
    "fat",
    "normal",
    "configfile",
    "linux",
    "search",
    "search_label",
    "search_fs_uuid",
    "serial",
    "terminal",
    "boot",
    "echo",
    "test",
    "gzio",
    "ls",
    "cat",
    "reboot",
    "halt",
];
/// Where the first stage says which sector the second one starts at.
const BOOT_KERNEL_SECTOR: usize = 0x5C;
/// Where the second stage says which sector its rest starts at.
const CORE_NEXT_SECTOR: usize = 0x1F4;

/// What has to be written to the disk.
pub struct Bootloader {
    /// First bytes of the MBR; empty where BIOS does not boot the disk.
    pub boot_code: Vec<u8>,
    /// Content of the BIOS boot partition.
    pub core: Vec<u8>,
    /// Content of the EFI system partition, a file with a FAT file system.
    pub esp: PathBuf,
}

/// A way to boot in GRUB's words.
struct Platform {
    name: &'static str,
    firmware: Firmware,
    extra: &'static [&'static str],
}

fn platforms(architecture: Architecture) -> &'static [Platform] {
    match architecture {
        Architecture::X86_64 => &[
            Platform { name: "i386-pc", firmware: Firmware::Bios, extra: &["biosdisk"] },
            Platform { name: "x86_64-efi", firmware: Firmware::Uefi, extra: &["all_video"] },
        ],
        Architecture::Aarch64 => {
            &[Platform { name: "arm64-efi", firmware: Firmware::Uefi, extra: &["all_video"] }]
        }
    }
}

/// GRUB's platform folders that the architecture needs, with the Debian package of each.
pub fn needed(architecture: Architecture) -> &'static [(&'static str, &'static str)] {
    match architecture {
        Architecture::X86_64 => {
            &[("/usr/lib/grub/i386-pc", "grub-pc-bin"), ("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin")]
        }
        Architecture::Aarch64 => &[("/usr/lib/grub/arm64-efi", "grub-efi-arm64-bin")],
    }
}

fn removable_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "BOOTX64.EFI",
        Architecture::Aarch64 => "BOOTAA64.EFI",
    }
}

/// `/boot/grub/grub.cfg` of a fresh tree.
pub fn configuration(kernel_arguments: &[String]) -> String {
    format!(
        "# The links are kept by Debian's kernel packages; update-grub may replace this file.\n\
         if [ \"$grub_platform\" = pc ]; then\n\
         \x20 serial --unit=0 --speed=115200\n\
         \x20 terminal_output console serial\n\
         fi\n\
         linux /vmlinuz root=LABEL={ROOT_LABEL} ro {}\n\
         initrd /initrd.img\n\
         boot\n",
        kernel_arguments.join(" ")
    )
}

/// Copies GRUB's modules into the tree, for a configuration that asks for more than is built in.
pub fn copy_modules(tree: &Path, architecture: Architecture) -> io::Result<()> {
    for platform in platforms(architecture) {
        let target = tree.join("boot/grub").join(platform.name);
        fs::create_dir_all(&target)?;
        for entry in fs::read_dir(Path::new(GRUB).join(platform.name))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "mod" || e == "lst") {
                fs::copy(&path, target.join(path.file_name().expect("an entry has a name")))?;
            }
        }
    }
    Ok(())
}

/// Makes the boot images in `work`.
pub async fn make(
    base: &str,
    architecture: Architecture,
    layout: &Layout,
    work: &Path,
    patience: &Patience,
) -> Result<Bootloader, BaseError> {
    let file = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| BaseError::File { base: base.to_owned(), doing, path, source }
    };
    let early = work.join("early.cfg");
    let text = format!(
        "search --no-floppy --label {ROOT_LABEL} --set root\n\
         set prefix=($root)/boot/grub\n\
         configfile $prefix/grub.cfg\n"
    );
    fs::write(&early, text).map_err(file("writing", &early))?;

    let mut result = Bootloader { boot_code: Vec::new(), core: Vec::new(), esp: work.join("esp.img") };
    for platform in platforms(architecture) {
        let image = work.join(format!("{}.img", platform.name));
        grub_mkimage(platform, &early, &image, patience).await.map_err(|source| BaseError::Tool {
            base: base.to_owned(),
            doing: "making the boot loader",
            source,
        })?;
        match platform.firmware {
            Firmware::Bios => {
                let core = fs::read(&image).map_err(file("reading", &image))?;
                let boot = Path::new(GRUB).join(platform.name).join("boot.img");
                let boot = fs::read(&boot).map_err(file("reading", &boot))?;
                (result.boot_code, result.core) = patch(boot, core, layout.bios_boot)
                    .map_err(|what| BaseError::Content { base: base.to_owned(), what: what.to_owned() })?;
            }
            Firmware::Uefi => {
                esp(&result.esp, layout.esp.length, removable_name(architecture), &image)
                    .map_err(file("making", &result.esp))?;
            }
        }
    }
    Ok(result)
}

async fn grub_mkimage(
    platform: &Platform,
    early: &Path,
    image: &Path,
    patience: &Patience,
) -> Result<(), CommandError> {
    Tool::new("grub-mkimage")
        .args(["-O", platform.name, "-p", "/boot/grub", "-d"])
        .arg(Path::new(GRUB).join(platform.name))
        .arg("-c")
        .arg(early)
        .arg("-o")
        .arg(image)
        .args(MODULES)
        .args(platform.extra)
        .run(patience)
        .await
        .map(drop)
}

/// Tells the first stage where the second lies, and the second where its rest lies.
fn patch(mut boot: Vec<u8>, mut core: Vec<u8>, at: Extent) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    if boot.len() < BOOT_CODE || core.len() < SECTOR as usize {
        return Err("the host's GRUB has boot images of an unknown shape");
    }
    if core.len() as u64 > at.length {
        return Err("GRUB's image does not fit into the BIOS boot partition");
    }
    let first = at.start / SECTOR;
    boot.truncate(BOOT_CODE);
    boot[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    core[CORE_NEXT_SECTOR..CORE_NEXT_SECTOR + 8].copy_from_slice(&(first + 1).to_le_bytes());
    Ok((boot, core))
}

/// A FAT file system that holds one program where firmware looks on a disk it does not know.
fn esp(path: &Path, size: u64, name: &str, program: &Path) -> io::Result<()> {
    let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size)?;
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"ESP        ").volume_id(0x4B49_4C4E);
    fatfs::format_volume(&mut file, options)?;
    file.seek(SeekFrom::Start(0))?;
    let fat = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())?;
    {
        let folder = fat.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
        let mut target = folder.create_file(name)?;
        let mut bytes = Vec::new();
        fs::File::open(program)?.read_to_end(&mut bytes)?;
        target.write_all(&bytes)?;
        target.flush()?;
    }
    fat.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_point_at_each_other() {
        let at = Extent { start: 1 << 20, length: 3 << 20 };
        let (boot, core) = patch(vec![0; 512], vec![0; 40_000], at).unwrap();
        assert_eq!(boot.len(), BOOT_CODE);
        assert_eq!(boot[0x5C..0x64], 2048u64.to_le_bytes());
        assert_eq!(core[0x1F4..0x1FC], 2049u64.to_le_bytes());
        assert!(patch(vec![0; 512], vec![0; 4 << 20], at).is_err());
    }

    #[test]
    fn firmware_finds_its_program() {
        let dir = tempfile::tempdir().unwrap();
        let (image, program) = (dir.path().join("esp"), dir.path().join("program"));
        fs::write(&program, vec![7u8; 300_000]).unwrap();
        esp(&image, 60 << 20, "BOOTX64.EFI", &program).unwrap();
        let file = fs::File::options().read(true).write(true).open(&image).unwrap();
        let fat = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
        let mut bytes = Vec::new();
        fat.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, vec![7u8; 300_000]);
    }
}
