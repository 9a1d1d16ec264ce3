//! From what a plan or an image says to a machine that can be booted.

use super::event::{Events, StageName, What};
use super::recipe;
use crate::appliance::{BootFiles, Kit};
use crate::boot::{BootRequest, CloudInit, Holds, Start, Waiting, Watch, choose};
use crate::catalog::Catalog;
use crate::machine::{Accelerator, Cache, Disk, Identity, Interface, MachineSpec, Network};
use crate::model::{Architecture, DiskFormat, Failure, FailureKind, Firmware, Stage};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The hardware of a machine.
#[derive(Clone, Debug)]
pub struct Hardware {
    pub architecture: Architecture,
    pub accelerator: Accelerator,
    pub cpu: String,
    pub vcpus: u32,
    /// MiB.
    pub memory: u64,
    pub interface: Interface,
    pub network: Network,
}

/// One machine to boot.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub hardware: &'a Hardware,
    /// A qcow2 disk to write on.
    pub disk: &'a Path,
    /// Its writes need not survive a crash of the host.
    pub cache: Cache,
    pub folder: PathBuf,
    pub holds: Holds,
    pub start: Start,
    pub cloud_init: CloudInit,
    pub kit: Kit,
    pub first: Option<BootFiles>,
    /// From the machine's start to the end of the boot.
    pub limit: Duration,
    /// The machine is killed when it lives longer.
    pub life: Duration,
}

impl Wanted<'_> {
    pub fn request(self) -> Result<BootRequest, Failure> {
        let route =
            choose(&self.holds, self.start, None).map_err(|e| Failure::from_error(FailureKind::Input, &e))?;
        let hardware = self.hardware;
        let disk = Disk::new(self.disk, DiskFormat::Qcow2).cache(self.cache).interface(hardware.interface);
        let firmware = match self.start {
            Start::Real(firmware) => firmware,
            Start::Fast if self.holds.bios => Firmware::Bios,
            Start::Fast => Firmware::Uefi,
        };
        let spec = MachineSpec {
            cpu: Some(hardware.cpu.clone()),
            vcpus: hardware.vcpus,
            memory_mib: hardware.memory as u32,
            firmware,
            disks: vec![disk],
            network: hardware.network.clone(),
            screen: true,
            limit: self.life,
            ..MachineSpec::new(self.name, hardware.architecture, hardware.accelerator)
        };
        let (folder, limit) = (self.folder, self.limit);
        Ok(BootRequest {
            spec,
            further: Vec::new(),
            folder,
            route,
            cloud_init: self.cloud_init,
            kit: self.kit,
            first: self.first,
            limit,
        })
    }
}

pub fn network(wanted: recipe::Network) -> Network {
    match wanted {
        recipe::Network::None => Network::None,
        recipe::Network::User => Network::User { restricted: false, forwards: Vec::new() },
        recipe::Network::UserRestricted => Network::User { restricted: true, forwards: Vec::new() },
    }
}

pub fn interface(wanted: recipe::DiskInterface) -> Interface {
    match wanted {
        recipe::DiskInterface::Virtio => Interface::Virtio,
        recipe::DiskInterface::Nvme => Interface::Nvme,
    }
}

/// Tells what boots do, as the stage that is at work, and journals their machines.
pub struct BuildWatch {
    pub catalog: Arc<Catalog>,
    pub build: String,
    pub events: Events,
    stage: Mutex<Stage>,
}

impl BuildWatch {
    pub fn new(catalog: Arc<Catalog>, build: &str, events: &Events) -> BuildWatch {
        let stage = Mutex::new(Stage::Prepare);
        BuildWatch { catalog, build: build.into(), events: events.clone(), stage }
    }

    /// From now on, what is told is of this stage.
    pub fn enter(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> StageName {
        StageName(*self.stage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watch for BuildWatch {
    fn machine(&self, identity: Identity, folder: &Path) {
        // It dies with kiln, and recovery looks for it in the folder: the row is for people.
        let text = format!("process {} in {}", identity.pid, folder.display());
        let _ = self.catalog.write(|t| t.journal(&self.build, "machine", &text));
    }

    fn note(&self, text: &str) {
        self.events.send(What::Note { stage: self.stage(), text: text.into() });
    }

    fn waiting(&self, waiting: Waiting) {
        let since_ms = waiting.since.as_millis() as u64;
        self.events.send(What::Waiting { stage: self.stage(), text: waiting.what, since_ms });
    }
}
