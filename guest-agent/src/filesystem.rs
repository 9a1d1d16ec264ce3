//! Mounted file systems: mount, size, grow, trim. By system calls: the appliance has no tools.

use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;

use kiln_protocol::message::{ErrorKind, Reply};
use rustix::fs::statvfs;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{During, Outcome, failed};
use crate::files::{absolute, ensure_folder};

/// What is mounted on top of what, from /proc/self/mountinfo, in the order of mounting.
struct Mounted {
    source: String,
    target: String,
    filesystem: String,
    /// The file system's number, `259:1`: the same for all its mounts.
    volume: String,
    /// The file system itself, whatever this mount says.
    writable: bool,
}

fn mounted() -> Outcome<Vec<Mounted>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let text = fs::read_to_string(TABLE).during("read", TABLE)?;
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (left, mut right): (Vec<&str>, _) = (left.split(' ').collect(), right.split(' '));
        Some(Mounted {
            target: unescape(left.get(4)?),
            volume: (*left.get(2)?).to_owned(),
            filesystem: right.next()?.to_owned(),
            source: unescape(right.next()?),
            writable: right.next()?.split(',').any(|option| option == "rw"),
        })
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Where the file systems are mounted that are written to and lie on disks, each once, in the order of mounting.
pub fn disks() -> Outcome<Vec<String>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for mount in mounted()?.into_iter().filter(|m| m.source.starts_with('/') && m.writable) {
        if !found.iter().any(|(volume, _)| *volume == mount.volume) {
            found.push((mount.volume, mount.target));
        }
    }
    Ok(found.into_iter().map(|(_, target)| target).collect())
}

/// The kernel writes white space and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    out + rest
}

pub fn mount(source: &str, target: &str, filesystem: &str, options: &str, read_only: bool) -> Outcome<Reply> {
    let path = absolute(target)?;
    ensure_folder(path)?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, read_only);
    let mut own = Vec::new();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" | "defaults" => {}
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            other => own.push(other),
        }
    }
    let own = std::ffi::CString::new(own.join(",")).during("mount", source)?;
    rustix::mount::mount(source, path, filesystem, flags, own.as_c_str())
        .during(&format!("mount {source} ({filesystem}) on"), target)?;
    Ok(Reply::Nothing)
}

/// What is mounted there and below. A process may have mounted more than the host asked for.
pub fn unmount(target: &str) -> Outcome<Reply> {
    let folder = absolute(target)?;
    let mut targets: Vec<String> = mounted()?.into_iter().map(|m| m.target).collect();
    targets.retain(|t| Path::new(t).starts_with(folder));
    if targets.is_empty() {
        return Err(failed(ErrorKind::Invalid, format!("unmount {target}: nothing is mounted there")));
    }
    for target in targets.into_iter().rev() {
        rustix::mount::unmount(target.as_str(), UnmountFlags::NOFOLLOW).during("unmount", target)?;
    }
    Ok(Reply::Nothing)
}

/// The appliance's own root, kept open while another folder is the root.
static OWN_ROOT: OnceLock<File> = OnceLock::new();

/// All threads share one root, so this holds for every request that follows.
pub fn change_root(path: &str) -> Outcome<Reply> {
    if OWN_ROOT.get().is_none() {
        let _ = OWN_ROOT.set(File::open("/").during("open", "/")?);
    }
    rustix::process::chroot(absolute(path)?).during("make the root", path)?;
    rustix::process::chdir("/").during("go to", "/")?;
    Ok(Reply::Nothing)
}

/// Back to the appliance's own root, if another one was made.
pub fn leave_root() -> Outcome<()> {
    let Some(root) = OWN_ROOT.get() else { return Ok(()) };
    rustix::process::fchdir(root).during("go back to", "/")?;
    rustix::process::chroot(".").during("make the root", "/")
}

/// Unmounts everything that lies on a block device, last mounted first, and what is mounted in it.
pub fn unmount_all() -> Outcome<()> {
    rustix::fs::sync();
    let table = mounted()?;
    let first = table.iter().position(|m| m.source.starts_with("/dev/"));
    let Some(first) = first else { return Ok(()) };
    let ours = ["/proc", "/sys", "/dev", "/dev/pts", "/run", "/tmp"];
    let mut busy = Ok(());
    for mount in table[first..].iter().rev().filter(|m| !ours.contains(&m.target.as_str())) {
        let done = rustix::mount::unmount(mount.target.as_str(), UnmountFlags::NOFOLLOW);
        if mount.source.starts_with("/dev/") && busy.is_ok() {
            busy = done.during(&format!("unmount {} from", mount.source), &mount.target);
        }
    }
    rustix::fs::sync();
    busy
}

