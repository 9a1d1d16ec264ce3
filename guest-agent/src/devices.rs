//! Block devices, as /sys/class/block has them.

use std::fs::{self, File};
use std::path::Path;

use kiln_protocol::message::{Device, Reply};

use crate::error::{During, Outcome};
use crate::files::absolute;

/// sysfs counts in sectors of this size whatever the device's own is.
const SECTOR: u64 = 512;

pub fn devices() -> Outcome<Reply> {
    const CLASS: &str = "/sys/class/block";
    let mut found: Vec<Device> = Vec::new();
    for entry in fs::read_dir(CLASS).during("list", CLASS)? {
        let name = entry.during("list", CLASS)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("loop") && !name.starts_with("ram") {
            found.push(device(&Path::new(CLASS).join(&name), &name));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Reply::Devices(found))
}

fn device(folder: &Path, name: &str) -> Device {
    let text = |file: &str| fs::read_to_string(folder.join(file)).map(|t| t.trim().to_owned());
    let number = |file: &str| text(file).ok().and_then(|t| t.parse::<u64>().ok());
    // A partition's folder lies in its disk's.
    let parent = text("partition").ok().and_then(|_| {
        let real = fs::canonicalize(folder).ok()?;
        Some(node(&real.parent()?.file_name()?.to_string_lossy()))
    });
    let serial = text("serial").or_else(|_| text("device/serial")).ok().filter(|s| !s.is_empty());
    Device {
        path: node(name),
        parent,
        serial,
        size: number("size").unwrap_or(0) * SECTOR,
        offset: number("start").unwrap_or(0) * SECTOR,
        read_only: number("ro") == Some(1),
    }
}

/// sysfs writes `!` for the `/` in a device's name.
fn node(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

pub fn reread_partitions(device: &str) -> Outcome<Reply> {
    const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
    let path = absolute(device)?;
    let file = File::open(path).during("open", device)?;
    // SAFETY: this ioctl takes no argument.
    unsafe { rustix::ioctl::ioctl(&file, rustix::ioctl::NoArg::<BLKRRPART>::new()) }
        .during("read the partition table of", device)?;
    Ok(Reply::Nothing)
}
