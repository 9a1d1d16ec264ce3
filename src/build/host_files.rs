//! Files and folders of this machine that a recipe's component brings into the guest.
//!
//! Planning walks and digests them, so that what a build will need is known to be there and its
//! contents count among the build's inputs. Handing over compares with that: a file that
//! changed in between fails the build instead of making an image that no inputs describe.

use super::tray::SERIAL;
use crate::catalog::artifact::digest_bytes;
use crate::guest::GuestError;
use crate::model::{Failure, FailureKind};
use crate::support::wait::Impatience;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most files, folders and links that one component may bring.
const MOST: usize = 100_000;

/// One `files` entry of a component, walked.
#[derive(Clone, Debug)]
pub struct HostFiles {
    pub source: PathBuf,
    /// Absolute, in the guest.
    pub destination: String,
    pub items: Vec<Item>,
}

/// Something to make in the guest; folders come before what is in them.
#[derive(Clone, Debug)]
pub struct Item {
    /// Absolute, in the guest.
    pub path: String,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Folder { mode: u32 },
    File { host: PathBuf, mode: u32, bytes: u64, digest: String },
    Link { target: String },
}

/// A source that cannot be brought along, or has changed.
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has a name that is not UTF-8", .0.display())]
    Name(PathBuf),
    #[error("{} is {what}; only files, folders and symbolic links can be brought into a guest", path.display())]
    Special { path: PathBuf, what: &'static str },
    #[error("{} holds more than {MOST} files and folders", .0.display())]
    TooMany(PathBuf),
    #[error("{} has changed since the build was planned", .0.display())]
    Changed(PathBuf),
    #[error("{} could not be written in the guest", path)]
    Guest { path: String, source: GuestError },
    #[error("cannot write {}", path.display())]
    Pack { path: PathBuf, source: io::Error },
    #[error("the guest has no disk with the serial {SERIAL} any more")]
    NoTray,
    #[error("the disk {SERIAL} with what the files contain cannot be read in the guest")]
    Tray(#[source] GuestError),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

impl HostFileError {
    /// Nothing else is wrong than that the guest has no tray to take from: a component may unmount /sys and
    /// /dev, or remove what is in them.
    pub fn is_of_tray(&self) -> bool {
        matches!(self, HostFileError::NoTray | HostFileError::Tray(GuestError::Refused(_)))
    }

    pub fn failure(&self) -> Failure {
        let (kind, hint) = match self {
            HostFileError::Guest { .. } => (
                FailureKind::Build,
                "Is there room on the guest's disk, and is the destination no file where a folder is wanted?",
            ),
            HostFileError::NoTray | HostFileError::Tray(_) => (
                FailureKind::Build,
                "The end of the machine's console may tell why; kiln retry goes on from the last layer.",
            ),
            HostFileError::Pack { .. } => (
                FailureKind::Environment,
                "Free some space (kiln image list, kiln image remove NAME), or use another --home.",
            ),
            HostFileError::Impatience(e) => return Failure::from_error(e.into(), self),
            HostFileError::Changed(_) => {
                (FailureKind::Input, "Build again: the new content is planned with.")
            }
            _ => (FailureKind::Input, "Mend or remove it, or name another source in the recipe."),
        };
        Failure::from_error(kind, self).hint(hint)
    }
}

/// Walks `source` and digests every file below it. Blocks for as long as reading takes.
///
/// A `destination` that ends in `/` is the folder to put the source into, under its own name.
pub fn walk(source: &Path, destination: &str) -> Result<HostFiles, HostFileError> {
    let metadata = std::fs::metadata(source).map_err(read(source))?;
    let mut destination = destination.to_owned();
    if destination.ends_with('/') {
        let whole = std::fs::canonicalize(source).map_err(read(source))?;
        let name = whole.file_name().and_then(|n| n.to_str());
        destination.push_str(name.ok_or_else(|| HostFileError::Name(source.to_owned()))?);
    }
    let mut items = Vec::new();
    add(source, &metadata, &destination, &mut items).map_err(|e| match e {
        HostFileError::TooMany(_) => HostFileError::TooMany(source.to_owned()),
        other => other,
    })?;
    Ok(HostFiles { source: source.to_owned(), destination, items })
}

pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> HostFileError {
    let path = path.to_owned();
    move |source| HostFileError::Read { path, source }
}

/// Opens a file that was one when somebody looked.
pub(super) fn open(path: &Path) -> Result<File, HostFileError> {
    // Should it have become a pipe meanwhile, opening it does not wait for a writer.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(read(path))?;
    match file.metadata().map_err(read(path))?.is_file() {
        true => Ok(file),
        false => Err(HostFileError::Changed(path.to_owned())),
    }
}

fn add(
    host: &Path,
    metadata: &std::fs::Metadata,
    path: &str,
    items: &mut Vec<Item>,
) -> Result<(), HostFileError> {
    if items.len() == MOST {
        return Err(HostFileError::TooMany(host.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let kind = metadata.file_type();
    let mut push = |kind| items.push(Item { path: path.to_owned(), kind });
    if kind.is_file() {
        let (bytes, digest) = digest(open(host)?).map_err(read(host))?;
        push(Kind::File { host: host.to_owned(), mode, bytes, digest });
    } else if kind.is_symlink() {
        let target = std::fs::read_link(host).map_err(read(host))?;
        let target =
            target.into_os_string().into_string().map_err(|_| HostFileError::Name(host.to_owned()))?;
        push(Kind::Link { target });
    } else if kind.is_dir() {
        push(Kind::Folder { mode });
        let entries: Result<Vec<_>, _> =
            std::fs::read_dir(host).and_then(Iterator::collect).map_err(read(host));
        let mut entries = entries?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let below = entry.path();
            let name = entry.file_name().into_string().map_err(|_| HostFileError::Name(below.clone()))?;
            // A link's own: what it points to may mean something else in the guest.
            let metadata = std::fs::symlink_metadata(&below).map_err(read(&below))?;
            add(&below, &metadata, &format!("{path}/{name}"), items)?;
        }
    } else {
        let what = match kind {
            k if k.is_fifo() => "a named pipe",
            k if k.is_socket() => "a socket",
            _ => "a device",
        };
        return Err(HostFileError::Special { path: host.to_owned(), what });
    }
    Ok(())
}

fn digest(mut file: File) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hexadecimal(hash))),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What a file contains.
pub(super) struct Content<'a> {
    pub host: &'a Path,
    pub bytes: u64,
    pub digest: &'a str,
}

impl HostFiles {
    /// Of all files that are not empty.
    pub(super) fn contents(&self) -> impl Iterator<Item = Content<'_>> {
        self.items.iter().filter_map(|item| match &item.kind {
            Kind::File { host, bytes, digest, .. } if *bytes > 0 => {
                Some(Content { host, bytes: *bytes, digest })
            }
            _ => None,
        })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|i| if let Kind::File { bytes, .. } = i.kind { bytes } else { 0 }).sum()
    }

    /// Files and links.
    pub fn file_count(&self) -> usize {
        self.items.iter().filter(|i| !matches!(i.kind, Kind::Folder { .. })).count()
    }

    /// Of all that reaches the guest: paths there, modes, contents. Not of where it lies here.
    pub fn digest(&self) -> String {
        let items: Vec<_> = self
            .items
            .iter()
            .map(|item| match &item.kind {
                Kind::Folder { mode } => serde_json::json!([item.path, "folder", mode]),
                Kind::File { mode, digest, .. } => serde_json::json!([item.path, "file", mode, digest]),
                Kind::Link { target } => serde_json::json!([item.path, "link", target]),
            })
            .collect();
        digest_bytes(serde_json::Value::from(items).to_string().as_bytes())
    }
}

impl std::fmt::Display for HostFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, files, bytes) = (self.source.display(), self.file_count(), self.bytes());
        let s = if files == 1 { "" } else { "s" };
        write!(f, "{source} to {} ({files} file{s}, {} KiB)", self.destination, bytes.div_ceil(1024))
    }
}
