//! The tray of the build's machines: packed when the first one needs it, gone when the last component ran.

use crate::build::begin::machine_folder;
use crate::build::host_files::HostFileError;
use crate::build::plan::Plan;
use crate::build::tray::{Inserted, PACKING, Packer, SERIAL, Tray, held};
use crate::build::workshop::{Workshop, out_of_order};
use crate::machine::Disk;
use crate::model::{Failure, FailureKind, Stage};
use crate::support::files::private_folder;
use crate::support::wait::Patience;
use std::ops::Range;

impl Workshop {
    /// For a machine that components run in. None: they bring nothing.
    pub(super) async fn tray(&mut self, stage: Stage, patience: &Patience) -> Result<Option<Disk>, Failure> {
        // Whose work is on the disk has brought what it had.
        let ahead = self.ran.len()..self.plan.components.len();
        let bytes = held(self.plan.files[ahead.clone()].iter().flatten());
        if self.tray.is_none() && bytes > 0 {
            self.note(stage, format!("packing {} KiB of files for the guest", bytes.div_ceil(1024)));
            // Among what machines boot from, which goes with them whatever becomes of the build.
            let folder = machine_folder(&self.folder);
            private_folder(&folder).map_err(|e| {
                Failure::new(FailureKind::Environment, format!("cannot make {}: {e}", folder.display()))
            })?;
            let path = folder.join("tray.disk");
            let mut packed = None;
            let held = self
                .hold(&path, async {
                    // The file is there when this is called off: what packs may be late to notice, as it
                    // waits for a disk of this machine that does not answer.
                    let packer = Packer::new(&path, patience).map_err(|e| e.failure())?;
                    let plan = self.plan.clone();
                    let packing = tokio::task::spawn_blocking(move || pack(&plan, ahead, packer));
                    let done = patience.wait(PACKING, packing).await;
                    let done = done.map_err(|e| HostFileError::from(e).failure())?;
                    packed = Some(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?);
                    Ok::<(), Failure>(())
                })
                .await?;
            let tray = packed.ok_or_else(|| out_of_order("nothing was packed"))?;
            self.tray = Some((held, tray));
        }
        Ok(self.tray.as_ref().map(|(_, tray)| tray.disk()))
    }

    /// In the guest that runs, if its machine has one and the guest can be asked for it.
    pub(super) async fn inserted(&self, patience: &Patience) -> Result<Option<Inserted<'_>>, Failure> {
        let Some((_, tray)) = &self.tray else { return Ok(None) };
        if !self.running.as_ref().is_some_and(|running| running.has_disk(SERIAL)) {
            return Ok(None);
        }
        match tray.find(self.guest()?, patience).await {
            Ok(inserted) => Ok(Some(inserted)),
            Err(e) if self.does_without_tray(&e) => Ok(None),
            Err(e) => Err(self.with_console(e.failure())),
        }
    }

    /// Whether this is no more than the lack of a tray, which is told: the link needs none.
    pub(super) fn does_without_tray(&self, error: &HostFileError) -> bool {
        if error.is_of_tray() {
            let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
            let told: Vec<String> = causes.map(|e| e.to_string()).collect();
            let text = format!("what files contain goes over the link: {}", told.join(": "));
            self.note(Stage::Provision, text);
        }
        error.is_of_tray()
    }

    pub(super) fn give_tray_back(&mut self) -> Result<(), Failure> {
        if let Some((held, _)) = self.tray.take() {
            self.give_back(&held)?;
        }
        Ok(())
    }
}

fn pack(plan: &Plan, components: Range<usize>, mut packer: Packer) -> Result<Tray, Failure> {
    for index in components {
        for files in &plan.files[index] {
            packer.add(files).map_err(|e| Failure {
                component: Some(plan.components[index].label.clone()),
                ..e.failure()
            })?;
        }
    }
    packer.finish().map_err(|e| e.failure())
}
