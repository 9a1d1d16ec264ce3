//! boot: the machine of the first component comes up. A guest has the agent in it then, and has settled.

use crate::appliance::{BootFiles, DiskFacts, Kit};
use crate::boot::{BootRequest, BootedGuest, CloudInit, Holds, Start};
use crate::build::begin::machine_folder;
use crate::build::event::What;
use crate::build::machines::{Hardware, Wanted, interface, network};
use crate::build::running::Running;
use crate::build::workshop::Workshop;
use crate::machine::{Cache, Disk};
use crate::model::{Failure, Stage};
use crate::support::wait::Patience;
use std::path::PathBuf;
use std::time::Duration;

/// What a guest on the build's disk is booted with.
pub(super) struct Boot {
    pub stage: Stage,
    pub facts: DiskFacts,
    pub overlay: PathBuf,
    pub hardware: Hardware,
    pub kit: Kit,
    pub first: Option<BootFiles>,
    pub tray: Option<Disk>,
}

impl Workshop {
    pub(in crate::build) async fn boot(&mut self, patience: &Patience) -> Result<(), Failure> {
        if self.plan.layers.is_complete() {
            self.note(Stage::Boot, "nothing to boot for: all components are in the layer");
            return Ok(());
        }
        self.take_lane(self.plan.first_lane(), Stage::Boot, patience).await
    }

    pub(super) async fn boot_guest(&mut self, stage: Stage, patience: &Patience) -> Result<(), Failure> {
        let mut boot = Boot {
            stage,
            facts: self.facts()?.clone(),
            overlay: self.overlay()?.to_owned(),
            hardware: self.hardware(),
            kit: self.kit(patience).await?,
            first: self.boot_files.take(),
            tray: None,
        };
        // Before the first component there is nothing on the disk but what it stands on.
        let warmth = if stage == Stage::Boot { self.warmth(patience).await? } else { None };
        let guest = match warmth {
            // A memory goes on only in a machine like the one that it was saved in, whatever this build
            // brings: its files come over the link.
            Some(warmth) => self.wake(&warmth, &boot, patience).await?,
            None => {
                boot.tray = self.tray(stage, patience).await?;
                self.boot_it(&boot, patience).await?
            }
        };
        self.tell_failed_units(&guest);
        self.running = Some(Running::Guest(guest));
        Ok(())
    }

    pub(super) async fn boot_it(&self, boot: &Boot, patience: &Patience) -> Result<BootedGuest, Failure> {
        let mut request = self.request(boot, Holds::of(&boot.facts))?;
        request.further.extend(boot.tray.clone());
        request.hold_cloud_init_back(&boot.facts, &self.build);
        self.note(boot.stage, format!("the agent comes by {}", request.route));
        BootedGuest::start(request, self.watch.clone(), patience).await.map_err(|e| e.failure())
    }

    pub(super) fn request(&self, boot: &Boot, holds: Holds) -> Result<BootRequest, Failure> {
        let timeouts = self.plan.recipe.settings.timeouts;
        Wanted {
            name: &self.build,
            hardware: &boot.hardware,
            disk: &boot.overlay,
            // The disk is thrown away with the build if the host goes down.
            cache: Cache::Unsafe,
            folder: machine_folder(&self.folder),
            holds,
            start: self.start(),
            cloud_init: CloudInit::Alone,
            kit: boot.kit.clone(),
            first: boot.first.clone(),
            limit: Duration::from_secs(timeouts.boot),
            life: Duration::from_secs(timeouts.build),
        }
        .request()
    }

    pub(super) fn start(&self) -> Start {
        self.plan.firmware.map_or(Start::Fast, Start::Real)
    }

    pub(super) fn hardware(&self) -> Hardware {
        let plan = &self.plan;
        let settings = &plan.recipe.settings;
        Hardware {
            architecture: plan.architecture(),
            accelerator: plan.accelerator,
            cpu: plan.cpu.clone(),
            vcpus: plan.vcpus,
            memory: settings.memory,
            interface: interface(settings.disk),
            network: network(settings.network),
        }
    }

    pub(super) fn tell_failed_units(&self, guest: &BootedGuest) {
        let failed = guest.ready().failed_units;
        if !failed.is_empty() {
            let text = format!("the guest is up, but these units failed: {}", failed.join(", "));
            self.events.send(What::Warning { text });
        }
    }
}
