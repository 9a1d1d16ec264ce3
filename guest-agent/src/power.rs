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
            end_processes()?;
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

/// Ends every process but this one, in order where it goes.
pub fn end_processes() -> Outcome<()> {
    // SAFETY: kill(2) touches no memory; -1 is everybody but init itself.
    let everybody = |signal| unsafe { libc::kill(-1, signal) };
    everybody(libc::SIGTERM);
    everybody(libc::SIGCONT);
    if gone_in_time() {
        return Ok(());
    }
    everybody(libc::SIGKILL);
    match gone_in_time() {
        true => Ok(()),
        // It sleeps in the kernel, and holds what it holds.
        false => Err(failed(ErrorKind::Io, format!("end {}: it does not end", others().join(", ")))),
    }
}

fn gone_in_time() -> bool {
    let limit = Instant::now() + GRACE;
    loop {
        process::reap_orphans();
        if others().is_empty() {
            return true;
        }
        if Instant::now() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes other than this one that still hold something: numbers and names.
fn others() -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let number = entry.file_name().into_string().ok()?;
        (number != "1" && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
    });
    numbers.filter(|n| std::fs::read_to_string(format!("/proc/{n}/stat")).is_ok_and(|s| runs(&s))).collect()
}

/// proc(5): pid (comm) state ppid pgrp session tty tpgid flags ... The dead hold nothing any more,
/// and threads of the kernel do not end.
fn runs(stat: &str) -> bool {
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let dead = matches!(fields.next(), None | Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|f| f.parse::<u32>().ok()).unwrap_or(0);
    !dead && flags & KERNEL_THREAD == 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_dead_and_the_kernel_do_not_run() {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(super::runs(&own));
        assert!(super::runs("7 (a b) c) S 1 7 7 0 -1 4194560 0 0"));
        assert!(!super::runs("7 (sh) Z 1 7 7 0 -1 4194560 0 0"));
        assert!(!super::runs("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
        assert!(!super::runs(""));
    }
}
