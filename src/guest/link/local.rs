//! This machine as a guest: the agent that this kiln carries, over a socket pair.
//!
//! The agent ends when its socket closes, and the kernel closes that however
//! kiln ends; a parent-death signal, which fires when the spawning thread ends,
//! is not needed for it.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::OnceLock;

use async_trait::async_trait;
use kiln_protocol::message::{Exec, Exited, Operation, Reply};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::guest::session::{Expect, Session};
use crate::guest::{Guest, GuestError, Sink, agent, nonce};
use crate::model::Architecture;
use crate::support::wait::Patience;

/// The agent on this machine. Dropping it kills the agent and what it runs.
pub struct LocalGuest {
    session: Session,
    agent: Child,
}

impl LocalGuest {
    /// Starts the agent and shakes hands with it.
    ///
    /// # Errors
    /// [`GuestError::Local`] when it cannot be started, otherwise as [`Session::connect`].
    pub async fn start(patience: &Patience) -> Result<LocalGuest, GuestError> {
        let nonce = nonce()?;
        let (link, agent) = spawn(&nonce)?;
        let session = Session::connect(link, Expect::new(nonce), patience).await?;
        Ok(LocalGuest { session, agent })
    }

    /// The session, for what goes beyond [`Guest`].
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The agent's process id; None once it has ended and was noticed.
    pub fn pid(&self) -> Option<u32> {
        self.agent.id()
    }
}

/// Starts the carried agent on one end of a socket pair, in a process group of its own.
pub fn spawn(nonce: &str) -> Result<(UnixStream, Child), GuestError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    // Without close-on-exec for exactly this child: the duplicate is made there.
    let theirs = OwnedFd::from(theirs);
    let number = theirs.as_raw_fd();
    let mut command = Command::new(program()?);
    command
        .args(["--fd", &number.to_string()])
        .env_clear()
        .env("KILN_NONCE", nonce)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: one system call between fork and exec, on a descriptor that stays open until after it.
    unsafe {
        command.pre_exec(move || {
            let theirs = rustix::fd::BorrowedFd::borrow_raw(number);
            Ok(rustix::io::fcntl_setfd(theirs, rustix::io::FdFlags::empty())?)
        });
    }
    let child = command.spawn()?;
    drop(theirs);
    Ok((UnixStream::from_std(ours)?, child))
}

/// A path under which the agent's bytes can be executed: memory, not a file that could be left behind.
fn program() -> std::io::Result<String> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    let fd = match PROGRAM.get() {
        Some(fd) => fd,
        None => {
            let fd = memory()?;
            PROGRAM.get_or_init(|| fd)
        }
    };
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn memory() -> std::io::Result<OwnedFd> {
    let bytes = agent::binary(Architecture::HOST).expect("a kiln carries the agent of its own architecture");
    // Since 6.3 a kernel may be set to make such memory not executable unless asked; before, it refuses the flag.
    let create = |flags| memfd_create(c"kiln-agent", flags);
    let fd = create(MemfdFlags::CLOEXEC | MemfdFlags::EXEC).or_else(|_| create(MemfdFlags::CLOEXEC))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    // A file that is open for writing cannot be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(OwnedFd::from(File::open(path)?))
}

#[async_trait]
impl Guest for LocalGuest {
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        self.session.exec(command, sink, patience).await
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        self.session.call(operation, patience).await
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.session.send(operation, source, patience).await
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.session.get(operation, limit, sink, patience).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        self.session.connect(address, stream, begun, patience).await
    }

    async fn reboot(&self, patience: &Patience) -> Result<(), GuestError> {
        self.session.reboot(patience).await
    }
}
