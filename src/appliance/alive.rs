//! A machine and the session with the agent in it: a guest that can tell why a link broke.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use kiln_protocol::message::{Exec, Exited, Operation, Reply};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::guest::session::{Interaction, Session};
use crate::guest::{Guest, GuestError, Interactive, Sink};
use crate::machine::{Exit, Machine};
use crate::support::wait::Patience;

/// When a link breaks, the machine's end is mostly a moment away.
const MOMENT: Duration = Duration::from_secs(3);

/// Lines of the console in which a kernel's last words are looked for.
const LAST_WORDS: usize = 100;

/// One boot, as long as it lasts. Dropped, its machine is killed.
pub struct Alive {
    pub machine: Machine,
    pub session: Session,
}

impl Alive {
    /// A broken link is told by what broke it: the machine's end, if it has ended.
    async fn told<T>(&self, result: Result<T, GuestError>, patience: &Patience) -> Result<T, GuestError> {
        let (doing, reason) = match result {
            Err(GuestError::Lost { doing, reason }) => (doing, reason),
            other => return other,
        };
        let moment = Patience::new(MOMENT, &patience.cancel);
        let exit = match self.machine.wait_exit(&moment).await {
            // Some kernels reset the machine when they panic, others stand still.
            Ok(Exit::GuestReset) | Err(_) if self.panicked() => Exit::Panicked,
            Ok(exit) => exit,
            Err(_) => {
                let agent = match self.machine.agent_has_left() {
                    true => "the agent in it has ended",
                    false => "the agent in it does not answer",
                };
                let reason = format!("{reason}; the guest still runs, but {agent}");
                return Err(GuestError::Lost { doing, reason });
            }
        };
        Err(GuestError::Ended(Box::new(exit.unasked(&doing))))
    }

    fn panicked(&self) -> bool {
        let said = self.machine.console_tail(LAST_WORDS);
        said.iter().any(|line| line.contains("Kernel panic - not syncing"))
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
        self.told(self.session.exec(command, sink, patience).await, patience).await
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        self.told(self.session.call(operation, patience).await, patience).await
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.told(self.session.send(operation, source, patience).await, patience).await
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        self.told(self.session.get(operation, limit, sink, patience).await, patience).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        self.told(self.session.connect(address, stream, begun, patience).await, patience).await
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
        self.told(self.session.interact(command, input, sink, patience).await, patience).await
    }
}
