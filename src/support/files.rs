//! Files that are whole or absent, whatever happens half-way.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the name of every unfinished file ends; what is left of one after a crash may be removed.
pub const UNFINISHED: &str = ".unfinished";

/// A file in the making, beside its final place. Dropped before [`Staged::commit`], it is removed.
#[derive(Debug)]
pub struct Staged {
    target: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Staged {
    /// Picks the name to write to. The file does not exist yet; the folder of `target` must.
    pub fn new(target: &Path) -> io::Result<Staged> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let target = std::path::absolute(target)?;
        let name = target.file_name().ok_or_else(|| io::Error::other("not the path of a file"))?;
        let mut own = OsString::from(".");
        own.push(name);
        own.push(format!(".{}-{}{UNFINISHED}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let path = target.with_file_name(own);
        // A left-over of another process that had the same number.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(Staged { target, path, committed: false }),
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file durable and gives it its final name. Blocks for as long as the disk needs.
    pub fn commit(mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        self.committed = true;
        sync_folder_of(&self.target)
    }

    /// As [`Staged::commit`], but replaces what has the name only if told to. Whether nothing had it.
    ///
    /// # Errors
    /// Of kind `AlreadyExists`, when something has the name and is to stay.
    pub fn commit_new(mut self, replace: bool) -> io::Result<bool> {
        File::open(&self.path)?.sync_all()?;
        let new = match rename_new(&self.path, &self.target) {
            Err(e) if replace && e.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::rename(&self.path, &self.target)?;
                false
            }
            renamed => renamed.map(|()| true)?,
        };
        self.committed = true;
        sync_folder_of(&self.target).inspect_err(|_| {
            // Who is told of a failure finds what was there before.
            if new {
                let _ = std::fs::remove_file(&self.target);
            }
        })?;
        Ok(new)
    }
}

/// Renames a file to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know this; links do the same where there are links.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::hard_link(from, to)
            .or_else(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Err(e),
                _ if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
                _ => std::fs::rename(from, to),
            })
            .map(|()| drop(std::fs::remove_file(from))),
        renamed => Ok(renamed?),
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes a file that is either whole and durable or not there (or as it was). Blocks.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = Staged::new(path)?;
    File::create_new(staged.path())?.write_all(bytes)?;
    staged.commit()
}

/// Makes a folder, and those above it, that nobody but this user can look into; one that exists stays as it is.
pub fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a rename or removal in the folder that holds `path` durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Bytes that this user may still write on the file system that holds `path`, or would hold it.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let mut place = std::path::absolute(path)?;
    while !place.exists() && place.pop() {}
    let stat = rustix::fs::statvfs(&place)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether there is a program of this name where this user, or root, would find it.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let staged = Staged::new(&path).unwrap();
        std::fs::write(staged.path(), b"half").unwrap();
        drop(staged);
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_is_taken_is_kept_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let commit = |text: &str, replace| {
            let staged = Staged::new(&path).unwrap();
            std::fs::write(staged.path(), text).unwrap();
            staged.commit_new(replace)
        };
        assert!(commit("one", false).unwrap());
        assert_eq!(commit("two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert!(!commit("three", true).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn free_space_is_known_for_what_does_not_exist_yet() {
        assert!(free_space(Path::new("/tmp/kiln/not/there")).unwrap() > 0);
    }
}
