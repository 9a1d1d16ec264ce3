//! A guest across its reboots: every boot is a new machine on the same disk.

use super::class::Class;
use super::error::BootError;
use super::ready::{self, NotReady, Ready, Waiting};
use super::start::{
    BootRequest, CONSOLE_LINES, Started, decided, down_with, end_soon, not_ready_with, start,
};
use crate::appliance::Alive;
use crate::guest::session::Interaction;
use crate::guest::{Guest, GuestError, GuestFiles, Interactive, Sink};
use crate::machine::{Exit, Identity, Machine, MachineError};
use crate::model::{Failure, FailureKind};
use crate::support::wait::{Impatience, Patience};
use async_trait::async_trait;
use kiln_protocol::message::{Exec, Exited, Operation, PowerAction, Reply};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// From asking the guest to go down to the end of its machine. systemd gives a service 90 s.
const DOWN_LIMIT: Duration = Duration::from_secs(180);
/// The same where nobody could be asked: it may be on its way all the same.
const UNASKED_LIMIT: Duration = Duration::from_secs(30);
/// From a boot that comes to nothing to what its console says of it.
const MOMENT: Duration = Duration::from_secs(3);

/// Who wants to know what a boot does. Called from the task that boots.
pub trait Watch: Send + Sync {
    /// A machine runs: what a journal needs to end it if kiln does not live to do it.
    fn machine(&self, identity: Identity, folder: &Path);
    fn note(&self, text: &str);
    fn waiting(&self, waiting: Waiting);
}

/// A guest that is ready. Dropped, its machine is killed.
pub struct BootedGuest {
    request: BootRequest,
    watch: Arc<dyn Watch>,
    alive: RwLock<Arc<Alive>>,
    ready: RwLock<Ready>,
    started: RwLock<Started>,
}

/// A guest that is on its way into a memory.
pub(super) struct Lying {
    pub request: BootRequest,
    pub watch: Arc<dyn Watch>,
    pub alive: Alive,
    pub ready: Ready,
    pub started: Started,
}

impl BootedGuest {
    /// Boots the request's disk and returns when the boot is over.
    pub async fn start(
        request: BootRequest,
        watch: Arc<dyn Watch>,
        patience: &Patience,
    ) -> Result<BootedGuest, BootError> {
        let (alive, started, ready) = up(&request, true, &*watch, patience).await?;
        Ok(BootedGuest::stand(Lying { request, watch, alive, ready, started }))
    }

    pub(super) fn stand(lying: Lying) -> BootedGuest {
        let Lying { request, watch, alive, ready, started } = lying;
        BootedGuest {
            request,
            watch,
            alive: RwLock::new(Arc::new(alive)),
            ready: RwLock::new(ready),
            started: RwLock::new(started),
        }
    }

    /// None: something is still going on with it.
    pub(super) fn lie_down(self) -> Option<Lying> {
        const WHOLE: &str = "no panic while held";
        Some(Lying {
            request: self.request,
            watch: self.watch,
            alive: Arc::into_inner(self.alive.into_inner().expect(WHOLE))?,
            ready: self.ready.into_inner().expect(WHOLE),
            started: self.started.into_inner().expect(WHOLE),
        })
    }

    /// What the last boot left to say: failed units.
    pub fn ready(&self) -> Ready {
        self.ready.read().expect("no panic while held").clone()
    }

    /// The machine of this boot, for screenshots and the console.
    pub fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.now().machine)
    }

    /// Writes what the screen shows as PNG.
    pub async fn screenshot(&self, path: &Path, patience: &Patience) -> Result<(), BootError> {
        self.now().machine.screenshot(path, patience).await?;
        Ok(())
    }

    /// The disk goes on in this file, also over reboots: see [`Machine::snapshot_disk`].
    pub async fn snapshot_disk(&mut self, overlay: &Path, patience: &Patience) -> Result<(), MachineError> {
        self.now().machine.snapshot_disk(overlay, patience).await?;
        self.request.spec.disks[0].path = overlay.to_owned();
        Ok(())
    }

    /// Resolves when the machine ends without having been asked to.
    pub async fn ended(&self, patience: &Patience) -> Result<Exit, Impatience> {
        let now = self.now();
        now.machine.wait_exit(patience).await
    }

    /// Powers off in the guest's ordinary way. The disk is whole when this returns `Ok`.
    pub async fn shutdown(self, patience: &Patience) -> Result<(), BootError> {
        let now = self.now();
        match down(&now, PowerAction::PowerOff, patience).await? {
            Exit::GuestShutdown => Ok(()),
            exit => Err(BootError::Ended { exit, console: now.machine.console_tail(CONSOLE_LINES) }),
        }
    }

    /// The next boot, after the guest has reset its machine.
    pub async fn boot_again(&self, patience: &Patience) -> Result<(), BootError> {
        let (alive, started, ready) = up(&self.request, false, &*self.watch, patience).await?;
        *self.alive.write().expect("no panic while held") = Arc::new(alive);
        *self.ready.write().expect("no panic while held") = ready;
        *self.started.write().expect("no panic while held") = started;
        Ok(())
    }

    fn now(&self) -> Arc<Alive> {
        self.alive.read().expect("no panic while held").clone()
    }
}

