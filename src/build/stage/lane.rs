//! The disk goes from one kind of machine to another, in order.

use crate::appliance::Appliance;
use crate::boot::Watch;
use crate::build::begin::machine_folder;
use crate::build::event::What;
use crate::build::recipe::Lane;
use crate::build::running::Running;
use crate::build::workshop::Workshop;
use crate::machine::{Cache, Disk, MachineSpec, Network};
use crate::model::{DiskFormat, Failure, Stage};
use crate::support::wait::Patience;
use std::time::Duration;

impl Workshop {
    /// Brings the disk into the machine that the lane runs in. One that has it goes down in order.
    pub(super) async fn take_lane(
        &mut self,
        lane: Lane,
        stage: Stage,
        patience: &Patience,
    ) -> Result<(), Failure> {
        if self.running.as_ref().is_some_and(|running| running.lane() == Some(lane)) {
            return Ok(());
        }
        match lane {
            Lane::Appliance => {
                let appliance = self.disk_in_appliance(stage, Lane::Appliance, patience).await?;
                let network = self.hardware().network != Network::None;
                let chroot = appliance.chroot(network, patience).await.map_err(|e| e.failure())?;
                for note in chroot.notes() {
                    self.events.send(What::Warning { text: note.clone() });
                }
                self.note(stage, "the appliance has the image's tree; nothing of it is started");
                self.running = Some(Running::Chroot(chroot));
            }
            Lane::Booted => {
                if self.running.is_some() {
                    let appliance = self.disk_in_appliance(stage, Lane::Booted, patience).await?;
                    // Components may have changed what it is booted with.
                    self.survey(&appliance, patience).await?;
                    appliance.shutdown(patience).await.map_err(|e| e.failure())?;
                }
                self.boot_guest(stage, patience).await?;
            }
        }
        Ok(())
    }

    /// An appliance with nothing mounted: the one that runs, or else a new one, fit for the lane that
    /// comes next.
    pub(super) async fn disk_in_appliance(
        &mut self,
        stage: Stage,
        next: Lane,
        patience: &Patience,
    ) -> Result<Appliance, Failure> {
        match self.running.take() {
            Some(Running::Appliance(appliance)) => return Ok(appliance),
            Some(Running::Chroot(chroot)) => {
                let limit = Duration::from_secs(self.plan.recipe.settings.timeouts.shutdown);
                return chroot.leave(&patience.at_most(limit)).await.map_err(|e| e.failure());
            }
            Some(Running::Guest(guest)) => {
                let limit = Duration::from_secs(self.plan.recipe.settings.timeouts.shutdown);
                self.note(stage, "powering the guest off");
                guest.shutdown(&patience.at_most(limit)).await.map_err(|e| e.failure())?;
            }
            None => {}
        }
        self.start_appliance(stage, next, patience).await
    }

    /// A new appliance on the build's disk: a small one for jobs, or one with the recipe's hardware
    /// to run components in.
    async fn start_appliance(
        &mut self,
        stage: Stage,
        next: Lane,
        patience: &Patience,
    ) -> Result<Appliance, Failure> {
        let kit = self.kit(patience).await?;
        let disk = Disk::new(self.overlay()?, DiskFormat::Qcow2).cache(Cache::Unsafe);
        let accelerator = self.plan.accelerator;
        let appliance = match next {
            Lane::Booted => {
                let folder = self.folder.join("appliance");
                Appliance::start(&kit, vec![disk], accelerator, &folder, patience).await
            }
            Lane::Appliance => {
                let hardware = self.hardware();
                let mut disks = vec![disk.interface(hardware.interface)];
                disks.extend(self.tray(stage, patience).await?);
                let spec = MachineSpec {
                    disks,
                    cpu: Some(hardware.cpu),
                    vcpus: hardware.vcpus,
                    memory_mib: hardware.memory as u32,
                    network: hardware.network,
                    limit: Duration::from_secs(self.plan.recipe.settings.timeouts.build),
                    ..MachineSpec::new(&self.build, hardware.architecture, accelerator)
                };
                Appliance::start_in(&kit, spec, &machine_folder(&self.folder), patience).await
            }
        };
        let appliance = appliance.map_err(|e| e.failure())?;
        self.tell_of(&appliance);
        Ok(appliance)
    }

    pub(super) fn tell_of(&self, appliance: &Appliance) {
        self.watch.machine(appliance.machine().identity(), appliance.machine().folder());
        appliance.begun().note().iter().for_each(|note| self.watch.note(note));
    }

    /// Finds out anew what the disk holds. The next boot takes the kernel from here instead of starting
    /// another appliance.
    pub(super) async fn survey(&mut self, appliance: &Appliance, patience: &Patience) -> Result<(), Failure> {
        let kernel = machine_folder(&self.folder).join("kernel");
        let surveyed = appliance.survey(&kernel, patience).await;
        let (facts, boot_files) = surveyed.map_err(|e| e.failure())?;
        (self.facts, self.boot_files) = (Some(facts), boot_files);
        Ok(())
    }
}
