//! prepare: an overlay on the parent, looked at and grown in the appliance.

use crate::appliance::{Appliance, ApplianceError, Kit};
use crate::boot::Watch;
use crate::build::begin::machine_folder;
use crate::build::event::What;
use crate::build::plan::GUEST_SPACE;
use crate::build::workshop::Workshop;
use crate::disk;
use crate::machine::{Cache, Disk};
use crate::model::{DiskFormat, Failure, Stage};
use crate::support::wait::Patience;
use std::path::Path;

impl Workshop {
    pub(in crate::build) async fn prepare(&mut self, patience: &Patience) -> Result<(), Failure> {
        let plan = self.plan.clone();
        let kit = self.kit(patience).await?;
        let parent = self.stored(&plan.parent.digest, plan.parent.format.as_str());
        let overlay = self.folder.join("overlay.qcow2");
        let grown = (plan.disk_size > plan.parent.virtual_size).then_some(plan.disk_size);
        let create =
            async { disk::create_overlay(&parent, plan.parent.format, &overlay, grown, patience).await };
        self.overlay = Some(self.hold(&overlay, create).await?);

        let appliance = self.appliance(&kit, &overlay, patience).await?;
        if grown.is_some() {
            let text = format!("growing disk, partition and file system to {} GiB", plan.disk_size >> 30);
            self.note(Stage::Prepare, text);
            appliance.grow(patience).await.map_err(|e| e.failure())?;
        }
        // The first boot takes the kernel from here instead of starting another appliance.
        let kernel = machine_folder(&self.folder).join("kernel");
        let surveyed = appliance.survey(&kernel, patience).await;
        let (facts, boot_files) = surveyed.map_err(|e| e.failure())?;
        self.boot_files = boot_files;
        if grown.is_none() {
            self.catalog.write(|t| t.note_free_space(&plan.parent.digest, facts.root.free))?;
        }
        appliance.shutdown(patience).await.map_err(|e| e.failure())?;
        self.note(
            Stage::Prepare,
            format!("{}, {} MiB free on its root", facts.os.name, facts.root.free >> 20),
        );
        if facts.root.free < GUEST_SPACE {
            let text =
                format!("the guest's root has only {} MiB free before the first step", facts.root.free >> 20);
            self.events.send(What::Warning { text });
        }
        self.facts = Some(facts);
        Ok(())
    }

    pub(super) async fn kit(&mut self, patience: &Patience) -> Result<Kit, Failure> {
        if let Some(kit) = &self.kit {
            return Ok(kit.clone());
        }
        let store = self.catalog.home().appliance();
        let kit = Kit::ensure(&store, self.plan.architecture(), patience).await;
        let kit = kit.map_err(|e| ApplianceError::from(e).failure())?;
        self.kit = Some(kit.clone());
        Ok(kit)
    }

    /// An appliance at work on the disk.
    pub(super) async fn appliance(
        &self,
        kit: &Kit,
        disk: &Path,
        patience: &Patience,
    ) -> Result<Appliance, Failure> {
        let disk = Disk::new(disk, DiskFormat::Qcow2).cache(Cache::Unsafe);
        let folder = self.folder.join("appliance");
        let appliance = Appliance::start(kit, vec![disk], self.plan.accelerator, &folder, patience)
            .await
            .map_err(|e| e.failure())?;
        self.watch.machine(appliance.machine().identity(), appliance.machine().folder());
        Ok(appliance)
    }
}