/// Asks the guest to go down and waits for the end of its machine.
async fn down(now: &Alive, action: PowerAction, patience: &Patience) -> Result<Exit, BootError> {
    let mut limit = patience.at_most(DOWN_LIMIT);
    let asked = now.session.act(Operation::Power { action }, &limit).await;
    match asked {
        Ok(_) => {}
        // It may still heed its power button.
        Err(_) if action == PowerAction::PowerOff => {
            let pressed = now.machine.power_button(&limit).await;
            if now.machine.exited().is_none() {
                pressed?;
            }
        }
        Err(GuestError::Lost { .. }) => limit = patience.at_most(UNASKED_LIMIT),
        Err(e) => return Err(BootError::NotOff(e.to_string())),
    }
    match now.machine.wait_exit(&limit).await {
        Ok(exit) => Ok(exit),
        Err(e) => {
            now.machine.kill();
            let tail = now.machine.console_tail(3).join(" / ");
            patience.wait("the guest to go down", std::future::ready(())).await?;
            Err(BootError::NotOff(format!("{e}; its console ends with: {tail}")))
        }
    }
}

/// One boot, from start to ready.
async fn up(
    request: &BootRequest,
    first: bool,
    watch: &dyn Watch,
    patience: &Patience,
) -> Result<(Alive, Started, Ready), BootError> {
    let patience = patience.at_most(request.limit);
    let (alive, started) = start(request, first, watch, &patience).await?;
    let ready = {
        let tell = |w: Waiting| watch.waiting(w);
        let waiting = ready::wait(&alive.session, &tell, &patience);
        tokio::select! {
            biased;
            ready = waiting => ready,
            exit = alive.machine.wait_exit(&patience) => {
                return Err(down_with(request, &alive.machine, Some(exit?)).await);
            }
            () = decided(&alive.machine) => {
                return Err(down_with(request, &alive.machine, alive.machine.exited()).await);
            }
        }
    };
    match ready {
        Ok(ready) => Ok((alive, started, ready)),
        Err(NotReady::Guest(GuestError::Impatience(cancelled @ Impatience::Cancelled { .. }))) => {
            Err(cancelled.into())
        }
        Err(NotReady::Rescue(_)) => {
            // Its console is about to say so, too.
            let _ = tokio::time::timeout(MOMENT, decided(&alive.machine)).await;
            let mut error = down_with(request, &alive.machine, alive.machine.exited()).await;
            if let BootError::Down { class: class @ Class::Unknown, .. } = &mut error {
                *class = Class::EmergencyShell;
            }
            Err(error)
        }
        Err(source) => {
            let lost = matches!(source, NotReady::Guest(GuestError::Lost { .. }));
            if let Some(exit) = end_soon(&alive.machine, lost, &patience).await {
                return Err(down_with(request, &alive.machine, Some(exit)).await);
            }
            Err(not_ready_with(request, &alive.machine, source).await)
        }
    }
}

#[async_trait]
impl Guest for BootedGuest {
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        let now = self.now();
        now.exec(command, sink, patience).await
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        let now = self.now();
        now.call(operation, patience).await
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let now = self.now();
        now.send(operation, source, patience).await
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let now = self.now();
        now.get(operation, limit, sink, patience).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        let now = self.now();
        now.connect(address, stream, begun, patience).await
    }

    async fn reboot(&self, patience: &Patience) -> Result<(), GuestError> {
        let now = self.now();
        let before = now.session.hello().boot_id.clone();
        self.watch.note("the guest reboots");
        let failed = |e: BootError| GuestError::Reboot(Box::new(e.failure()));
        match down(&now, PowerAction::Reboot, patience).await.map_err(failed)? {
            Exit::GuestReset => {}
            other => return Err(GuestError::Reboot(Box::new(other.unasked("asking it to reboot")))),
        }
        drop(now);
        self.boot_again(patience).await.map_err(failed)?;
        if self.now().session.hello().boot_id == before {
            let failure = Failure::new(FailureKind::Build, "its boot id is the same as before");
            return Err(GuestError::Reboot(Box::new(failure)));
        }
        Ok(())
    }
}

#[async_trait]
impl Interactive for BootedGuest {
    async fn interact(
        &self,
        command: Exec,
        input: mpsc::Receiver<Interaction>,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        self.now().interact(command, input, sink, patience).await
    }
}
