//! Holds all writes to disks for a moment, so that what the host puts aside then is whole.
//!
//! Nothing here may write to a disk while they are held, and a host that goes away must not leave the
//! guest standing still: a watchdog lets go when the time is up.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kiln_protocol::message::{ErrorKind, Mode, Reply};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::error::{During, Outcome, failed};
use crate::filesystem::disks;

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// The host does in well under a second what it wants to do meanwhile.
const MOST: Duration = Duration::from_secs(60);

enum State {
    Free,
    /// With the moment to let go, by which each watchdog knows its own.
    Held(Vec<File>, Instant),
    /// The watchdog let go; nobody has asked since.
    Expired,
}

static STATE: Mutex<State> = Mutex::new(State::Free);
static CHANGED: Condvar = Condvar::new();

/// Returns when everything written so far is on the disks and nothing more gets there.
pub fn freeze(limit_ms: u32, mode: Mode) -> Outcome<Reply> {
    if mode == Mode::Local {
        return Err(failed(ErrorKind::Unsupported, "the disks of this machine are not held"));
    }
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let State::Held(..) = *state {
        return Err(failed(ErrorKind::Exists, "freeze: the file systems are held already"));
    }
    // What takes long comes before the time begins to count.
    rustix::fs::sync();
    let until = Instant::now() + Duration::from_millis(limit_ms.into()).min(MOST);
    // Started first: without it nothing is held. It waits for the lock, and then for its time.
    let watchdog = thread::Builder::new().stack_size(64 << 10).spawn(move || watch(until));
    watchdog.during("start", "the watchdog of a freeze")?;
    let mut held = Vec::new();
    // Those mounted last may lie in files of those mounted first.
    for target in disks()?.into_iter().rev() {
        let folder = File::open(&target).during("open", &target);
        let frozen = folder.and_then(|folder| hold(&folder, &target).map(|is| is.then_some(folder)));
        match frozen {
            Ok(folder) => held.extend(folder),
            Err(error) => {
                let_go(&held);
                return Err(error);
            }
        }
    }
    *state = State::Held(held, until);
    Ok(Reply::Nothing)
}

/// False for a file system that cannot be held (vfat): it is written out instead.
fn hold(folder: &File, target: &str) -> Outcome<bool> {
    // SAFETY: the kernel does not look at this ioctl's argument.
    match unsafe { ioctl(folder.as_fd(), Setter::<FIFREEZE, i32>::new(0)) } {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            rustix::fs::syncfs(folder).during("write out", target)?;
            Ok(false)
        }
        Err(e) => Err(e).during("freeze", target),
    }
}

/// # Errors
/// Invalid when they were not held all the time since `freeze`.
pub fn thaw() -> Outcome<Reply> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::mem::replace(&mut *state, State::Free);
    CHANGED.notify_all();
    match before {
        State::Held(held, _) => {
            let_go(&held);
            Ok(Reply::Nothing)
        }
        State::Expired => Err(failed(ErrorKind::Invalid, "thaw: the watchdog has let go before")),
        State::Free => Err(failed(ErrorKind::Invalid, "thaw: nothing is held")),
    }
}

fn watch(until: Instant) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    while let State::Held(held, own) = &*state
        && *own == until
    {
        let now = Instant::now();
        if now >= until {
            let_go(held);
            *state = State::Expired;
            return;
        }
        state = CHANGED.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// In the other order than they were taken.
fn let_go(held: &[File]) {
    for folder in held.iter().rev() {
        // SAFETY: the kernel does not look at this ioctl's argument.
        // Where it fails somebody else has let go already.
        let _ = unsafe { ioctl(folder.as_fd(), Setter::<FITHAW, i32>::new(0)) };
    }
}
