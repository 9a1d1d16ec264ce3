//! A machine with its agent, into a memory and out of it.

use std::path::Path;
use std::time::Duration;

use super::{Alive, WarmError};
use crate::guest::session::{Expect, Session, Waking};
use crate::guest::{GuestError, nonce};
use crate::machine::{Machine, MachineSpec, Memory};
use crate::support::wait::Patience;
use tokio::sync::broadcast::error::RecvError;

/// Until the agent, left by its host, has ended what it did and waits for another one. QEMU tells of
/// ports once a second at most.
const LET_GO: Duration = Duration::from_secs(30);

/// From the restored machine's first step to its agent's greeting.
const WAKE: Duration = Duration::from_secs(60);

/// Ends the session and saves the memory in which the agent waits for the next host: nothing that belongs
/// to this conversation is under way any more, at either end. The machine has ended afterwards.
pub async fn lay_down(alive: Alive, path: &Path, patience: &Patience) -> Result<Memory, WarmError> {
    let Alive { machine, session } = alive;
    match save(&machine, session, path, patience).await {
        Ok(memory) => Ok(memory),
        Err(error) => {
            machine.be_gone(patience).await;
            Err(error)
        }
    }
}

async fn save(
    machine: &Machine,
    session: Session,
    path: &Path,
    patience: &Patience,
) -> Result<Memory, WarmError> {
    let mut events = machine.qmp().events();
    drop(session);
    let waits = async {
        loop {
            match events.recv().await {
                Ok(e) if e.name == "VSERPORT_CHANGE" && e.data["open"] == true => return true,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return false,
            }
        }
    };
    let limit = patience.at_most(LET_GO);
    tokio::select! {
        biased;
        waits = limit.wait("the agent to let go of its host", waits) => waits?,
        exit = machine.wait_exit(patience) => return Err(WarmError::Ended(exit?)),
    };
    Ok(machine.save_memory(path, patience).await?)
}

/// Starts a machine from a memory that [`lay_down`] saved. Its guest is this start's own when this returns:
/// with the nonce of this start, which is returned too.
pub async fn rouse(
    memory: &Memory,
    spec: &MachineSpec,
    folder: &Path,
    waking: &Waking,
    patience: &Patience,
) -> Result<(Alive, String), WarmError> {
    let nonce = nonce().map_err(|e| WarmError::Asleep(GuestError::Local(e)))?;
    let machine = Machine::start_from(memory, spec, folder, patience).await?;
    let link = machine.agent_link().expect("a machine has its link until somebody takes it");
    let limit = patience.at_most(WAKE);
    let session = tokio::select! {
        biased;
        session = Session::wake(link, waking, Expect::new(&nonce), &limit) => session.map_err(WarmError::Asleep),
        exit = machine.wait_exit(&limit) => Err(exit.map_or_else(WarmError::from, WarmError::Ended)),
    };
    match session {
        Ok(session) => Ok((Alive { machine, session }, nonce)),
        Err(error) => {
            machine.be_gone(patience).await;
            Err(error)
        }
    }
}
