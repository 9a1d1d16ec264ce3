//! Starting as an ordinary process: in a guest, or on a local link.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use kiln_protocol::message::Mode;
use serde::Deserialize;

use crate::link::Link;
use crate::port;
use crate::serve::{self, End, Identity};

/// The configuration block is at most this long; what follows it is not ours to read.
const CONFIG_BLOCK: u64 = 4096;

/// How long the port may take to appear: its driver is a module in most guests, and an emulated one on a
/// busy host takes minutes to load it. The host has a limit of its own for the boot.
const PORT_PATIENCE: Duration = Duration::from_secs(600);

const USAGE: &str = "usage: kiln-agent --config FILE, or KILN_NONCE=... kiln-agent --fd N";

#[derive(Deserialize)]
struct Config {
    nonce: String,
    mode: Mode,
}

/// Serves until the host turns the agent down or, on a local link, is gone.
pub fn run(arguments: Vec<OsString>) -> Result<(), String> {
    let [option, value] = &arguments[..] else {
        return Err(USAGE.into());
    };
    match option.to_str() {
        Some("--config") => guest(config(Path::new(value))?),
        Some("--fd") => local(value.to_str().and_then(|v| v.parse().ok()).ok_or(USAGE)?),
        _ => Err(USAGE.into()),
    }
}

fn config(path: &Path) -> Result<Config, String> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|f| f.take(CONFIG_BLOCK).read_to_end(&mut text))
        .map_err(|e| format!("read {}: {e}", path.display()))?;
    serde_json::from_slice(&text)
        .map_err(|e| format!("{}: no configuration in its first {CONFIG_BLOCK} bytes: {e}", path.display()))
}

fn guest(config: Config) -> Result<(), String> {
    // Under memory pressure the build's own processes have to go first: without
    // the agent nobody could say what happened. Not fatal where it is forbidden.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let mut identity = Identity { nonce: config.nonce, mode: config.mode };
    loop {
        let port = port::open(PORT_PATIENCE)?;
        match serve::serve(Link::new(port), &mut identity) {
            End::Refused(reason) => return Err(format!("the host turned this agent down: {reason}")),
            End::Lost(_) => {}
        }
    }
}

fn local(fd: i32) -> Result<(), String> {
    let nonce = std::env::var("KILN_NONCE").map_err(|_| USAGE)?;
    if rustix::io::fcntl_getfd(unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) }).is_err() {
        return Err(format!("descriptor {fd} is not open"));
    }
    // SAFETY: it is open, and handed to this process for exactly this.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&link, rustix::io::FdFlags::CLOEXEC).map_err(|e| e.to_string())?;
    match serve::serve(Link::new(link), &mut Identity { nonce, mode: Mode::Local }) {
        End::Refused(reason) => Err(format!("the host turned this agent down: {reason}")),
        End::Lost(_) => Ok(()),
    }
}
