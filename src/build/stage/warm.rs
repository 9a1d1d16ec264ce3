//! boot, from a warm state: a guest that has booted on what this build's disk stands on.

use super::boot::Boot;
use crate::boot::BootedGuest;
use crate::boot::warm::Known;
use crate::build::warm::{Stand, Warmth};
use crate::build::workshop::{Workshop, out_of_order};
use crate::catalog::undo::UndoKind;
use crate::model::{Failure, FailureKind};
use crate::support::wait::Patience;
use std::path::Path;

impl Workshop {
    /// None where it is not wanted, or cannot be.
    pub(super) async fn warmth(&self, patience: &Patience) -> Result<Option<Warmth>, Failure> {
        let Some(store) = &self.warm.guests else { return Ok(None) };
        let base = self.base.as_ref().ok_or_else(|| out_of_order("the disk stands on nothing"))?;
        let title = match &self.plan.layers.resume {
            Some(resume) => format!("the layer after {}", resume.layer.component),
            None => self.plan.parent.name.clone(),
        };
        let stand = Stand {
            title: &title,
            path: &base.path(self.catalog.home()),
            digest: &base.digest,
            size: self.plan.disk_size,
            start: self.start(),
        };
        Warmth::of(store, &self.hardware(), stand, self.watch.clone(), patience).await
    }

    /// A guest that wakes; one that boots, where none can. The next build's wakes from what this one was
    /// after its boot.
    pub(super) async fn wake(
        &self,
        warmth: &Warmth,
        boot: &Boot,
        patience: &Patience,
    ) -> Result<BootedGuest, Failure> {
        // The disk as it was prepared, for the boot that is needed when something goes wrong.
        let prepared = self.folder.join("prepared.qcow2");
        let held = self.hold(&prepared, async { copy(&boot.overlay, &prepared) }).await?;
        let guest = self.wake_or_boot(warmth, boot, &prepared, patience).await?;
        self.give_back(&held)?;
        Ok(guest)
    }

    async fn wake_or_boot(
        &self,
        warmth: &Warmth,
        boot: &Boot,
        prepared: &Path,
        patience: &Patience,
    ) -> Result<BootedGuest, Failure> {
        let request = |known: &Known| self.request(boot, known.holds);
        if let Some(guest) = warmth.wake(request, patience).await? {
            return Ok(guest);
        }
        copy(prepared, &boot.overlay)?;
        let guest = self.boot_it(boot, patience).await?;
        let staging = self.folder.join("warm");
        self.acquire(UndoKind::Folder, &staging.to_string_lossy())?;
        if let Some(guest) =
            warmth.keep(guest, &boot.facts, (&boot.overlay, &staging), request, patience).await?
        {
            return Ok(guest);
        }
        copy(prepared, &boot.overlay)?;
        self.boot_it(boot, patience).await
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |e| Failure::new(FailureKind::Environment, format!("cannot write {}: {e}", to.display()));
    std::fs::copy(from, to).map(drop).map_err(failed)
}
