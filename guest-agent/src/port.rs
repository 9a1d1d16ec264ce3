//! The virtio-serial port that leads to the host.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kiln_protocol::PORT_NAME;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Opens the port, and waits until the host is at its other end.
///
/// `patience` is for the port to exist; the host may come as late as it likes.
pub fn open(patience: Duration) -> Result<OwnedFd, String> {
    let begun = Instant::now();
    let port = loop {
        // Busy means that an agent before this one has not let go yet.
        let attempt = find().map(|path| {
            rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
                .map_err(|e| format!("open {}: {e}", path.display()))
        });
        match attempt {
            Some(Ok(port)) => break port,
            Some(Err(e)) if begun.elapsed() > patience => return Err(e),
            None if begun.elapsed() > patience => {
                return Err(format!(
                    "no virtio-serial port is named {PORT_NAME} after {} s (is virtio_console loaded?)",
                    patience.as_secs()
                ));
            }
            _ => sleep(LOOK_AGAIN),
        }
    };
    // A port without its host reports a hang-up at once instead of blocking, so the wait is ours.
    while hung_up(&port) {
        sleep(LOOK_AGAIN);
    }
    Ok(port)
}

/// By sysfs and not by /dev/virtio-ports: those links are udev's, and the appliance has none.
fn find() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Some(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    None
}

fn hung_up(port: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(port, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}
