//! test: the captured disk in fresh machines, one per firmware; what they write is thrown away.

use super::provision::Phases;
use crate::appliance::Appliance;
use crate::boot::{BootedGuest, CloudInit, Holds, Start};
use crate::build::begin::test_folder;
use crate::build::machines::Wanted;
use crate::build::plan::TEST_PHASES;
use crate::build::running::Running;
use crate::build::workshop::Workshop;
use crate::disk;
use crate::machine::{Cache, Disk};
use crate::model::{DiskFormat, Failure, Firmware, Stage};
use crate::support::wait::Patience;
use std::time::Duration;

impl Workshop {
    pub(in crate::build) async fn test(&mut self, patience: &Patience) -> Result<(), Failure> {
        self.recall_captured()?;
        if self.facts.is_none() {
            self.look_at_captured(patience).await?;
        }
        let plan = self.plan.clone();
        let patience = patience.at_most(Duration::from_secs(plan.recipe.test_timeout));
        for (round, firmware) in plan.test_firmware.iter().enumerate() {
            let offset = plan.to_provision().count() + round * plan.test.len();
            self.test_under(*firmware, offset as u32, &patience).await?;
        }
        Ok(())
    }

    /// Another build has captured the disk: this one has not seen what is on it.
    async fn look_at_captured(&mut self, patience: &Patience) -> Result<(), Failure> {
        let (captured, path) = (self.captured()?.to_owned(), self.folder.join("look.qcow2"));
        let create = disk::create_overlay(&captured, DiskFormat::Qcow2, &path, None, patience);
        let held = self.hold(&path, create).await?;
        let kit = self.kit(patience).await?;
        let (disk, folder) =
            (Disk::new(&path, DiskFormat::Qcow2).cache(Cache::Unsafe), self.folder.join("appliance"));
        let appliance = Appliance::start(&kit, vec![disk], self.plan.accelerator, &folder, patience).await;
        let appliance = appliance.map_err(|e| e.failure())?;
        self.tell_of(&appliance);
        self.facts = Some(appliance.inspect(patience).await.map_err(|e| e.failure())?);
        appliance.shutdown(patience).await.map_err(|e| e.failure())?;
        Ok(self.give_back(&held)?)
    }

    async fn test_under(
        &mut self,
        firmware: Firmware,
        offset: u32,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let plan = self.plan.clone();
        let captured = self.captured()?.to_owned();
        let path = self.folder.join(format!("test-{firmware}.qcow2"));
        let create = disk::create_overlay(&captured, DiskFormat::Qcow2, &path, None, patience);
        let overlay = self.hold(&path, create).await?;
        self.note(Stage::Test, format!("booting a fresh machine under {firmware}"));
        let facts = self.facts()?;
        let instance_id = format!("{}-test-{firmware}", self.build);
        let cloud_init = match &facts.cloud_init {
            Some(c) if c.takes_seed => {
                let hostname = crate::model::slug(plan.recipe.name.as_str());
                CloudInit::FirstBoot { instance_id, hostname, user_data: None }
            }
            _ => CloudInit::Alone,
        };
        let request = Wanted {
            name: &format!("{}-test", self.build),
            hardware: &self.hardware(),
            disk: &overlay.path,
            cache: Cache::Unsafe,
            folder: test_folder(&self.folder, firmware),
            holds: Holds::of(facts),
            start: Start::Real(firmware),
            cloud_init,
            kit: self.kit(patience).await?,
            first: None,
            limit: Duration::from_secs(plan.recipe.settings.timeouts.boot),
            life: Duration::from_secs(plan.recipe.test_timeout),
        }
        .request()?;
        let guest =
            BootedGuest::start(request, self.watch.clone(), patience).await.map_err(|e| e.failure())?;
        self.tell_failed_units(&guest);
        self.running = Some(Running::Guest(guest));
        let all = 0..plan.components.len();
        let run = Phases { stage: Stage::Test, components: all, names: &TEST_PHASES, offset };
        self.run_phases(run, self.options(Stage::Test), patience).await?;
        // Its disk is thrown away: an orderly end would cost time and give nothing.
        self.end_machine().await;
        self.give_back(&overlay)?;
        Ok(())
    }
}
