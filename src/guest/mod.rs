//! L2: the system inside, as reached through the agent.
//!
//! [`Guest`] is what the rooms above know. A session over any link implements
//! it for as long as one boot lasts; `boot` (L4) implements it across reboots.

pub mod agent;
mod describe;
mod error;
pub mod files;
pub mod inject;
pub mod link;
pub mod session;

pub use error::GuestError;
pub use files::{Capture, GuestFiles, Output};

use async_trait::async_trait;
use kiln_protocol::message::{Exec, Exited, Facts, Operation, Put, Reply};
use session::Interaction;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::support::wait::Patience;

/// Where a command's or file's bytes go, piece by piece.
pub trait Sink: Send {
    /// Output or, with `error` set, error output. Called in the order received.
    fn write(&mut self, bytes: &[u8], error: bool);
}

/// A guest that is up. All paths are the guest's.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Runs a command, its output into `sink` while it runs. A non-zero exit is not an error here.
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError>;

    /// One request, one bounded reply: the file verbs and questions of [`Operation`].
    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError>;

    /// Streams `source` into what `operation` (Put, Append, WriteAt) names. Returns bytes written.
    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError>;

    /// Streams `source` into a file of the guest. Returns bytes written.
    async fn put(
        &self,
        target: Put,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.send(Operation::Put(target), source, patience).await
    }

    /// Streams what `operation` (Get, Tree) sends into `sink`, at most `limit` bytes. Returns bytes received.
    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError>;

    /// Connects to an address of the guest's own, loopback included, and passes on what comes from
    /// either end until one of them closes. `begun` is told once the connection stands.
    ///
    /// # Errors
    /// [`GuestError::Refused`] with NotFound when the address is not the guest's.
    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError>;

    /// Reboots, and returns when the next boot is over: same disk, new boot id.
    async fn reboot(&self, patience: &Patience) -> Result<(), GuestError>;

    async fn facts(&self, patience: &Patience) -> Result<Facts, GuestError> {
        match self.call(Operation::Facts, patience).await? {
            Reply::Facts(facts) => Ok(*facts),
            other => Err(GuestError::Protocol(format!("Facts was answered with {other:?}"))),
        }
    }
}

/// A guest that a person can sit at.
#[async_trait]
pub trait Interactive: Guest {
    /// A command at a terminal: see [`session::Session::interact`].
    async fn interact(
        &self,
        command: Exec,
        input: mpsc::Receiver<Interaction>,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError>;
}

/// A fresh nonce for one boot: 128 random bits in hexadecimal.
pub fn nonce() -> std::io::Result<String> {
    crate::support::random::hexadecimal(16)
}
