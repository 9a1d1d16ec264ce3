//! A shell in what is there: an image, a base image, or the disk that a failed build kept.

use super::Service;
use super::run::{new_folder, remove, run_name};
pub use super::subject::Moment;
use super::subject::Subject;
use crate::appliance::{Appliance, ApplianceError, BootFiles, DiskFacts, Kit};
use crate::boot::{BootedGuest, CloudInit, Holds, Start, Watch};
use crate::build::lock::Lock;
use crate::build::machines::{Hardware, Wanted};
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

/// Boots a throw-away overlay the fastest way there is, and returns when the guest is up.
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
    let (folder, lock) = new_folder(service, &subject.path_name, &subject.disk, options.keep)?;
    match boot(service, &subject, &hardware, &folder, options.keep, watch, patience).await {
        Ok(guest) => Ok(Shell { title: subject.title, folder, guest, keep: options.keep, _lock: lock }),
        Err(failure) => {
            remove(&folder)?;
            Err(failure)
        }
    }
}

async fn boot(
    service: &Service,
    subject: &Subject,
    hardware: &Hardware,
    folder: &Path,
    keep: bool,
    watch: Arc<dyn Watch>,
    patience: &Patience,
) -> Result<BootedGuest, Failure> {
    let overlay = folder.join("overlay.qcow2");
    disk::create_overlay(&subject.disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
    let kit = Kit::ensure(&service.catalog.home().appliance(), subject.architecture, patience).await;
    let kit = kit.map_err(|e| ApplianceError::from(e).failure())?;
    let (facts, first) = survey(&kit, &overlay, hardware, folder, patience).await.map_err(|e| e.failure())?;
    let mut request = Wanted {
        name: &run_name(folder),
        hardware,
        disk: &overlay,
        cache: if keep { Cache::Safe } else { Cache::Unsafe },
        folder: folder.join("machine"),
        holds: Holds::of(&facts),
        start: Start::Fast,
        cloud_init: CloudInit::Alone,
        kit,
        first,
        limit: BOOT_LIMIT,
        life: LIFE,
    }
    .request()?;
    request.hold_cloud_init_back(&facts, &run_name(folder));
    BootedGuest::start(request, watch, patience).await.map_err(|e| e.failure())
}

async fn survey(
    kit: &Kit,
    overlay: &Path,
    hardware: &Hardware,
    folder: &Path,
    patience: &Patience,
) -> Result<(DiskFacts, Option<BootFiles>), ApplianceError> {
    let disk = Disk::new(overlay, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let own = folder.join("appliance");
    let appliance = Appliance::start(kit, vec![disk], hardware.accelerator, &own, patience).await?;
    let surveyed = appliance.survey(&folder.join("machine/kernel"), patience).await?;
    appliance.shutdown(patience).await?;
    Ok(surveyed)
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
