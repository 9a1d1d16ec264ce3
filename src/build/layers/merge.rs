//! Chains of overlays that do not grow without end: what is too deep is merged.

use super::keep::{new_name, system};
use crate::build::layers::Base;
use crate::build::workshop::{Workshop, out_of_order};
use crate::catalog::artifact::Artifact;
use crate::catalog::undo::UndoKind;
use crate::disk;
use crate::model::{DiskFormat, Failure, FailureKind, Stage};
use crate::support::wait::Patience;

/// Overlays of which a disk in the store is made, at most.
pub const MOST_OVERLAYS: usize = 16;

/// Where a chain is merged onto that is too long: the nearest disk below that is no layer, and not deep
/// itself; whatever else stands on that one goes on sharing it. `chain` begins with the top.
fn floor(chain: &[Artifact]) -> Option<&Artifact> {
    let deepest = chain.len().checked_sub(1).filter(|overlays| *overlays > MOST_OVERLAYS)?;
    let below = chain.iter().enumerate().skip(1);
    below
        .filter(|(place, artifact)| artifact.file.is_none() && deepest - place <= MOST_OVERLAYS / 2)
        .map(|(_, artifact)| artifact)
        .next()
        .or(chain.last())
}

impl Workshop {
    /// Merges the layer that was made last, when its chain is too long, into a new file, which takes its
    /// place in the catalog. The machine that runs goes on with the old one, which its build's pin keeps.
    pub(super) async fn shorten(&mut self, patience: &Patience) -> Result<(), Failure> {
        let top = self.base.clone().ok_or_else(|| out_of_order("the disk stands on nothing"))?;
        let chain = self.catalog.read(|t| t.chain_of(&top.digest))?;
        let Some(onto) = floor(&chain) else { return Ok(()) };
        match self.merge(&top, onto, patience).await {
            Ok(bytes) => {
                let overlays = chain.len() - 1;
                let text = format!("{overlays} overlays were merged into one of {} MiB", bytes >> 20);
                self.note(Stage::Provision, text);
                Ok(())
            }
            // Called off, or the catalog is full: the build is over.
            Err(failure) if matches!(failure.kind, FailureKind::Cancelled | FailureKind::TimedOut) => {
                Err(failure)
            }
            Err(failure) => {
                let text = format!("a long chain of layers stays as it is: {}", failure.message);
                self.note(Stage::Provision, text);
                Ok(())
            }
        }
    }

    async fn merge(&mut self, top: &Base, onto: &Artifact, patience: &Patience) -> Result<u64, Failure> {
        let path = self.folder.join("merged.qcow2");
        let (from, below) = (top.path(self.catalog.home()), self.catalog.artifact_path(onto));
        let make = async {
            disk::create_overlay(&from, DiskFormat::Qcow2, &path, None, patience).await?;
            disk::rebase(&path, &below, patience).await
        };
        let held = self.hold(&path, make).await?;
        let header = disk::rename_backing(&path, &onto.file_name());
        header.map_err(|e| system("write a layer's header", e))?;
        let digest = disk::sha256(&path, patience).await?;
        let name = new_name()?;
        let undo = self.acquire(UndoKind::Artifact, &name)?;
        let bytes = std::fs::metadata(&path).map_err(|e| system("look at a layer", e))?.len();
        let merged = Artifact {
            digest,
            format: DiskFormat::Qcow2.as_str().into(),
            bytes,
            virtual_size: self.plan.disk_size,
            backing: Some(onto.digest.clone()),
            file: Some(name.clone()),
        };
        let (catalog, row, build, old) =
            (self.catalog.clone(), merged.clone(), self.build.clone(), top.digest.clone());
        let swap = tokio::task::spawn_blocking(move || {
            catalog.take_in(&path, &row, |t| {
                t.pin(&build, &row.digest)?;
                let modified = catalog.modified(&t.artifact(&row.digest)?)?;
                t.swap_disk(&old, &row.digest, modified)?;
                t.drop_undo(undo)?;
                t.drop_undo(held.undo)?;
                t.journal(&build, "merged", &format!("{name} {} for {old}", row.digest))
            })
        });
        let stored = swap.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))??;
        self.base = Some(Base::of(&stored));
        Ok(stored.bytes)
    }

    /// Merges a disk that no machine has, when what it stands on is a chain as long as one may be.
    pub(in crate::build) async fn shorten_overlay(&mut self, patience: &Patience) -> Result<(), Failure> {
        let base = self.base.clone().ok_or_else(|| out_of_order("the disk stands on nothing"))?;
        let mut chain = self.catalog.read(|t| t.chain_of(&base.digest))?;
        chain.insert(0, Artifact { file: Some(String::new()), ..chain[0].clone() });
        let Some(onto) = floor(&chain) else { return Ok(()) };
        let text = format!("merging {} overlays into one", chain.len() - 1);
        self.note(Stage::Capture, text);
        disk::rebase(self.overlay()?, &self.catalog.artifact_path(onto), patience).await?;
        self.base = Some(Base::of(onto));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the top downwards: layers are `l`, disks of images and the base are `i`.
    fn chain(kinds: &str) -> Vec<Artifact> {
        let artifact = |(place, kind): (usize, char)| Artifact {
            digest: place.to_string(),
            format: "qcow2".into(),
            bytes: 1,
            virtual_size: 1,
            backing: None,
            file: (kind == 'l').then(|| format!("layer-{place}.qcow2")),
        };
        kinds.chars().enumerate().map(artifact).collect()
    }

    fn onto(kinds: &str) -> Option<String> {
        floor(&chain(kinds)).map(|a| a.digest.clone())
    }

    #[test]
    fn a_chain_is_merged_onto_a_disk_that_is_shared_and_not_deep() {
        let layers = |n: usize| "l".repeat(n);
        assert_eq!(onto("i"), None);
        assert_eq!(onto(&format!("{}i", layers(16))), None);
        assert_eq!(onto(&format!("{}i", layers(17))), Some("17".into()));
        // An image's disk as parent, near the ground; one that is itself deep is passed over.
        assert_eq!(onto(&format!("{}i{}i", layers(12), layers(7))), Some("12".into()));
        assert_eq!(onto(&format!("{}i{}i", layers(5), layers(14))), Some("20".into()));
        assert_eq!(onto(&format!("{}i{}i{}i", layers(5), layers(9), layers(3))), Some("15".into()));
    }
}
