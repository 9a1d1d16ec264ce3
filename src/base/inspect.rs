//! What is inside a base image: asked of the disk itself, by the appliance.

use super::work::Work;
use super::{BaseError, BaseImage, Store};
use crate::appliance::{Appliance, DiskFacts, Kit, warm};
use crate::disk;
use crate::machine::{Accelerator, Cache, Disk};
use crate::model::{DiskFormat, Inventory};
use crate::support::wait::Patience;
use std::path::Path;

/// Looks at a base image's disk through an overlay that is thrown away, in an appliance that may be one of
/// those that are kept warm there.
pub async fn inspect(
    store: &Store,
    image: &BaseImage,
    accelerator: Accelerator,
    warm: &warm::Store,
    patience: &Patience,
) -> Result<(DiskFacts, Inventory), BaseError> {
    let kit = Kit::ensure(&store.home().join("appliance"), image.architecture, patience).await?;
    let kit = kit.warmed(Some(warm));
    let work = Work::create(store.home()).await?;
    let result = look(&kit, image, accelerator, &work.path, patience).await;
    work.remove().await;
    result
}

async fn look(
    kit: &Kit,
    image: &BaseImage,
    accelerator: Accelerator,
    work: &Path,
    patience: &Patience,
) -> Result<(DiskFacts, Inventory), BaseError> {
    let overlay = work.join("overlay.qcow2");
    disk::create_overlay(&image.disk, DiskFormat::Qcow2, &overlay, None, patience).await?;
    let disk = Disk::new(&overlay, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let appliance = Appliance::start(kit, vec![disk], accelerator, &work.join("machine"), patience).await?;
    let found = appliance.inspect_with_packages(patience).await;
    let ended = appliance.shutdown(patience).await;
    let found = found?;
    ended?;
    Ok(found)
}
