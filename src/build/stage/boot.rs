//! boot: the machine of the first component comes up. A guest has the agent in it then, and has settled.

use crate::boot::{BootedGuest, CloudInit, Holds, Start};
use crate::build::begin::machine_folder;
use crate::build::event::What;
use crate::build::machines::{Hardware, Wanted, interface, network};
use crate::build::running::Running;
use crate::build::workshop::Workshop;
use crate::machine::Cache;
use crate::model::{Failure, Stage};
use crate::support::wait::Patience;
use std::time::Duration;

impl Workshop {
    pub(in crate::build) async fn boot(&mut self, patience: &Patience) -> Result<(), Failure> {
        if self.plan.layers.is_complete() {
            self.note(Stage::Boot, "nothing to boot for: all components are in the layer");
            return Ok(());
        }
        self.take_lane(self.plan.first_lane(), Stage::Boot, patience).await
    }

    pub(super) async fn boot_guest(&mut self, stage: Stage, patience: &Patience) -> Result<(), Failure> {
        let plan = self.plan.clone();
        let (facts, overlay) = (self.facts()?.clone(), self.overlay()?.to_owned());
        let settings = &plan.recipe.settings;
        let hardware = self.hardware();
        let timeouts = settings.timeouts;
        let (kit, first) = (self.kit(patience).await?, self.boot_files.take());
        let mut request = Wanted {
            name: &self.build,
            hardware: &hardware,
            disk: &overlay,
            // The disk is thrown away with the build if the host goes down.
            cache: Cache::Unsafe,
            folder: machine_folder(&self.folder),
            holds: Holds::of(&facts),
            start: plan.firmware.map_or(Start::Fast, Start::Real),
            cloud_init: CloudInit::Alone,
            kit,
            first,
            limit: Duration::from_secs(timeouts.boot),
            life: Duration::from_secs(timeouts.build),
        }
        .request()?;
        request.hold_cloud_init_back(&facts, &self.build);
        self.note(stage, format!("the agent comes by {}", request.route));
        let guest =
            BootedGuest::start(request, self.watch.clone(), patience).await.map_err(|e| e.failure())?;
        self.tell_failed_units(&guest);
        self.running = Some(Running::Guest(guest));
        Ok(())
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
