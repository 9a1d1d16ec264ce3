//! The real agent over a socket pair.

mod connect;
mod exec;
mod files;
mod link;
mod peer;
mod transfer;
mod unpack;

use std::time::Duration;

use kiln::guest::link::local::LocalGuest;
use kiln::guest::{GuestError, Sink};
use kiln::support::wait::Patience;
use kiln_protocol::message::{ErrorKind, Exec};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; no test waits for it to pass.
pub fn patience() -> Patience {
    Patience::new(Duration::from_secs(60), &CancellationToken::new())
}

pub async fn agent() -> LocalGuest {
    LocalGuest::start(&patience()).await.expect("the local agent starts")
}

/// Keeps all output, both streams apart.
#[derive(Default)]
pub struct Collect {
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
}

impl Sink for Collect {
    fn write(&mut self, bytes: &[u8], error: bool) {
        if error { &mut self.errors } else { &mut self.output }.extend_from_slice(bytes);
    }
}

impl Collect {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

pub fn shell(script: &str) -> Exec {
    Exec { argv: ["sh", "-c", script].map(String::from).into(), ..Exec::default() }
}

/// The kind of a refusal; anything else fails the test.
pub fn kind<T: std::fmt::Debug>(result: Result<T, GuestError>) -> ErrorKind {
    match result {
        Err(GuestError::Refused(failed)) => failed.kind,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Returns when the process has ended; a test that waits for ever shows which.
pub async fn gone(pid: i32) {
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie is dead; who waits for it is not the question here.
        !status.is_empty() && !status.rsplit(')').next().unwrap().trim_start().starts_with('Z')
    };
    for _ in 0..6000 {
        if !alive() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} is still alive");
}
