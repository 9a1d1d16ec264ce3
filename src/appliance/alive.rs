//! A machine and the session with the agent in it: a guest that can tell why a link broke.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use kiln_protocol::message::{Exec, Exited, Operation, Reply};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::guest::session::{Interaction, Session};
use crate::guest::{Guest, GuestError, Interactive, Sink};
use crate::machine::{Exit, Machine};
use crate::support::wait::{Impatience, Patience};

/// When a link breaks, the machine's end is mostly a moment away.
const MOMENT: Duration = Duration::from_secs(3);

/// From the agent's end, in an orderly shutdown, to that of its machine.
const GOING_DOWN: Duration = Duration::from_secs(20);

/// Lines of the console in which a kernel's last words are looked for.
const LAST_WORDS: usize = 100;

/// One boot, as long as it lasts. Dropped, its machine is killed.
pub struct Alive {
    pub machine: Machine,
    pub session: Session,
}

impl Alive {
    /// Does something with the guest. A broken link is told by what broke it: the machine's end, if it
    /// has ended, or the agent's, which QEMU sees long before the silence is long enough.
    async fn told<T>(
        &self,
        work: impl Future<Output = Result<T, GuestError>>,
        patience: &Patience,
    ) -> Result<T, GuestError> {
        let mut work = pin!(work);
        let result = tokio::select! {
            biased;
            result = &mut work => result,
            () = self.machine.agent_gone() => {
                // What it said last is on its way, or the whole guest goes down.
                match timeout(GOING_DOWN, &mut work).await {
                    Ok(result) => result,
                    Err(_) => {
                        self.session.give_up("the agent in the guest has ended");
                        work.await
                    }
                }
            }
        };
        let (doing, reason) = match result {
            Err(GuestError::Lost { doing, reason }) => (doing, reason),
            other => return other,
        };
        let moment = Patience::new(MOMENT, &patience.cancel);
        let end = self.machine.wait_exit(&moment).await;
        let last_words = self.last_words();
        let exit = match end {
            // Some kernels reset the machine when they panic, others stand still.
            Ok(Exit::GuestReset) | Err(_) if last_words.is_some() => Exit::Panicked,
            Ok(exit) => exit,
            Err(cancelled @ Impatience::Cancelled { .. }) => return Err(cancelled.into()),
            Err(_) => {
                let reason = format!("{reason}; the guest still runs");
                return Err(GuestError::Lost { doing, reason });
            }
        };
        let failure = match last_words {
            Some(words) => exit.unasked(&format!("{doing}; its last words: {words}")),
            None => exit.unasked(&doing),
        };
        Err(GuestError::Ended(Box::new(failure)))
    }

    /// What the kernel says of its panic, if the console holds one.
    fn last_words(&self) -> Option<String> {
        let said = self.machine.console_tail(LAST_WORDS);
        let words = said.iter().rev().find_map(|line| line.split_once("Kernel panic - not syncing: "));
        words.map(|(_, words)| words.trim().to_owned())
    }
}

#[async_trait]
impl Guest for Alive {
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        self.told(self.session.exec(command, sink, patience), patience).await
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        self.told(self.session.call(operation, patience), patience).await
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.told(self.session.send(operation, source, patience), patience).await
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.told(self.session.get(operation, limit, sink, patience), patience).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        self.told(self.session.connect(address, stream, begun, patience), patience).await
    }

    /// A machine lives for one boot: who has more than it brings the guest back.
    async fn reboot(&self, patience: &Patience) -> Result<(), GuestError> {
        self.session.reboot(patience).await
    }
}

#[async_trait]
impl Interactive for Alive {
    async fn interact(
        &self,
        command: Exec,
        input: mpsc::Receiver<Interaction>,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        self.told(self.session.interact(command, input, sink, patience), patience).await
    }
}
