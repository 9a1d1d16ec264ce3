//! A shell in what is there: an image, a base image, or the disk that a failed build kept.

use super::Service;
use super::run::{new_folder, remove, run_name};
pub use super::subject::Moment;
use super::subject::Subject;
use crate::appliance::warm::Store;
use crate::appliance::{Appliance, ApplianceError, BootFiles, DiskFacts, Kit};
use crate::boot::warm::Known;
use crate::boot::{BootRequest, BootedGuest, CloudInit, Holds, Start, Watch};
use crate::build::lock::Lock;
use crate::build::machines::{Hardware, Wanted};
use crate::build::warm::{Stand, Warmth};
use crate::disk;
use crate::machine::accelerator::{Choice, resolve};
use crate::machine::{Accelerator, Cache, Disk, Network, Qemu, default_cpu};
use crate::model::{DiskFormat, Failure};
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const BOOT_LIMIT: Duration = Duration::from_secs(1800);
/// A shell that nobody leaves is ended after this.
const LIFE: Duration = Duration::from_secs(7 * 86_400);
const DOWN_LIMIT: Duration = Duration::from_secs(120);

pub struct Options {
    pub choice: Choice,
    /// MiB.
    pub memory: Option<u64>,
    pub network: Network,
    /// What was written stays when the shell is left.
    pub keep: bool,
    /// The image as it was then.
    pub moment: Option<Moment>,
    /// Where guests that have booted and appliances are kept; None: all of them boot. A disk that stays is
    /// always of a guest that has booted.
    pub warm: Option<Store>,
}

/// A guest to look around in. Dropped, its machine is killed.
pub struct Shell {
    /// What is looked at: `nginx/1.0.0/1`, `debian-12`.
    pub title: String,
    pub folder: PathBuf,
    pub guest: BootedGuest,
    keep: bool,
    _lock: Lock,
}

/// Boots a throw-away overlay the fastest way there is, or wakes one that has booted before, and returns when
/// the guest is up.
pub async fn open(
    service: &Service,
    name: &str,
    options: Options,
    watch: Arc<dyn Watch>,
    patience: &Patience,
) -> Result<Shell, Failure> {
    let subject = match &options.moment {
        Some(moment) => Subject::at(service, name, moment)?,
        None => Subject::find(service, name)?,
    };
    subject.caution.iter().for_each(|told| watch.note(told));
    let home = service.catalog.home();
    let accelerator = resolve(options.choice, subject.architecture, home.root(), patience).await?;
    let qemu = Qemu::find(subject.architecture, patience).await.map_err(|e| e.failure())?;
    let hardware = Hardware {
        architecture: subject.architecture,
        accelerator,
        cpu: default_cpu(subject.architecture, accelerator, qemu.version).into(),
        vcpus: if accelerator == Accelerator::Kvm { 2 } else { 1 },
        memory: options.memory.unwrap_or(subject.memory),
        interface: subject.interface,
        network: options.network,
    };
    let kit = Kit::ensure(&home.appliance(), subject.architecture, patience).await;
    let kit = kit.map_err(|e| ApplianceError::from(e).failure())?.warmed(options.warm.as_ref());
    let (folder, lock) = new_folder(service, &subject.path_name, Some(&subject.disk), options.keep)?;
    let looked_into = LookedInto {
        subject: &subject,
        hardware: &hardware,
        folder: &folder,
        keep: options.keep,
        warm: options.warm.filter(|_| !options.keep),
        kit,
        watch,
    };
    match looked_into.guest(patience).await {
        Ok(guest) => Ok(Shell { title: subject.title, folder, guest, keep: options.keep, _lock: lock }),
        Err(failure) => {
            remove(&folder)?;
            Err(failure)
        }
    }
}

/// A disk, and the machine that it is looked at in.
struct LookedInto<'a> {
    subject: &'a Subject,
    hardware: &'a Hardware,
    folder: &'a Path,
    keep: bool,
    warm: Option<Store>,
    kit: Kit,
    watch: Arc<dyn Watch>,
}

impl LookedInto<'_> {
    async fn guest(&self, patience: &Patience) -> Result<BootedGuest, Failure> {
        let Some(warmth) = self.warmth(patience).await? else { return Ok(self.boot(patience).await?.0) };
        let request = |known: &Known| self.request(known.holds, None);
        if let Some(guest) = warmth.wake(request, patience).await? {
            return Ok(guest);
        }
        let (guest, facts) = self.boot(patience).await?;
        match warmth
            .keep(guest, &facts, (&self.overlay(), &self.folder.join("warm")), request, patience)
            .await?
        {
            Some(guest) => Ok(guest),
            None => Ok(self.boot(patience).await?.0),
        }
    }

    async fn warmth(&self, patience: &Patience) -> Result<Option<Warmth>, Failure> {
        let (Some(store), Some((digest, size))) = (&self.warm, &self.subject.fixed) else { return Ok(None) };
        let stand = Stand {
            title: &self.subject.title,
            path: &self.subject.disk,
            digest,
            size: *size,
            start: Start::Fast,
        };
        Warmth::of(store, self.hardware, stand, self.watch.clone(), patience).await
    }

    async fn boot(&self, patience: &Patience) -> Result<(BootedGuest, DiskFacts), Failure> {
        let overlay = self.overlay();
        disk::create_overlay(&self.subject.disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
        let (facts, first) = self.survey(&overlay, patience).await.map_err(|e| e.failure())?;
        let mut request = self.request(Holds::of(&facts), first)?;
        request.hold_cloud_init_back(&facts, &run_name(self.folder));
        let guest = BootedGuest::start(request, self.watch.clone(), patience).await;
        Ok((guest.map_err(|e| e.failure())?, facts))
    }

    async fn survey(
        &self,
        overlay: &Path,
        patience: &Patience,
    ) -> Result<(DiskFacts, Option<BootFiles>), ApplianceError> {
        let disk = Disk::new(overlay, DiskFormat::Qcow2).cache(Cache::Unsafe);
        let (own, accelerator) = (self.folder.join("appliance"), self.hardware.accelerator);
        let appliance = Appliance::start(&self.kit, vec![disk], accelerator, &own, patience).await?;
        appliance.begun().note().iter().for_each(|note| self.watch.note(note));
        let surveyed = appliance.survey(&self.folder.join("machine/kernel"), patience).await?;
        appliance.shutdown(patience).await?;
        Ok(surveyed)
    }

    fn request(&self, holds: Holds, first: Option<BootFiles>) -> Result<BootRequest, Failure> {
        Wanted {
            name: &run_name(self.folder),
            hardware: self.hardware,
            disk: &self.overlay(),
            cache: if self.keep { Cache::Safe } else { Cache::Unsafe },
            folder: self.folder.join("machine"),
            holds,
            start: Start::Fast,
            cloud_init: CloudInit::Alone,
            kit: self.kit.clone(),
            first,
            limit: BOOT_LIMIT,
            life: LIFE,
        }
        .request()
    }

    fn overlay(&self) -> PathBuf {
        self.folder.join("overlay.qcow2")
    }
}

impl Shell {
    /// Ends the machine. What was written is gone, or lies where this says.
    pub async fn close(self) -> Result<Option<PathBuf>, Failure> {
        if self.keep {
            let patience = Patience::new(DOWN_LIMIT, &CancellationToken::new());
            self.guest.shutdown(&patience).await.map_err(|e| e.failure())?;
            return Ok(Some(self.folder.join("overlay.qcow2")));
        }
        drop(self.guest);
        remove(&self.folder)?;
        Ok(None)
    }
}
