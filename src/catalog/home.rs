//! The home folder: what lies where.

use super::{CatalogError, Result};
use std::path::{Path, PathBuf};

/// The folder that holds everything kiln keeps. Nothing of kiln is outside it.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// `root` is absolute.
    pub fn new(root: impl Into<PathBuf>) -> Home {
        Home(root.into())
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog.db")
    }

    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }

    pub fn builds(&self) -> PathBuf {
        self.0.join("builds")
    }

    /// The folder of one build; see `catalog::build` for the id.
    pub fn build(&self, id: &str) -> PathBuf {
        self.builds().join(id)
    }

    pub fn appliance(&self) -> PathBuf {
        self.0.join("appliance")
    }

    pub fn bases(&self) -> PathBuf {
        self.0.join("bases")
    }

    /// Machines started by `kiln run`, one folder each.
    pub fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    pub(super) fn make_folders(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [
            self.0.clone(),
            self.artifacts(),
            self.builds(),
            self.appliance(),
            self.bases(),
            self.runs(),
            self.tmp(),
        ] {
            // Disks and logs hold what their builds were told: nobody else's business.
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| CatalogError::Io { doing: "make the folder", path, source })?;
        }
        Ok(())
    }
}
