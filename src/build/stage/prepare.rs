//! prepare: an overlay on the parent, looked at and grown in the appliance.

use crate::appliance::{ApplianceError, Kit};
use crate::build::event::What;
use crate::build::layers::Base;
use crate::build::plan::GUEST_SPACE;
use crate::build::recipe::Lane;
use crate::build::running::Running;
use crate::build::workshop::Workshop;
use crate::disk;
use crate::model::{DiskFormat, Failure, Stage};
use crate::support::clock;
use crate::support::wait::Patience;

impl Workshop {
    pub(in crate::build) async fn prepare(&mut self, patience: &Patience) -> Result<(), Failure> {
        let plan = self.plan.clone();
        let base = match &plan.layers.resume {
            Some(resume) => Base::of(&resume.artifact),
            None => Base::of(&plan.parent.artifact()),
        };
        let overlay = self.catalog.home().build_disk(&self.build);
        // A layer has been grown.
        let from_parent = plan.layers.resume.is_none();
        let grown = (from_parent && plan.disk_size > plan.parent.virtual_size).then_some(plan.disk_size);
        let path = base.path(self.catalog.home());
        let create =
            async { disk::create_overlay(&path, DiskFormat::Qcow2, &overlay, grown, patience).await };
        self.overlay = Some(self.hold(&overlay, create).await?);
        self.base = Some(base);
        if let Some(resume) = &plan.layers.resume {
            self.ran.clone_from(&resume.ran);
            let (last, at) = (&resume.layer.component, clock::rfc3339(resume.layer.created));
            let text =
                format!("starting from the layer after {last}, made by {} at {at}", resume.layer.build);
            self.note(Stage::Prepare, text);
        }

        let lane = plan.first_lane();
        let appliance = self.disk_in_appliance(Stage::Prepare, lane, patience).await?;
        if grown.is_some() {
            let text = format!("growing disk, partition and file system to {} GiB", plan.disk_size >> 30);
            self.note(Stage::Prepare, text);
            appliance.grow(patience).await.map_err(|e| e.failure())?;
        }
        match lane {
            Lane::Booted => {
                self.survey(&appliance, patience).await?;
                appliance.shutdown(patience).await.map_err(|e| e.failure())?;
            }
            Lane::Appliance => {
                self.facts = Some(appliance.inspect(patience).await.map_err(|e| e.failure())?);
                self.running = Some(Running::Appliance(appliance));
            }
        }
        let facts = self.facts()?;
        if from_parent && grown.is_none() {
            self.catalog.write(|t| t.note_free_space(&plan.parent.digest, facts.root.free))?;
        }
        self.note(
            Stage::Prepare,
            format!("{}, {} MiB free on its root", facts.os.name, facts.root.free >> 20),
        );
        if facts.root.free < GUEST_SPACE {
            let text =
                format!("the guest's root has only {} MiB free before the first step", facts.root.free >> 20);
            self.events.send(What::Warning { text });
        }
        Ok(())
    }

    pub(super) async fn kit(&mut self, patience: &Patience) -> Result<Kit, Failure> {
        if let Some(kit) = &self.kit {
            return Ok(kit.clone());
        }
        let store = self.catalog.home().appliance();
        let kit = Kit::ensure(&store, self.plan.architecture(), patience).await;
        let kit = kit.map_err(|e| ApplianceError::from(e).failure())?;
        let kit = kit.warmed(self.warm.appliances.as_ref());
        self.kit = Some(kit.clone());
        Ok(kit)
    }
}