pub fn space(path: &str) -> Outcome<Reply> {
    let s = statvfs(absolute(path)?).during("ask for the space of", path)?;
    Ok(Reply::Space { total: s.f_blocks * s.f_frsize, free: s.f_bavail * s.f_frsize })
}

fn block_size(device: &str) -> Outcome<u64> {
    const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
    let file = File::open(device).during("open", device)?;
    // SAFETY: this ioctl writes one u64.
    unsafe { ioctl(&file, Getter::<BLKGETSIZE64, u64>::new()) }.during("ask for the size of", device)
}

pub fn grow(target: &str) -> Outcome<Reply> {
    let path = absolute(target)?;
    let table = mounted()?;
    let mount = table
        .iter()
        .rev()
        .find(|m| Path::new(&m.target) == path)
        .ok_or_else(|| failed(ErrorKind::Invalid, format!("grow {target}: nothing is mounted there")))?;
    let folder = File::open(path).during("open", target)?;
    let verb = format!("grow the {} file system on", mount.filesystem);
    match mount.filesystem.as_str() {
        "ext4" => {
            const RESIZE: Opcode = opcode::write::<u64>(b'f', 16);
            let block = statvfs(path).during(&verb, target)?.f_frsize;
            let blocks = block_size(&mount.source)? / block;
            // SAFETY: this ioctl reads one u64, the new number of blocks.
            unsafe { ioctl(&folder, Setter::<RESIZE, u64>::new(blocks)) }.during(&verb, target)?;
        }
        "xfs" => grow_xfs(&folder, block_size(&mount.source)?).during(&verb, target)?,
        "btrfs" => {
            const RESIZE: Opcode = opcode::write::<BtrfsVolume>(0x94, 3);
            let mut volume = BtrfsVolume { descriptor: 0, name: [0; 4088] };
            volume.name[..5].copy_from_slice(b"1:max");
            // SAFETY: this ioctl reads one structure of this layout.
            unsafe { ioctl(&folder, Setter::<RESIZE, BtrfsVolume>::new(volume)) }.during(&verb, target)?;
        }
        other => {
            return Err(failed(
                ErrorKind::Unsupported,
                format!("grow {target}: {other} cannot grow while mounted (ext4, xfs and btrfs can)"),
            ));
        }
    }
    space(target)
}

/// struct btrfs_ioctl_vol_args
#[repr(C)]
struct BtrfsVolume {
    descriptor: i64,
    name: [u8; 4088],
}

/// struct xfs_fsop_geom_v1
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct XfsGeometry {
    block_size: u32,
    realtime_extent: u32,
    group_blocks: u32,
    groups: u32,
    log_blocks: u32,
    sector_size: u32,
    inode_size: u32,
    inode_percent: u32,
    data_blocks: u64,
    realtime_blocks: u64,
    realtime_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_size: u32,
    realtime_sector_size: u32,
    folder_block_size: u32,
}

/// struct xfs_growfs_data
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inode_percent: u32,
}

fn grow_xfs(folder: &File, device_size: u64) -> rustix::io::Result<()> {
    const GEOMETRY: Opcode = opcode::read::<XfsGeometry>(b'X', 100);
    const GROW: Opcode = opcode::write::<XfsGrow>(b'X', 110);
    // SAFETY: this ioctl writes one structure of this layout.
    let geometry = unsafe { ioctl(folder, Getter::<GEOMETRY, XfsGeometry>::new()) }?;
    let blocks = device_size / u64::from(geometry.block_size.max(1));
    if blocks <= geometry.data_blocks {
        return Ok(());
    }
    let grow = XfsGrow { blocks, inode_percent: geometry.inode_percent };
    // SAFETY: this ioctl reads one structure of this layout.
    unsafe { ioctl(folder, Setter::<GROW, XfsGrow>::new(grow)) }
}

pub fn trim(target: &str) -> Outcome<Reply> {
    /// struct fstrim_range
    #[repr(C)]
    struct Range {
        start: u64,
        length: u64,
        least: u64,
    }
    const FITRIM: Opcode = opcode::read_write::<Range>(b'X', 121);
    let folder = File::open(absolute(target)?).during("open", target)?;
    let mut range = Range { start: 0, length: u64::MAX, least: 0 };
    // SAFETY: this ioctl reads and writes one structure of this layout.
    unsafe { ioctl(&folder, Updater::<FITRIM, Range>::new(&mut range)) }.during("trim", target)?;
    Ok(Reply::Written { bytes: range.length })
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_of_the_mount_table_are_unescaped() {
        let cases =
            [("/mnt/a\\040b", "/mnt/a b"), ("\\134", "\\"), ("a\\0", "a\\0"), ("\\", "\\"), ("/mnt", "/mnt")];
        for (written, meant) in cases {
            assert_eq!(super::unescape(written), meant);
        }
    }
}
