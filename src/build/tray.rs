//! The tray: a read-only disk that brings what a build's files contain into its machines.
//!
//! Over the agent's link an emulated guest spends 30 ms of CPU on each MiB; a disk it copies from. Contents
//! lie on it by their digests, each once, one after the other: a guest that reads far ahead gets many small
//! files with one request. The host has digested what it wrote, and no guest can write to it.

use super::host_files::{Content, HostFileError, HostFiles, hexadecimal, open, read};
use crate::guest::{Guest, GuestFiles};
use crate::machine::Disk;
use crate::model::DiskFormat;
use crate::support::wait::Patience;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// By which a guest finds the disk.
pub const SERIAL: &str = "kiln-tray";

/// Nothing lies in the first and in the last bytes, where kernels and programs look for what a disk holds: a
/// file that is itself an image of a disk must not pass for a partition table, for the guest's root, for
/// a seed of cloud-init. They are holes.
const HEAD: u64 = 1 << 20;
const TAIL: u64 = 4 << 20;

/// Disks are made of sectors of this size.
const SECTOR: u64 = 512;

const PIECE: usize = 1 << 18;

pub(super) const PACKING: &str = "packing the files that go into the guest";

/// What a tray with these files holds, in bytes.
pub fn held<'a>(files: impl IntoIterator<Item = &'a HostFiles>) -> u64 {
    let mut seen = HashSet::new();
    let contents = files.into_iter().flat_map(HostFiles::contents);
    let once = contents.filter(|content| seen.insert(content.digest));
    once.fold(0, |all, content| all.saturating_add(content.bytes))
}

/// A tray that is packed.
#[derive(Debug)]
pub struct Tray {
    path: PathBuf,
    /// Where the content with this digest begins.
    places: HashMap<String, u64>,
}

/// A tray in a machine, as its guest knows it.
#[derive(Debug)]
pub struct Inserted<'a> {
    pub tray: &'a Tray,
    /// In the guest.
    pub device: String,
}

/// A tray that is being packed. Blocks.
pub struct Packer {
    tray: Tray,
    file: File,
    end: u64,
    buffer: Vec<u8>,
    patience: Patience,
    begun: Instant,
}

impl Packer {
    /// Makes the disk's file, which only this user can read.
    pub fn new(path: &Path, patience: &Patience) -> Result<Packer, HostFileError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(write(path))?;
        let tray = Tray { path: path.to_owned(), places: HashMap::new() };
        let (buffer, patience) = (vec![0; PIECE], patience.clone());
        Ok(Packer { tray, file, end: HEAD, buffer, patience, begun: Instant::now() })
    }

    /// Adds what these files contain.
    pub fn add(&mut self, files: &HostFiles) -> Result<(), HostFileError> {
        for content in files.contents() {
            if !self.tray.places.contains_key(content.digest) {
                let begin = self.end;
                self.copy(&content)?;
                self.tray.places.insert(content.digest.to_owned(), begin);
            }
        }
        Ok(())
    }

    fn copy(&mut self, content: &Content) -> Result<(), HostFileError> {
        let Content { host, bytes, digest } = *content;
        let mut source = open(host)?;
        let (mut hash, mut left) = (Sha256::new(), bytes);
        loop {
            self.patience.check(PACKING, self.begun)?;
            let n = match source.read(&mut self.buffer).map_err(read(host))? {
                0 => break,
                n => n,
            };
            // A file that grew, perhaps without an end, is not what was planned.
            left = left.checked_sub(n as u64).ok_or_else(|| HostFileError::Changed(host.to_owned()))?;
            hash.update(&self.buffer[..n]);
            self.file.write_all_at(&self.buffer[..n], self.end).map_err(write(&self.tray.path))?;
            self.end += n as u64;
        }
        match hexadecimal(hash) == digest {
            true => Ok(()),
            false => Err(HostFileError::Changed(host.to_owned())),
        }
    }

    /// Not synced: after a crash nobody has a use for it.
    pub fn finish(self) -> Result<Tray, HostFileError> {
        let size = (self.end + TAIL).next_multiple_of(SECTOR);
        self.file.set_len(size).map_err(write(&self.tray.path))?;
        Ok(self.tray)
    }
}

fn write(path: &Path) -> impl FnOnce(io::Error) -> HostFileError {
    let path = path.to_owned();
    move |source| HostFileError::Pack { path, source }
}

impl Tray {
    /// For a machine; the same for any number of them.
    pub fn disk(&self) -> Disk {
        Disk::new(&self.path, DiskFormat::Raw).read_only().serial(SERIAL)
    }

    pub(super) fn place(&self, digest: &str) -> Option<u64> {
        self.places.get(digest).copied()
    }

    /// Finds it in a guest whose machine has it.
    pub async fn find(&self, guest: &dyn Guest, patience: &Patience) -> Result<Inserted<'_>, HostFileError> {
        let devices = guest.devices(patience).await.map_err(HostFileError::Tray)?;
        let device = devices.into_iter().find(|d| d.serial.as_deref() == Some(SERIAL));
        let device = device.ok_or(HostFileError::NoTray)?.path;
        Ok(Inserted { tray: self, device })
    }
}
