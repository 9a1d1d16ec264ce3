//! A stranger's file: opened once, and copied to where nobody else can change it.
//!
//! Whoever owns the file can put another in its place, or write into it, between a look at its
//! header and the reading of its content. So everything is done to a private copy.

use super::{DiskError, ForeignError, MAX_SIZE};
use crate::disk::image;
use crate::support::files;
use crate::support::wait::Patience;
use rustix::fs::{OFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;
/// Left free on the host beyond what a copy takes, in bytes.
const SPACE_MARGIN: u64 = 64 << 20;

/// A regular file or block device of a size that a disk can have, open for reading.
#[derive(Debug)]
pub struct Foreign {
    path: PathBuf,
    file: File,
    size: u64,
    /// Bytes that are no holes.
    allocated: u64,
}

/// A stranger's file that nobody else can change any more.
#[derive(Clone, Debug)]
pub struct Brought {
    /// What its owner calls it: what errors name.
    pub shown: PathBuf,
    /// What is read. Other files of a chain go beside it.
    pub file: PathBuf,
}

impl Foreign {
    pub fn open(path: &Path) -> Result<Foreign, ForeignError> {
        // A pipe or a device is not even opened: that alone can block, or do something.
        allowed(path, &std::fs::metadata(path).map_err(read_error(path))?)?;
        Foreign::open_with(path, OFlags::empty())
    }

    /// A file that another one names; a link is none.
    pub(super) fn open_backing(path: &Path) -> Result<Foreign, ForeignError> {
        Foreign::open_with(path, OFlags::NOFOLLOW)
    }

    fn open_with(path: &Path, flags: OFlags) -> Result<Foreign, ForeignError> {
        let read = read_error(path);
        let mut options = File::options();
        // Should it have become a pipe meanwhile, opening it does not wait for a writer.
        options.read(true).custom_flags((flags | OFlags::NONBLOCK).bits() as i32);
        let file = options.open(path).map_err(&read)?;
        let meta = file.metadata().map_err(&read)?;
        allowed(path, &meta)?;
        let (size, allocated) = match meta.is_file() {
            true => (meta.len(), (meta.blocks() * 512).min(meta.len())),
            // How much of a device is not zeros only reading it tells.
            false => (rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| read(e.into()))?, 0),
        };
        if size == 0 || size > MAX_SIZE {
            return Err(ForeignError::FileSize { path: path.to_owned(), size });
        }
        Ok(Foreign { path: path.to_owned(), file, size, allocated })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its first bytes; None where there are fewer.
    pub fn start<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
    }

    /// Copies it into a folder that only kiln writes to, under its own name, or lets the file system share
    /// its blocks where it can. A disk that a machine writes to is refused.
    pub async fn bring(self, folder: &Path, patience: &Patience) -> Result<Brought, ForeignError> {
        let name = self.path.file_name().ok_or_else(|| ForeignError::NoFile { path: self.path.clone() })?;
        let target = folder.join(name);
        // QEMU would not read it either, and half of what its guest is writing is no disk.
        image::require_unused(&self.path, patience).await?;
        let brought = Brought { shown: self.path.clone(), file: target.clone() };
        let patience = patience.clone();
        let task = tokio::task::spawn_blocking(move || self.copy(&target, &patience));
        task.await.expect("copying does not panic")?;
        Ok(brought)
    }

    fn copy(&self, target: &Path, patience: &Patience) -> Result<(), ForeignError> {
        let write = |source| write_error(target, source);
        let mut options = File::options();
        // Whom the original is hidden from, the copy is hidden from, too.
        let out = options.write(true).create_new(true).mode(0o600).open(target).map_err(write)?;
        if rustix::fs::ioctl_ficlone(&out, &self.file).is_ok() {
            return Ok(());
        }
        let free = files::free_space(target).map_err(write)?;
        let needed = self.allocated + SPACE_MARGIN;
        if free < needed {
            return Err(DiskError::NoSpace { path: target.to_owned(), needed, free }.into());
        }
        out.set_len(self.size).map_err(write)?;
        let begun = std::time::Instant::now();
        let what = format!("the copy of {}", self.path.display());
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while let Some(start) = self.next_data(at)?.filter(|start| *start < self.size) {
            patience.check(&what, begun).map_err(DiskError::from)?;
            let length = (self.size - start).min(PIECE as u64) as usize;
            let piece = &mut buffer[..length];
            // One that got shorter meanwhile ends here.
            self.file.read_exact_at(piece, start).map_err(read_error(&self.path))?;
            if piece.iter().any(|b| *b != 0) {
                out.write_all_at(piece, start).map_err(write)?;
            }
            at = start + length as u64;
        }
        Ok(())
    }

    /// Where data goes on; None where there is none any more. A device has data everywhere.
    fn next_data(&self, at: u64) -> Result<Option<u64>, ForeignError> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) => Ok(Some(start)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
            Err(e) => Err(read_error(&self.path)(e.into())),
        }
    }
}

fn allowed(path: &Path, meta: &std::fs::Metadata) -> Result<(), ForeignError> {
    match meta.is_file() || meta.file_type().is_block_device() {
        true => Ok(()),
        false => Err(ForeignError::NoFile { path: path.to_owned() }),
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> ForeignError + use<> {
    let path = path.to_owned();
    move |source| match rustix::io::Errno::from_io_error(&source) {
        Some(rustix::io::Errno::NOENT) => ForeignError::Missing { path: path.clone() },
        // A link where none may be.
        Some(rustix::io::Errno::LOOP) => ForeignError::NoFile { path: path.clone() },
        _ => ForeignError::Read { path: path.clone(), source },
    }
}

fn write_error(path: &Path, source: io::Error) -> ForeignError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = files::free_space(path).unwrap_or(0);
            DiskError::NoSpace { path: path.to_owned(), needed: free + 1, free }.into()
        }
        _ => DiskError::Io { path: path.to_owned(), source }.into(),
    }
}
