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

    /// The disk that a build works on, which a failed one may keep.
    pub fn build_disk(&self, id: &str) -> PathBuf {
        self.build(id).join("overlay.qcow2")
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

    /// 32 random bytes of this home's own, made when they are asked for first.
    pub fn secret(&self) -> Result<Vec<u8>> {
        use std::io::Read;
        let path = self.0.join("secret");
        let io = |doing| {
            let path = path.clone();
            move |source| CatalogError::Io { doing, path, source }
        };
        let read = || std::fs::read(&path).ok().filter(|bytes| bytes.len() == 32);
        if let Some(secret) = read() {
            return Ok(secret);
        }
        let mut bytes = vec![0; 32];
        let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
        random.map_err(io("make"))?;
        let mut file = tempfile::NamedTempFile::new_in(self.tmp()).map_err(io("make"))?;
        std::io::Write::write_all(&mut file, &bytes).map_err(io("write"))?;
        file.as_file().sync_all().map_err(io("flush to disk"))?;
        // Another kiln may have been first: all use the same.
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(bytes),
            Err(e) => read().ok_or_else(|| io("make")(e.error)),
        }
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
