//! Going down.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_protocol::message::{ErrorKind, Mode, PowerAction};
use rustix::system::{RebootCommand, reboot};

use crate::error::{Outcome, failed};
use crate::{facts, filesystem, process};

/// How long processes of the appliance may take to end when asked.
const GRACE: Duration = Duration::from_secs(3);

/// Makes ready to go down. The returned function goes, once the answer is on its way.
pub fn prepare(action: PowerAction, mode: Mode) -> Outcome<impl FnOnce() + use<>> {
    match mode {
        Mode::Local => {
            return Err(failed(ErrorKind::Unsupported, "a local agent does not turn this machine off"));
        }
        Mode::Guest => {}
        Mode::Appliance => {
            filesystem::leave_root()?;
            end_processes();
            filesystem::unmount_all()?;
        }
    }
    Ok(move || match mode {
        Mode::Appliance => down(action),
        _ => ask_init(action),
    })
}

/// Leaves it to the guest's init, in the way that each understands.
fn ask_init(action: PowerAction) {
    if facts::init() == "systemd" {
        // systemd(1): these start reboot.target and poweroff.target.
        let signal = libc::SIGRTMIN()
            + match action {
                PowerAction::Reboot => 5,
                PowerAction::PowerOff => 4,
            };
        // SAFETY: kill(2) touches no memory.
        if unsafe { libc::kill(1, signal) } == 0 {
            return;
        }
    }
    let program = match action {
        PowerAction::Reboot => "/sbin/reboot",
        PowerAction::PowerOff => "/sbin/poweroff",
    };
    let quiet =
        Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if quiet.is_err() {
        rustix::fs::sync();
        down(action);
    }
}

/// At once. Everything worth keeping is on disk.
pub fn down(action: PowerAction) -> ! {
    rustix::fs::sync();
    let command = match action {
        PowerAction::Reboot => RebootCommand::Restart,
        PowerAction::PowerOff => RebootCommand::PowerOff,
    };
    let _ = reboot(command);
    // Some machines need a moment; an init must not return.
    loop {
        std::thread::park();
    }
}

fn end_processes() {
    // SAFETY: kill(2) touches no memory; -1 is everybody but init itself.
    let everybody = |signal| unsafe { libc::kill(-1, signal) };
    everybody(libc::SIGTERM);
    everybody(libc::SIGCONT);
    let limit = Instant::now() + GRACE;
    while others() && Instant::now() < limit {
        process::reap_orphans();
        std::thread::sleep(Duration::from_millis(10));
    }
    everybody(libc::SIGKILL);
}

/// Whether a process other than this one runs. Threads of the kernel and the dead have no program.
fn others() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        pid.is_some_and(|pid| pid != 1) && std::fs::read_link(entry.path().join("exe")).is_ok()
    })
}
