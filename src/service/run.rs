//! Running an image: a machine on a throw-away overlay.

use super::{Service, image};
use crate::appliance::{ApplianceError, Kit};
use crate::boot::{BootedGuest, CloudInit, Start, Watch};
use crate::build::lock::Lock;
use crate::build::machines::{Hardware, Wanted};
use crate::build::recover::{KEPT, lock_path};
use crate::catalog::image::Image;
use crate::disk;
use crate::machine::accelerator::{Choice, resolve};
use crate::machine::{Accelerator, Cache, Exit, Interface, Network, Qemu, default_cpu};
use crate::model::{DiskFormat, Failure, FailureKind, Firmware};
use crate::support::wait::Patience;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// From the machine's start to a system that has settled.
const BOOT_LIMIT: Duration = Duration::from_secs(1800);
/// A machine that nobody ends is ended after this; every boot is a machine of its own.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// From asking the guest to go down to its end.
const DOWN_LIMIT: Duration = Duration::from_secs(120);

pub struct Options {
    pub choice: Choice,
    /// None: BIOS where the image can, else UEFI.
    pub firmware: Option<Firmware>,
    /// MiB; None: as it was built with.
    pub memory: Option<u64>,
    pub vcpus: Option<u32>,
    pub network: Network,
    /// For cloud-init.
    pub user_data: Option<Vec<u8>>,
    /// The overlay stays when the machine has ended.
    pub keep: bool,
}

/// An image that runs. Dropped, its machine is killed and its folder stays until the next kiln.
pub struct Running {
    pub image: Image,
    /// Console, overlay and what else belongs to the machine.
    pub folder: PathBuf,
    guest: BootedGuest,
    watch: Arc<dyn Watch>,
    keep: bool,
    _lock: Lock,
}

/// Boots an image and returns when it is up. Named with its build number it may be one that has failed.
pub async fn start(
    service: &Service,
    name: &str,
    options: Options,
    watch: Arc<dyn Watch>,
    patience: &Patience,
) -> Result<Running, Failure> {
    let image = image::find(service, name)?;
    image::unfinished(&image).iter().for_each(|told| watch.note(told));
    let (_, disk, details) = image::disk(service, &image)?;
    let firmware = firmware(&image, &details.firmware(), options.firmware)?;
    if options.user_data.is_some() && !details.holds.nocloud {
        let message = format!("image {image} has no cloud-init that would read user data");
        return Err(Failure::new(FailureKind::Input, message));
    }
    let home = service.catalog.home();
    let accelerator = resolve(options.choice, image.architecture, home.root(), patience).await?;
    let qemu = Qemu::find(image.architecture, patience).await.map_err(|e| e.failure())?;
    let hardware = Hardware {
        architecture: image.architecture,
        accelerator,
        cpu: default_cpu(image.architecture, accelerator, qemu.version).into(),
        vcpus: options.vcpus.unwrap_or(if accelerator == Accelerator::Kvm { 2 } else { 1 }),
        memory: options.memory.unwrap_or(details.memory),
        interface: if details.interface == "nvme" { Interface::Nvme } else { Interface::Virtio },
        network: options.network,
    };
    let (folder, lock) = new_folder(service, &image.path_name(), Some(&disk), options.keep)?;
    let run = async {
        let overlay = folder.join("overlay.qcow2");
        disk::create_overlay(&disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
        let kit = Kit::ensure(&home.appliance(), image.architecture, patience).await;
        let kit = kit.map_err(|e| ApplianceError::from(e).failure())?;
        let cloud_init = match details.holds.nocloud {
            true => CloudInit::FirstBoot {
                instance_id: run_name(&folder),
                hostname: crate::model::slug(&image.name),
                user_data: options.user_data,
            },
            false => CloudInit::Alone,
        };
        let request = Wanted {
            name: &run_name(&folder),
            hardware: &hardware,
            disk: &overlay,
            cache: if options.keep { Cache::Safe } else { Cache::Unsafe },
            folder: folder.join("machine"),
            holds: details.holds,
            start: Start::Real(firmware),
            cloud_init,
            kit,
            first: None,
            limit: BOOT_LIMIT,
            life: LIFE,
        }
        .request()?;
        BootedGuest::start(request, watch.clone(), patience).await.map_err(|e| e.failure())
    };
    match run.await {
        Ok(guest) => Ok(Running { image, folder, guest, watch, keep: options.keep, _lock: lock }),
        Err(failure) => {
            remove(&folder)?;
            Err(without_files(failure))
        }
    }
}

/// They are the run's, and go with its folder.
fn without_files(mut failure: Failure) -> Failure {
    failure.files.clear();
    failure
}

fn firmware(image: &Image, can: &[Firmware], wanted: Option<Firmware>) -> Result<Firmware, Failure> {
    let found = match wanted {
        Some(wanted) => can.iter().find(|f| **f == wanted),
        None => can.iter().min(),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = can.iter().map(|f| f.as_str()).collect();
        let message = format!("image {image} cannot be booted so; it boots with: {}", names.join(", "));
        Failure::new(FailureKind::Input, message)
    })
}

