//! capture: the sealed disk becomes the image's, in one move.

use crate::build::details::Details;
use crate::build::workshop::{Workshop, out_of_order};
use crate::catalog::CatalogError;
use crate::catalog::artifact::Artifact;
use crate::catalog::undo::UndoKind;
use crate::disk::{self, blocklist::BlockList};
use crate::model::{DiskFormat, Failure, FailureKind, Stage};
use crate::support::files;
use crate::support::wait::Patience;

impl Workshop {
    pub(in crate::build) async fn capture(&mut self, patience: &Patience) -> Result<(), Failure> {
        let facts = self.facts()?;
        let (details, free) = (Details::of(&self.plan, facts, &self.ran).json().to_string(), facts.root.free);
        self.shorten_overlay(patience).await?;
        let overlay = self.overlay.take().ok_or_else(|| out_of_order("there is no disk"))?;
        let base = self.base.clone().ok_or_else(|| out_of_order("the disk stands on nothing"))?;
        let format = DiskFormat::Qcow2;
        // In the store a disk and what it stands on lie side by side, and the home folder may move.
        disk::rename_backing(&overlay.path, &base.file).map_err(|source| CatalogError::Io {
            doing: "write the header of",
            path: overlay.path.clone(),
            source,
        })?;
        let digest = disk::sha256(&overlay.path, patience).await?;
        let name = format!("{digest}.{format}");
        let undo = self.acquire(UndoKind::Artifact, &name)?;
        let bytes = std::fs::metadata(&overlay.path).map_or(0, |m| m.len());
        let (catalog, path, known) = (self.catalog.clone(), overlay.path.clone(), digest.clone());
        let stored = tokio::task::spawn_blocking(move || catalog.store_file(&path, format.as_str(), &known));
        let target = stored.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))??;
        // Of the disk in its final place, with what it stands on from now on.
        let parent = self.blocks_of_parent(patience).await?;
        let below = self.catalog.artifact_path(&self.plan.parent.artifact());
        let blocks = BlockList::of_changed(&target, format, (&below, parent), patience).await?;
        self.save_beside(&digest, &blocks).await?;
        let artifact = Artifact {
            digest: digest.clone(),
            format: format.as_str().into(),
            bytes,
            virtual_size: self.plan.disk_size,
            backing: Some(base.digest),
            file: None,
        };
        // From here on nothing is lost by a crash.
        self.catalog.write(|t| {
            t.add_artifact(&artifact)?;
            t.note_free_space(&digest, free)?;
            t.set_disk(self.image, &digest, &details)?;
            t.drop_undo(undo)?;
            t.drop_undo(overlay.undo)?;
            t.journal(&self.build, "captured", &name)?;
            Ok::<_, CatalogError>(())
        })?;
        self.note(Stage::Capture, format!("sha256 {digest}, {} MiB", bytes >> 20));
        self.note(Stage::Capture, format!("content {}", blocks.identity()));
        self.captured = Some(target);
        self.blocks = Some(blocks);
        Ok(())
    }

    /// What the parent holds: the list that its own build made, or one that is made now, for all its children.
    async fn blocks_of_parent(&self, patience: &Patience) -> Result<BlockList, Failure> {
        let failed = |e| Failure::from_error(FailureKind::Environment, &e);
        let parent = self.plan.parent.artifact();
        let list = self.catalog.block_list_path(&parent.digest);
        // One that cannot be read is as good as none.
        if let Ok(Some(known)) = BlockList::load(&list) {
            return Ok(known);
        }
        let file = self.catalog.artifact_path(&parent);
        let blocks = BlockList::of(&file, self.plan.parent.format, patience).await?;
        blocks.save(&list).map_err(failed)?;
        Ok(blocks)
    }

    /// What is known of the disk's content, kept with it.
    async fn save_beside(&self, digest: &str, blocks: &BlockList) -> Result<(), Failure> {
        let (path, list) = (self.catalog.block_list_path(digest), blocks.clone());
        let found = self.packages.as_ref().ok_or_else(|| out_of_order("nobody listed the packages"))?;
        let (packages, text) = (self.catalog.inventory_path(digest), found.to_text());
        let saved = tokio::task::spawn_blocking(move || {
            list.save(&path).map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
            files::write_atomic(&packages, text.as_bytes())
                .map_err(|source| Failure::from(CatalogError::Io { doing: "write", path: packages, source }))
        });
        saved.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?
    }
}
