//! What is on the disk.

mod contents;
mod kernels;
mod packages;
mod system;

pub use contents::{Contents, Details};

use super::facts::{DiskFacts, PartitionTable, Root, Volume};
use super::tree::{Access, Tree};
use super::volumes::Scan;
use super::{Alive, Appliance, ApplianceError};
use crate::disk::filesystem::Kind;
use crate::disk::gpt::kind;
use crate::guest::{GuestError, GuestFiles};
use crate::model::{Architecture, Firmware, Inventory};
use crate::support::wait::Patience;
use kiln_protocol::message::{Entry, ErrorKind, Failed, Operation};

/// Where an ESP is looked at that the image does not mount itself.
const ESP_PLACE: &str = "/esp";

impl Appliance {
    /// Looks at the disk and changes nothing on it (but replays a journal, where it can be written).
    ///
    /// # Errors
    /// [`super::DiskProblem`] says what about the disk kiln cannot work with.
    pub async fn inspect(&self, patience: &Patience) -> Result<DiskFacts, ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let facts = self.look(&scan, &tree, patience).await;
        self.leave(tree, patience).await?;
        let mut facts = facts?;
        facts.firmware = self.firmware(&scan, facts.architecture, patience).await?;
        Ok(facts)
    }

    /// As [`Appliance::inspect`], with the packages: those of rpm are a large file to copy.
    ///
    /// # Errors
    /// As [`Appliance::inspect`]; packages that cannot be read are no error.
    pub async fn inspect_with_packages(
        &self,
        patience: &Patience,
    ) -> Result<(DiskFacts, Inventory), ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let found = async {
            let facts = self.look(&scan, &tree, patience).await?;
            Ok((facts, Look { guest: self.guest(), patience }.inventory().await?))
        };
        let found: Result<_, ApplianceError> = found.await;
        self.leave(tree, patience).await?;
        let (mut facts, packages) = found?;
        facts.firmware = self.firmware(&scan, facts.architecture, patience).await?;
        Ok((facts, packages))
    }

    pub(super) async fn look(
        &self,
        scan: &Scan,
        tree: &Tree,
        patience: &Patience,
    ) -> Result<DiskFacts, ApplianceError> {
        let look = Look { guest: self.guest(), patience };
        let (total, free) = self
            .guest()
            .space("/", patience)
            .await
            .map_err(ApplianceError::during("measuring free space"))?;
        let system = look.system().await?;
        let root = &scan.volumes[tree.root];
        let (kernels, command_line) = look.kernels(root, tree).await?;
        Ok(DiskFacts {
            size: scan.size,
            table: scan.kind,
            volumes: scan.volumes.clone(),
            root: Root {
                partition: root.number,
                filesystem: tree.filesystem,
                subvolume: tree.subvolume.clone(),
                total,
                free,
            },
            os: system.os,
            architecture: system.architecture,
            systemd: system.systemd,
            machine_id: system.machine_id,
            cloud_init: system.cloud_init,
            own_network: system.own_network,
            guest_agent: system.guest_agent,
            kernels,
            command_line,
            firmware: Vec::new(),
            needs_recovery: tree.needs_recovery,
        })
    }

    pub(super) async fn firmware(
        &self,
        scan: &Scan,
        architecture: Option<Architecture>,
        patience: &Patience,
    ) -> Result<Vec<Firmware>, ApplianceError> {
        let mut ways = Vec::new();
        let has = |wanted: &str| scan.volumes.iter().any(|v| v.kind.as_deref() == Some(wanted));
        let bios = match scan.kind {
            PartitionTable::Gpt => has(kind::BIOS_BOOT),
            _ => true,
        };
        if scan.boot_code && bios && architecture != Some(Architecture::Aarch64) {
            ways.push(Firmware::Bios);
        }
        // Fresh firmware knows no boot entries: only the name for removable media counts.
        let program = match architecture {
            Some(Architecture::Aarch64) => "BOOTAA64.EFI",
            _ => "BOOTX64.EFI",
        };
        let look = Look { guest: self.guest(), patience };
        let vfat = |v: &&Volume| v.filesystem.as_ref().is_some_and(|f| f.kind == Kind::Vfat);
        let esp = |v: &&Volume| vfat(v) && v.kind.as_deref().is_none_or(|k| k == kind::EFI_SYSTEM);
        for volume in scan.volumes.iter().filter(esp) {
            self.mount_esp(volume, patience).await?;
            let found = look.exists(&format!("{ESP_PLACE}/EFI/BOOT/{program}")).await;
            let unmount = Operation::Unmount { target: ESP_PLACE.into() };
            self.guest().act(unmount, patience).await.map_err(ApplianceError::during("leaving the ESP"))?;
            if found? {
                ways.push(Firmware::Uefi);
                break;
            }
        }
        Ok(ways)
    }

    async fn mount_esp(&self, volume: &Volume, patience: &Patience) -> Result<(), ApplianceError> {
        let load = Operation::LoadModules { names: vec!["vfat".into()] };
        let mount = Operation::Mount {
            source: volume.device.clone(),
            target: ESP_PLACE.into(),
            filesystem: "vfat".into(),
            options: String::new(),
            read_only: true,
        };
        for step in [load, mount] {
            self.guest().act(step, patience).await.map_err(ApplianceError::during("looking at the ESP"))?;
        }
        Ok(())
    }
}

/// Small questions about the image; what is not there is no error.
pub(super) struct Look<'a> {
    pub guest: &'a Alive,
    pub patience: &'a Patience,
}

impl Look<'_> {
    /// Whether a path leads to something, links followed.
    async fn exists(&self, path: &str) -> Result<bool, ApplianceError> {
        Ok(self.optional(path, self.guest.stat(path, true, self.patience).await)?.flatten().is_some())
    }

    /// A text file of at most `limit` bytes; empty when there is none, or a larger one.
    async fn text(&self, path: &str, limit: u64) -> Result<String, ApplianceError> {
        let text = self.guest.read_text(path, limit, self.patience).await;
        Ok(self.optional(path, text)?.unwrap_or_default())
    }

    /// Entries of a folder; none when there is no such folder, or one that is too full to mean anything.
    async fn list(&self, path: &str) -> Result<Vec<Entry>, ApplianceError> {
        const MOST: usize = 5000;
        let entries = self.guest.list(path, false, MOST, self.patience).await;
        Ok(self.optional(path, entries)?.unwrap_or_default())
    }

    /// Names in a folder that begin and end so, in order.
    async fn names(&self, folder: &str, begin: &str, end: &str) -> Result<Vec<String>, ApplianceError> {
        let entries = self.list(folder).await?;
        let name = |e: Entry| e.path.rsplit('/').next().map(str::to_owned);
        let fits = |n: &String| n.starts_with(begin) && n.ends_with(end);
        Ok(entries.into_iter().filter_map(name).filter(fits).collect())
    }

    fn optional<T>(&self, path: &str, result: Result<T, GuestError>) -> Result<Option<T>, ApplianceError> {
        const EXPECTED: [ErrorKind; 5] = [
            ErrorKind::NotFound,
            ErrorKind::TooLarge,
            ErrorKind::Invalid,
            ErrorKind::Denied,
            ErrorKind::Unsupported,
        ];
        match result {
            Ok(value) => Ok(Some(value)),
            Err(GuestError::Refused(Failed { kind, .. })) if EXPECTED.contains(&kind) => Ok(None),
            Err(other) => Err(ApplianceError::during(format!("looking at {path}"))(other)),
        }
    }
}
