//! A guest that is woken instead of booted, where that is wanted and can be. Nothing fails for its sake.

use super::machines::Hardware;
use crate::appliance::DiskFacts;
use crate::appliance::warm::{Identity, State, Store, WarmError, host_cpu};
use crate::boot::warm::{self, About, Known, Origin};
use crate::boot::{BootRequest, BootedGuest, Holds, Start, Watch};
use crate::guest::agent;
use crate::machine::{Interface, Qemu};
use crate::model::{Failure, FailureKind};
use crate::support::clock::human_duration;
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What of a build may wake instead of booting, and where it is kept. None: it boots.
#[derive(Clone, Debug, Default)]
pub struct Warm {
    pub appliances: Option<Store>,
    pub guests: Option<Store>,
}

/// A disk that guests are booted from, each on an overlay of its own.
#[derive(Clone, Debug)]
pub struct Stand<'a> {
    /// For people.
    pub title: &'a str,
    /// A qcow2 file, and its digest.
    pub path: &'a Path,
    pub digest: &'a str,
    /// Bytes that a guest sees.
    pub size: u64,
    pub start: Start,
}

/// Where guests like one are kept.
pub struct Warmth {
    store: Store,
    identity: Identity,
    title: String,
    parent: PathBuf,
    memory: u64,
    watch: Arc<dyn Watch>,
}

impl Warmth {
    /// None: machines like this one cannot be kept.
    pub async fn of(
        store: &Store,
        hardware: &Hardware,
        stand: Stand<'_>,
        watch: Arc<dyn Watch>,
        patience: &Patience,
    ) -> Result<Option<Warmth>, Failure> {
        let Some(agent) = agent::binary(hardware.architecture) else { return Ok(None) };
        if hardware.interface == Interface::Nvme {
            watch.note("a machine with an NVMe disk cannot be kept warm: this boots");
            return Ok(None);
        }
        let qemu = Qemu::find(hardware.architecture, patience).await.map_err(|e| e.failure())?;
        let origin = Origin {
            disk: stand.digest,
            size: stand.size,
            architecture: hardware.architecture,
            accelerator: hardware.accelerator,
            cpu: &hardware.cpu,
            host_cpu: host_cpu(hardware.accelerator),
            vcpus: hardware.vcpus,
            memory: hardware.memory,
            interface: hardware.interface,
            network: &hardware.network,
            start: stand.start,
            qemu: &qemu.stamp(),
            agent,
        };
        Ok(Some(Warmth {
            store: store.clone(),
            identity: origin.identity(),
            title: stand.title.into(),
            parent: stand.path.into(),
            memory: hardware.memory,
            watch,
        }))
    }

    /// A guest from the state that is there. `request` makes the request of an ordinary boot, whose disk is
    /// written here. None: it has to be booted, on a disk that is made anew.
    pub async fn wake(
        &self,
        request: impl FnOnce(&Known) -> Result<BootRequest, Failure>,
        patience: &Patience,
    ) -> Result<Option<BootedGuest>, Failure> {
        let begun = Instant::now();
        let found = self.store.find(&self.identity).and_then(|state| state.map(known).transpose());
        let (known, state) = match found {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => found,
            Err(e) => return self.unfit(&e).map(|()| None),
        };
        let request = request(&known)?;
        let disk = request.spec.disks[0].path.clone();
        match warm::wake(&state, request, &self.parent, self.watch.clone(), patience).await {
            Ok(guest) => {
                let took = human_duration(begun.elapsed().as_millis() as u64);
                self.watch.note(&format!("woke from a warm state of {} within {took}", self.title));
                Ok(Some(guest))
            }
            Err(e) => {
                self.unfit(&e)?;
                self.store.remove(&state);
                unlink(&disk);
                Ok(None)
            }
        }
    }

    /// Keeps a guest that has just booted, and wakes one from what was kept: which is the proof of it.
    /// `disk` is the guest's, `staging` as for [`warm::keep`]. None: the guest is lost, and a new one has to be booted.
    pub async fn keep(
        &self,
        guest: BootedGuest,
        facts: &DiskFacts,
        (disk, staging): (&Path, &Path),
        request: impl FnOnce(&Known) -> Result<BootRequest, Failure>,
        patience: &Patience,
    ) -> Result<Option<BootedGuest>, Failure> {
        if !self.store.has_room(self.memory) {
            self.watch.note("there is no room to keep this guest warm");
            return Ok(Some(guest));
        }
        let begun = Instant::now();
        let about = About {
            identity: &self.identity,
            title: &self.title,
            holds: Holds::of(facts),
            machine_id: facts.machine_id,
        };
        let kept = warm::keep(&self.store, guest, about, staging, patience).await.and_then(known);
        let (known, state) = match kept {
            Ok(kept) => kept,
            Err(e) => {
                self.unfit(&e)?;
                unlink(disk);
                return Ok(None);
            }
        };
        let request = request(&known)?;
        match warm::wake(&state, request, &self.parent, self.watch.clone(), patience).await {
            Ok(guest) => {
                let (mib, took) = (state.bytes() >> 20, human_duration(begun.elapsed().as_millis() as u64));
                let text = match state.is_kept() {
                    true => format!("kept {} warm for the next time: {mib} MiB, {took}", self.title),
                    false => {
                        format!("this guest is not kept warm: another is there, or {mib} MiB are too much")
                    }
                };
                self.watch.note(&text);
                Ok(Some(guest))
            }
            Err(e) => {
                self.unfit(&e)?;
                self.store.remove(&state);
                unlink(disk);
                Ok(None)
            }
        }
    }

    /// Tells why it boots instead.
    fn unfit(&self, error: &WarmError) -> Result<(), Failure> {
        if error.is_cancelled() {
            return Err(Failure::new(FailureKind::Cancelled, error.to_string()));
        }
        self.watch.note(&format!("no warm start of {}, so it boots: {error}", self.title));
        Ok(())
    }
}

fn known(state: State) -> Result<(Known, State), WarmError> {
    Ok((Known::of(&state)?, state))
}

/// A machine that was just killed may have it open for a moment yet: what is made anew is another file.
fn unlink(disk: &Path) {
    let _ = std::fs::remove_file(disk);
}
