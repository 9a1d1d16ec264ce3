//! Files of the image: listed for comparison, and put in from outside.

use std::fs::File;
use std::path::Path;

use kiln_protocol::message::{Entry, Operation, Tree};
use tokio::io::AsyncWriteExt;

use super::tree::Access;
use super::{Appliance, ApplianceError};
use crate::guest::{Guest, GuestFiles};
use crate::support::wait::Patience;

/// A listing of more bytes than this is of no disk that kiln works with.
const LISTING_LIMIT: u64 = 4 << 30;

/// A file to put into the image. Missing folders above it are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Absolute, as the image sees it.
    pub path: String,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// What a listing tells of regular files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// Digests of their contents: every file is read.
    Digests,
    /// Where on the disk they lie.
    Extents,
}

impl Appliance {
    /// Lists every path of the image into a file on the host: one JSON [`Entry`] per line, sorted by
    /// path within each folder, with digests of the files' contents.
    pub async fn list_tree(&self, target: &Path, patience: &Patience) -> Result<(), ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let listed = self.list_entered(target, Tell::Digests, patience).await;
        self.leave(tree, patience).await?;
        listed
    }

    /// As [`Appliance::list_tree`], of the tree that is the root by now.
    pub(super) async fn list_entered(
        &self,
        target: &Path,
        tell: Tell,
        patience: &Patience,
    ) -> Result<(), ApplianceError> {
        let failed = |source| ApplianceError::File { path: target.to_owned(), source };
        let mut file = tokio::fs::File::from_std(File::create(target).map_err(failed)?);
        let walk = Operation::Tree(Tree {
            root: "/".into(),
            digests: tell == Tell::Digests,
            one_filesystem: false,
            extents: tell == Tell::Extents,
        });
        let listed = self.guest().get(walk, LISTING_LIMIT, &mut file, patience).await;
        listed.map_err(ApplianceError::during("listing the image"))?;
        file.flush().await.map_err(failed)
    }

    /// Writes files into the image, replacing those that are there.
    pub async fn put_files(&self, files: &[ImageFile], patience: &Patience) -> Result<(), ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Write, patience).await?;
        let mut written = Ok(());
        for file in files {
            written = self.guest().write(&file.path, file.mode, &file.content, patience).await;
            if written.is_err() {
                break;
            }
        }
        self.leave(tree, patience).await?;
        written.map_err(ApplianceError::during("putting files into the image"))
    }
}

/// Reads a listing of [`Appliance::list_tree`].
///
/// # Errors
/// A line that is no entry, as data that is invalid.
pub fn read_listing(path: &Path) -> std::io::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}
