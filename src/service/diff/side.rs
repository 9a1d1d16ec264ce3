//! One of two images, looked into by an appliance of its own.

use super::compare::{Holding, of_changed};
use super::{Looks, PackageChange, Side};
use crate::appliance::{Appliance, ApplianceError, Kit, read_listing};
use crate::disk;
use crate::disk::blocklist::BlockList;
use crate::machine::accelerator::resolve;
use crate::machine::{Cache, Disk};
use crate::model::{DiskFormat, Failure, FailureKind, Inventory};
use crate::service::Service;
use crate::service::run::{new_folder, remove};
use crate::service::subject::Subject;
use crate::support::wait::Patience;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bytes of a listing that are taken into memory; some 1.5 million paths.
const LISTING_LIMIT: u64 = 512 << 20;

/// An image whose appliance still runs.
pub struct Opened {
    title: String,
    pub holds: Holding,
    appliance: Appliance,
    // After the machine that works in it.
    _folder: Scratch,
}

/// A folder that goes with its owner, also when the other side fails and nobody waits for this one.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is in its way now the next kiln removes.
        let _ = remove(&self.0);
    }
}

/// Indexes of the blocks that are not the same on both disks. A disk that no build has listed is read.
pub async fn differing_blocks(
    service: &Service,
    from: &Subject,
    to: &Subject,
    patience: &Patience,
) -> Result<BTreeSet<u64>, Failure> {
    let (from, to) = tokio::try_join!(blocks(service, from, patience), blocks(service, to, patience))?;
    Ok(from.difference(&to).map(|d| d.blocks.into_iter().collect()).unwrap_or_default())
}

async fn blocks(service: &Service, subject: &Subject, patience: &Patience) -> Result<BlockList, Failure> {
    if let Some(digest) = &subject.digest {
        let known = BlockList::load(&service.catalog.block_list_path(digest));
        if let Some(known) = known.map_err(|e| Failure::from_error(FailureKind::Environment, &e))? {
            return Ok(known);
        }
    }
    Ok(BlockList::of(&subject.disk, DiskFormat::Qcow2, patience).await?)
}

/// As its build took it, else as an appliance finds it now.
pub async fn inventory(
    service: &Service,
    subject: &Subject,
    looks: &Looks,
    patience: &Patience,
) -> Result<Inventory, Failure> {
    let known = subject.digest.as_deref().map(|d| service.catalog.inventory(d)).transpose()?;
    if let Some(known) = known.flatten() {
        return Ok(known);
    }
    let (appliance, folder) = start(service, subject, looks, patience).await?;
    let found = appliance.contents(None, patience).await.map_err(|e| e.failure())?;
    appliance.shutdown(patience).await.map_err(|e| e.failure())?;
    drop(folder);
    Ok(found.packages)
}

async fn start(
    service: &Service,
    subject: &Subject,
    looks: &Looks,
    patience: &Patience,
) -> Result<(Appliance, Scratch), Failure> {
    let home = service.catalog.home();
    let accelerator = resolve(looks.choice, subject.architecture, home.root(), patience).await?;
    let kit = Kit::ensure(&home.appliance(), subject.architecture, patience).await;
    let kit = kit.map_err(|e| ApplianceError::from(e).failure())?.warmed(Some(&looks.warm));
    let (folder, _lock) = new_folder(service, &subject.path_name, Some(&subject.disk), false)?;
    let folder = Scratch(folder);
    let overlay = folder.0.join("overlay.qcow2");
    disk::create_overlay(&subject.disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
    let disk = Disk::new(&overlay, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let own = folder.0.join("machine");
    let appliance = Appliance::start(&kit, vec![disk], accelerator, &own, patience).await;
    Ok((appliance.map_err(|e| e.failure())?, folder))
}

impl Opened {
    pub async fn new(
        service: &Service,
        subject: &Subject,
        looks: &Looks,
        patience: &Patience,
    ) -> Result<Opened, Failure> {
        let (appliance, folder) = start(service, subject, looks, patience).await?;
        let listing = folder.0.join("listing");
        let contents = appliance.contents(Some(&listing), patience).await.map_err(|e| e.failure())?;
        let entries = read(&listing, &subject.title)?;
        let files = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        let holds = Holding { contents, files, owned: BTreeSet::new() };
        Ok(Opened { title: subject.title.clone(), holds, appliance, _folder: folder })
    }

    /// Reads these files, and what changed packages have brought.
    pub async fn look_closer(
        &mut self,
        files: &[String],
        changes: &[PackageChange],
        patience: &Patience,
    ) -> Result<(), Failure> {
        let packages = of_changed(&self.holds.contents.packages, changes);
        if files.is_empty() && packages.is_empty() {
            return Ok(());
        }
        let found = self.appliance.details(files, &packages, patience).await.map_err(|e| e.failure())?;
        for (path, digest) in found.digests {
            if let Some(entry) = self.holds.files.get_mut(&path) {
                entry.sha256 = Some(digest);
            }
        }
        self.holds.owned = found.owned.into_iter().collect();
        Ok(())
    }

    pub async fn close(self, patience: &Patience) -> Result<Side, Failure> {
        self.appliance.shutdown(patience).await.map_err(|e| e.failure())?;
        Ok(Side { title: self.title, bytes: Some(self.holds.bytes()) })
    }
}

fn read(listing: &Path, title: &str) -> Result<Vec<kiln_protocol::message::Entry>, Failure> {
    let io = |e: std::io::Error| {
        let message = format!("the list of the files of {title} cannot be read: {e}");
        Failure::new(FailureKind::Environment, message)
    };
    let bytes = std::fs::metadata(listing).map_err(io)?.len();
    if bytes > LISTING_LIMIT {
        let message = format!(
            "{title} has more files than can be compared: a list of {} MiB, {} are the limit",
            bytes >> 20,
            LISTING_LIMIT >> 20
        );
        return Err(Failure::new(FailureKind::Environment, message));
    }
    read_listing(listing).map_err(io)
}
