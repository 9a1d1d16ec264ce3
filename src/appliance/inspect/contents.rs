//! Everything in an image that can be compared with another one.

use super::packages::Package;
use super::{Look, Tree};
use crate::appliance::tree::Access;
use crate::appliance::volumes::Scan;
use crate::appliance::{Appliance, ApplianceError};
use crate::support::wait::Patience;
use std::collections::BTreeMap;
use std::path::Path;

/// What an image holds, but for its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What its boot loader hands to the kernel.
    pub command_line: String,
    /// None where dpkg is not the package manager.
    pub packages: Option<Vec<Package>>,
    /// Paths that each package brought, by its name, or `name:architecture`.
    pub owned: BTreeMap<String, Vec<String>>,
}

impl Appliance {
    /// Looks at the image, and lists its files into one on the host as [`Appliance::list_tree`] does.
    pub async fn contents(&self, listing: &Path, patience: &Patience) -> Result<Contents, ApplianceError> {
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
        listing: &Path,
        patience: &Patience,
    ) -> Result<Contents, ApplianceError> {
        let look = Look { guest: self.guest(), patience };
        let (_, command_line) = look.kernels(&scan.volumes[tree.root], tree).await?;
        let packages = look.packages().await?;
        let owned = look.paths_of_packages().await?;
        self.list_entered(listing, patience).await?;
        Ok(Contents { command_line, packages, owned })
    }
}
