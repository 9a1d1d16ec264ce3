//! Everything in an image that can be compared with another one.

use super::{Look, Tree};
use crate::appliance::files::Tell;
use crate::appliance::tree::{Access, Mount};
use crate::appliance::volumes::Scan;
use crate::appliance::{Appliance, ApplianceError};
use crate::guest::GuestFiles;
use crate::model::Inventory;
use crate::support::wait::Patience;
use kiln_protocol::message::Algorithm;
use std::collections::BTreeMap;
use std::path::Path;

/// What an image holds, but for its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What its boot loader hands to the kernel.
    pub command_line: String,
    pub packages: Inventory,
    /// Where its file systems are, the root first.
    pub mounts: Vec<Mount>,
}

/// What is asked of an image once it is known where a difference may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// SHA-256 of files, by path.
    pub digests: BTreeMap<String, String>,
    /// Paths that packages have brought.
    pub owned: Vec<String>,
}

impl Appliance {
    /// Looks at the image, and lists its files with their places into a file on the host where one is
    /// named: a JSON [`kiln_protocol::message::Entry`] per line.
    pub async fn contents(
        &self,
        listing: Option<&Path>,
        patience: &Patience,
    ) -> Result<Contents, ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let read = self.read_contents(&scan, &tree, listing, patience).await;
        self.leave(tree, patience).await?;
        read
    }

    async fn read_contents(
        &self,
        scan: &Scan,
        tree: &Tree,
        listing: Option<&Path>,
        patience: &Patience,
    ) -> Result<Contents, ApplianceError> {
        let look = Look { guest: self.guest(), patience };
        let (_, command_line) = look.kernels(&scan.volumes[tree.root], tree).await?;
        let packages = look.inventory().await?;
        if let Some(listing) = listing {
            self.list_entered(listing, Tell::Extents, patience).await?;
        }
        Ok(Contents { command_line, packages, mounts: Appliance::mounts(tree).to_vec() })
    }

    /// Reads files for their digests, and what packages (name, architecture) have brought.
    pub async fn details(
        &self,
        files: &[String],
        packages: &[(String, String)],
        patience: &Patience,
    ) -> Result<Details, ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let read = self.read_details(files, packages, patience).await;
        self.leave(tree, patience).await?;
        read
    }

    async fn read_details(
        &self,
        files: &[String],
        packages: &[(String, String)],
        patience: &Patience,
    ) -> Result<Details, ApplianceError> {
        let mut details = Details::default();
        for path in files {
            let digest = self.guest().hash(path, Algorithm::Sha256, patience).await;
            let digest = digest.map_err(ApplianceError::during(format!("reading {path}")))?;
            details.digests.insert(path.clone(), digest);
        }
        details.owned = Look { guest: self.guest(), patience }.paths_of(packages).await?;
        Ok(details)
    }
}
