//! Process 1 of kiln's appliance.
//!
//! The kernel panics when its init ends, so whatever goes wrong is said on the
//! console, and the machine is turned off.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use kiln_protocol::message::{Mode, PowerAction};

use crate::link::Link;
use crate::serve::{self, End, Identity};
use crate::{filesystem, modules, port, power};

const PORT_PATIENCE: Duration = Duration::from_secs(60);

/// Paths of modules in the initramfs, one per line, in the order of loading.
const MODULES: &str = "/modules.order";

pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("{panic}"));
        power::down(PowerAction::PowerOff);
    }));
    if let Err(reason) = serve() {
        say(&reason);
    }
    power::down(PowerAction::PowerOff);
}

fn serve() -> Result<(), String> {
    let places = [
        ("proc", "/proc", "proc", ""),
        ("sysfs", "/sys", "sysfs", ""),
        ("devtmpfs", "/dev", "devtmpfs", ""),
        ("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"),
        ("tmpfs", "/run", "tmpfs", "mode=755"),
        ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ];
    for (source, target, kind, options) in places {
        if let Err(e) = filesystem::mount(source, target, kind, options, false) {
            // The kernel may have mounted /dev by itself.
            if target != "/dev" {
                return Err(e.message);
            }
        }
    }
    for line in fs::read_to_string(MODULES).unwrap_or_default().lines().filter(|l| !l.trim().is_empty()) {
        // One that is missing shows in what does not work; the others may be all that is needed.
        if let Err(e) = modules::insert(&Path::new("/").join(line.trim())) {
            say(&e.message);
        }
    }
    let mut identity = Identity { nonce: nonce()?, mode: Mode::Appliance };
    loop {
        let port = port::open(PORT_PATIENCE)?;
        match serve::serve(Link::new(port), &mut identity) {
            End::Refused(reason) => return Err(format!("the host turned this agent down: {reason}")),
            End::Lost(reason) => say(&format!("the link to the host was lost: {reason}")),
        }
    }
}

fn nonce() -> Result<String, String> {
    let line = fs::read_to_string("/proc/cmdline").map_err(|e| format!("read /proc/cmdline: {e}"))?;
    let nonce = line.split_whitespace().find_map(|word| word.strip_prefix("kiln.nonce="));
    nonce.map(str::to_owned).ok_or_else(|| "the kernel command line has no kiln.nonce=".into())
}

fn say(text: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = writeln!(console, "kiln-agent: {text}");
    }
}
