//! Walking a folder tree: sorted, without following symbolic links.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{During, Outcome};

/// Yields the root, then everything below it: a folder before what is in it, names in byte order.
/// Paths that vanish while they are looked at are left out.
pub struct Walk {
    /// Names still to visit, last first, for each open folder.
    open: Vec<(PathBuf, Vec<OsString>)>,
    root: Option<PathBuf>,
    /// Stay on the file system with this number.
    device: Option<u64>,
    /// The folder that was yielded last, not opened yet.
    entered: Option<PathBuf>,
}

impl Walk {
    pub fn new(root: &Path, one_filesystem: bool) -> Outcome<Walk> {
        let metadata = fs::symlink_metadata(root).during("read", root.display())?;
        Ok(Walk {
            open: Vec::new(),
            root: Some(root.into()),
            device: one_filesystem.then(|| metadata.dev()),
            entered: None,
        })
    }

    /// Does not go into the folder that was yielded last.
    pub fn prune(&mut self) {
        self.entered = None;
    }

    fn candidate(&mut self) -> Outcome<Option<PathBuf>> {
        if let Some(root) = self.root.take() {
            return Ok(Some(root));
        }
        if let Some(folder) = self.entered.take() {
            match names(&folder) {
                Ok(names) => self.open.push((folder, names)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).during("list", folder.display()),
            }
        }
        while let Some((folder, left)) = self.open.last_mut() {
            match left.pop() {
                Some(name) => return Ok(Some(folder.join(name))),
                None => drop(self.open.pop()),
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Outcome<Option<(PathBuf, Metadata)>> {
        while let Some(path) = self.candidate()? {
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).during("read", path.display()),
            };
            // A mount point itself belongs to the tree, what is mounted on it does not.
            if metadata.is_dir() && self.device.is_none_or(|d| d == metadata.dev()) {
                self.entered = Some(path.clone());
            }
            return Ok(Some((path, metadata)));
        }
        Ok(None)
    }
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> =
        fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

impl Iterator for Walk {
    type Item = Outcome<(PathBuf, Metadata)>;
    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
