//! What a guest changes of itself when it goes on from a saved memory that others go on from, too.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use kiln_protocol::message::{ErrorKind, Mode, Renew};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::error::{During, Outcome, failed};

const MACHINE_ID: &str = "/etc/machine-id";

/// Older systems have a copy there; newer ones a link.
const COPY: &str = "/var/lib/dbus/machine-id";

/// journald keeps what it writes in a folder of the machine's id.
const JOURNALS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// journald's name as the kernel keeps it, of 15 characters.
const JOURNALD: &str = "systemd-journal";

/// The kernel's pool takes no more at a time than makes sense.
const MOST_ENTROPY: usize = 256;

/// As `struct rand_pool_info` of linux/random.h, with room for all that is taken.
#[repr(C)]
struct PoolInfo {
    bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; MOST_ENTROPY],
}

/// _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

pub fn renew(renew: &Renew, mode: Mode) -> Outcome<()> {
    if mode == Mode::Local {
        return Err(failed(ErrorKind::Unsupported, "this machine is nobody's saved memory"));
    }
    // First: the host counts from when it asked.
    let time = Timespec {
        tv_sec: (renew.time_us / 1_000_000) as _,
        tv_nsec: (renew.time_us % 1_000_000 * 1000) as _,
    };
    clock_settime(ClockId::Realtime, time).during("set", "the clock")?;
    stir(&renew.entropy)?;
    match &renew.machine_id {
        Some(id) => machine_id(id),
        None => Ok(()),
    }
}

fn stir(entropy: &[u8]) -> Outcome<()> {
    if entropy.len() > MOST_ENTROPY {
        return Err(failed(ErrorKind::Invalid, format!("{} bytes of entropy", entropy.len())));
    }
    let mut info = PoolInfo {
        bits: entropy.len() as libc::c_int * 8,
        bytes: entropy.len() as libc::c_int,
        buffer: [0; MOST_ENTROPY],
    };
    info.buffer[..entropy.len()].copy_from_slice(entropy);
    let pool = File::open("/dev/random").during("open", "/dev/random")?;
    let told = |result: libc::c_int, what| match result {
        // SAFETY: errno is this thread's own.
        -1 => Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
            .during(what, "the random pool"),
        _ => Ok(()),
    };
    // SAFETY: this ioctl reads the structure and as many bytes after it as that says.
    told(unsafe { libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY as _, &info) }, "add to")?;
    // SAFETY: this ioctl takes no argument.
    told(unsafe { libc::ioctl(pool.as_raw_fd(), RNDRESEEDCRNG as _) }, "reseed from")
}

fn machine_id(id: &str) -> Outcome<()> {
    let old = fs::read_to_string(MACHINE_ID).during("read", MACHINE_ID)?;
    let copied = fs::symlink_metadata(COPY).is_ok_and(|m| m.is_file())
        && fs::read_to_string(COPY).is_ok_and(|c| c == old);
    for path in [MACHINE_ID, COPY].into_iter().take(1 + usize::from(copied)) {
        // In place: at a boot from a root that is still read-only, a mount lies on it.
        let mut file = OpenOptions::new().write(true).truncate(true).open(path).during("open", path)?;
        file.write_all(format!("{id}\n").as_bytes()).during("write", path)?;
    }
    let old = old.trim();
    let is_id = !old.is_empty() && old.bytes().all(|b| b.is_ascii_hexdigit());
    for folder in JOURNALS {
        let (from, to) = (Path::new(folder).join(old), Path::new(folder).join(id));
        if is_id && from.is_dir() {
            fs::rename(&from, &to).during("rename", from.display())?;
        }
    }
    // It has learnt the old id for good. systemd brings it back at once, with all that is connected to it.
    for journald in children_of_init(JOURNALD) {
        // SAFETY: kill(2) touches no memory of ours. What has ended by itself needs no signal.
        unsafe { libc::kill(journald, libc::SIGTERM) };
    }
    Ok(())
}

fn children_of_init(name: &str) -> Vec<libc::pid_t> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_one = |pid: &libc::pid_t| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // PID (NAME) STATE PPID ...
        let Some((head, rest)) = stat.rsplit_once(") ") else { return false };
        head.split_once('(').is_some_and(|(_, n)| n == name) && rest.split(' ').nth(1) == Some("1")
    };
    pids.filter(is_one).collect()
}