/// Names the disk that an overlay of a run stands on.
const STANDS_ON: &str = "stands-on";

/// Refuses where a run or shell, or what one kept, needs one of these disks.
pub(super) fn refuse_used(
    service: &Service,
    what: &str,
    disks: impl IntoIterator<Item = PathBuf>,
) -> Result<(), Failure> {
    let Some(user) = disks.into_iter().find_map(|disk| user_of(service, &disk)) else { return Ok(()) };
    let message = format!("{what} is in use: what lies in {} stands on its disk", user.display());
    Err(Failure::new(FailureKind::Conflict, message)
        .hint("End what runs there; what was kept there and is not needed any more can be deleted."))
}

/// A run, or what one kept, that needs this disk.
fn user_of(service: &Service, disk: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(service.catalog.home().runs()).into_iter().flatten().flatten();
    let stands =
        |f: &PathBuf| std::fs::read(f.join(STANDS_ON)).is_ok_and(|d| d == disk.as_os_str().as_bytes());
    folders.map(|f| f.path()).find(stands)
}

/// A folder of its own with its lock held, not to be taken for a dead run's. The disk that an overlay
/// there is to stand on stays as long as the folder does.
pub(super) fn new_folder(
    service: &Service,
    name: &str,
    disk: Option<&Path>,
    keep: bool,
) -> Result<(PathBuf, Lock), Failure> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| {
            Failure::new(FailureKind::Environment, format!("cannot make {}: {e}", path.display()))
        }
    };
    let _nursery = service.nursery.enter()?;
    for number in 1.. {
        let folder = service.catalog.home().runs().join(format!("{name}-{number}"));
        match std::fs::create_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(io(&folder))?,
        }
        if let Some(disk) = disk {
            std::fs::write(folder.join(STANDS_ON), disk.as_os_str().as_bytes()).map_err(io(&folder))?;
            if let Err(failure) = pin(service, &run_name(&folder), disk) {
                remove(&folder)?;
                return Err(failure);
            }
        }
        if keep {
            std::fs::write(folder.join(KEPT), "").map_err(io(&folder))?;
        }
        if let Some(lock) = Lock::try_take(&lock_path(&folder)).map_err(io(&folder))? {
            return Ok((folder, lock));
        }
    }
    unreachable!("there are more numbers than folders")
}

/// A disk of a base image, or one that a build kept, is in no need of it.
fn pin(service: &Service, run: &str, disk: &Path) -> Result<(), Failure> {
    let removed = |next: &str| {
        let message = format!("{} has just been removed", disk.display());
        Failure::new(FailureKind::Conflict, message).hint(next)
    };
    let Ok(file) = disk.strip_prefix(service.catalog.home().artifacts()) else {
        return if disk.exists() { Ok(()) } else { Err(removed("See what there is: kiln base list")) };
    };
    service.catalog.write(|t| {
        let artifact =
            t.artifact_of_file(&file.to_string_lossy())?.ok_or_else(|| removed("A build makes it again."))?;
        Ok(t.pin_for_run(run, &artifact.digest)?)
    })
}

pub(super) fn run_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}: {e}", folder.display());
            Err(Failure::new(FailureKind::Environment, message))
        }
        _ => Ok(()),
    }
}

impl Running {
    /// Units that failed while it booted.
    pub fn failed_units(&self) -> Vec<String> {
        self.guest.ready().failed_units
    }

    /// Waits until the guest ends by itself; a guest that reboots is booted again. None: cancelled while
    /// it was up.
    pub async fn ended(&self, patience: &Patience) -> Result<Option<Exit>, Failure> {
        while let Ok(exit) = self.guest.ended(patience).await {
            if exit != Exit::GuestReset {
                return Ok(Some(exit));
            }
            self.watch.note("the guest reboots");
            self.guest.boot_again(patience).await.map_err(|e| without_files(e.failure()))?;
            self.watch.note("the guest is up again");
        }
        Ok(None)
    }

    /// Powers the guest off, if it still runs, and removes its overlay or says where it is kept.
    pub async fn stop(self) -> Result<Option<PathBuf>, Failure> {
        // The caller's own patience has mostly been cancelled by now.
        let patience = Patience::new(DOWN_LIMIT, &CancellationToken::new());
        let gone = self.guest.with_machine(|m| m.exited()).is_some();
        let down = if gone { Ok(()) } else { self.guest.shutdown(&patience).await };
        if self.keep {
            down.map_err(|e| e.failure())?;
            return Ok(Some(self.folder.join("overlay.qcow2")));
        }
        // What does not power off is killed with the guest; its disk is thrown away either way.
        remove(&self.folder)?;
        Ok(None)
    }
}
