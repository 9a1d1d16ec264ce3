//! Disks from strangers: their headers are read here before QEMU's tools may open them, and then
//! they are opened once, under limits, to be written anew.
//!
//! A disk file can name other files (backing files, data files, extents, parents), which whoever
//! opens it would read with its own rights. Such names are refused, or, for a chain of
//! backing files that lie beside the disk, followed on request.

mod bring;

use super::Format;
use super::image::{self, DiskError, Info, Stranger};
use crate::support::command::Limits;
use crate::support::wait::Patience;
pub use bring::{Brought, Foreign};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Larger disks, and files, are mistakes or attacks, in bytes.
const MAX_SIZE: u64 = 16 << 40;
/// Longest chain of backing files that is followed.
const MAX_CHAIN: usize = 8;
/// How much of a file's start is looked at.
const HEAD: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    #[error("{} is not what it should be: {what}", path.display())]
    Malformed { path: PathBuf, what: &'static str },
    #[error("{} names another file, {what}: it is not opened, because that could be any file of this machine", path.display())]
    Refers { path: PathBuf, what: String },
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: &'static str },
    #[error("{} says that its disk has {size} bytes; kiln takes 1 byte to 16 TiB", path.display())]
    Size { path: PathBuf, size: u64 },
    #[error("{} has {size} bytes; kiln takes 1 byte to 16 TiB", path.display())]
    FileSize { path: PathBuf, size: u64 },
    #[error("there is no file {}", path.display())]
    Missing { path: PathBuf },
    #[error("{} is no regular file and no block device", path.display())]
    NoFile { path: PathBuf },
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Writes a stranger's disk anew as a self-contained qcow2 at `target`, which is whole and durable
/// when this returns. `flatten`: follow backing files that lie in the same folder.
pub async fn take_in(
    source: &Brought,
    format: Format,
    target: &Path,
    flatten: bool,
    progress: &mut (dyn FnMut(f32) + Send),
    patience: &Patience,
) -> Result<Info, ForeignError> {
    let chain = examine(source, format, flatten, patience).await?;
    let mut bytes = 0;
    for (link, (Brought { shown, file }, format)) in chain.iter().enumerate() {
        let own = |e: DiskError| e.of(shown);
        let info = image::info(file, *format, patience).await.map_err(own)?;
        let size = info.virtual_size;
        if size == 0 || size > MAX_SIZE {
            return Err(ForeignError::Size { path: shown.clone(), size });
        }
        // The headers were read above; this is QEMU's own opinion of them.
        match chain.get(link + 1) {
            // A header that QEMU reads otherwise than kiln would lead it on to any file of the host.
            Some((next, next_format)) if info.data_files.is_empty() => {
                let name = next.file.file_name().map(|n| n.to_string_lossy());
                let same_name = info.backing.as_deref().map(|b| b.as_os_str().to_string_lossy()) == name;
                if !same_name || info.backing_format.as_deref() != Some(next_format.as_str()) {
                    let what = "it can be read in two ways: which file it stands on is not clear";
                    return Err(ForeignError::Malformed { path: shown.clone(), what });
                }
            }
            _ => info.require_self_contained(file).map_err(own)?,
        }
        image::check(file, *format, patience).await.map_err(own)?;
        bytes += info.actual_size;
    }
    let stranger = Stranger {
        limits: Limits { memory: 4 << 30, cpu: Duration::from_secs(60 + bytes / (4 << 20)) },
        alone: chain.len() == 1,
    };
    let target_format = (target, Format::Qcow2);
    image::convert_within((&source.file, format), target_format, None, Some(stranger), progress, patience)
        .await?;
    Ok(image::info(target, Format::Qcow2, patience).await?)
}

/// The disk and the files it stands on, each looked at and brought to the disk's side; first the disk itself.
async fn examine(
    source: &Brought,
    format: Format,
    flatten: bool,
    patience: &Patience,
) -> Result<Vec<(Brought, Format)>, ForeignError> {
    let mut chain = vec![(source.clone(), format)];
    loop {
        let (Brought { shown, file }, format) = chain.last().expect("it starts with one");
        let Some(backing) = look(file, *format).map_err(|e| e.of(shown))? else { return Ok(chain) };
        let refuse = |why: &str| ForeignError::Refers {
            path: shown.clone(),
            what: format!("its backing file `{}`{why}", printable(&backing.name)),
        };
        if !flatten {
            return Err(refuse(""));
        }
        if backing.name.contains(['/', ':']) || backing.name.starts_with('.') {
            return Err(refuse(", which is not just the name of a file in the same folder"));
        }
        let Some(next) = backing.format else {
            return Err(refuse(", without saying which format it has"));
        };
        let path = shown.with_file_name(&backing.name);
        if chain.len() == MAX_CHAIN || chain.iter().any(|(b, _)| b.shown == path) {
            return Err(refuse(": the chain is too long or goes in a circle"));
        }
        let opened = match Foreign::open_backing(&path) {
            Err(ForeignError::NoFile { .. }) => return Err(refuse(", which is no regular file")),
            opened => opened?,
        };
        // The name leads QEMU to the copy: it lies beside the one that names it, as the original did.
        let folder = file.parent().expect("a copy lies in a folder");
        chain.push((opened.bring(folder, patience).await?, next));
    }
}

impl ForeignError {
    /// The same of a file that its owner knows by another name.
    fn of(mut self, shown: &Path) -> ForeignError {
        match &mut self {
            ForeignError::Malformed { path, .. }
            | ForeignError::Refers { path, .. }
            | ForeignError::Unsupported { path, .. }
            | ForeignError::Size { path, .. }
            | ForeignError::FileSize { path, .. }
            | ForeignError::Missing { path }
            | ForeignError::NoFile { path }
            | ForeignError::Read { path, .. } => *path = shown.to_owned(),
            ForeignError::Disk(_) => {}
        }
        self
    }
}

struct Backing {
    name: String,
    format: Option<Format>,
}

/// Reads a file's header; the backing file it names, if it names one.
fn look(path: &Path, format: Format) -> Result<Option<Backing>, ForeignError> {
    let read = |source| ForeignError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut head = vec![0; HEAD.min(usize::try_from(length).unwrap_or(HEAD))];
    file.read_exact_at(&mut head, 0).map_err(read)?;
    match format {
        Format::Raw | Format::Vhdx => Ok(None),
        Format::Qcow2 => qcow2(&head, path),
        Format::Vmdk => vmdk(&head, path).map(|()| None),
        Format::Vhd => {
            let mut footer = [0; 512];
            file.read_exact_at(&mut footer, length.saturating_sub(512)).map_err(read)?;
            vhd(&footer, path).map(|()| None)
        }
    }
}

/// The fields of a qcow2 header that matter here are big-endian and at fixed places.
fn qcow2(head: &[u8], path: &Path) -> Result<Option<Backing>, ForeignError> {
    let malformed = |what| ForeignError::Malformed { path: path.to_owned(), what };
    let unsupported = |what| ForeignError::Unsupported { path: path.to_owned(), what };
    if !head.starts_with(b"QFI\xfb") {
        return Err(malformed("it does not start like a qcow2 file"));
    }
    let short = || malformed("its header is cut short");
    let version = u32_at(head, 4).ok_or_else(short)?;
    let name_at = u64_at(head, 8).ok_or_else(short)?;
    let name_length = u32_at(head, 16).ok_or_else(short)?;
    if u32_at(head, 32).ok_or_else(short)? != 0 {
        return Err(unsupported("its disk is encrypted, which kiln does not read"));
    }
    let extensions_at = match version {
        2 => 72,
        3 => {
            let features = u64_at(head, 72).ok_or_else(short)?;
            if features & 2 != 0 {
                return Err(malformed("it is marked as damaged"));
            }
            if features & 4 != 0 {
                let what = "the data file that holds its content".to_owned();
                return Err(ForeignError::Refers { path: path.to_owned(), what });
            }
            u32_at(head, 100).ok_or_else(short)? as usize
        }
        _ => return Err(malformed("it is neither version 2 nor 3 of qcow2")),
    };
    if name_at == 0 {
        return Ok(None);
    }
    let name = usize::try_from(name_at)
        .ok()
        .filter(|_| name_length < 1024)
        .and_then(|at| head.get(at..at.checked_add(name_length as usize)?))
        .ok_or_else(|| malformed("the name of its backing file lies outside its header"))?;
    let name = String::from_utf8_lossy(name).into_owned();
    // Extensions end where the name begins, at the latest.
    let extensions = head.get(..name_at as usize).unwrap_or(head);
    let formats = backing_formats(extensions, extensions_at);
    if formats.len() > 1 {
        return Err(malformed("it names the format of its backing file more than once"));
    }
    Ok(Some(Backing { name, format: formats.into_iter().next().flatten() }))
}

/// Every format that the header's extensions name for the backing file; None for one unknown here.
fn backing_formats(head: &[u8], mut at: usize) -> Vec<Option<Format>> {
    const BACKING_FORMAT: u32 = 0xE279_2ACA;
    let mut found = Vec::new();
    while let (Some(kind), Some(length)) = (u32_at(head, at), u32_at(head, at + 4)) {
        let length = length as usize;
        match kind {
            0 => break,
            BACKING_FORMAT => found.push(match head.get(at + 8..).and_then(|rest| rest.get(..length)) {
                Some(b"raw") => Some(Format::Raw),
                Some(b"qcow2") => Some(Format::Qcow2),
                _ => None,
            }),
            _ => {}
        }
        at += 8 + length.next_multiple_of(8);
    }
    found
}

/// Only a file that holds its own data: a descriptor could name any file as an extent.
fn vmdk(head: &[u8], path: &Path) -> Result<(), ForeignError> {
    let capacity = head.get(12..20).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")));
    match capacity {
        Some(capacity) if head.starts_with(b"KDMV") && capacity != 0 => {}
        _ => {
            let what = "it is no VMDK that holds its own data (streamOptimized or monolithicSparse); a descriptor names other files";
            return Err(ForeignError::Malformed { path: path.to_owned(), what });
        }
    }
    if head.windows(18).any(|w| w == b"parentFileNameHint") {
        return Err(ForeignError::Refers { path: path.to_owned(), what: "a parent disk".into() });
    }
    Ok(())
}

fn vhd(footer: &[u8; 512], path: &Path) -> Result<(), ForeignError> {
    if !footer.starts_with(b"conectix") {
        let what = "it does not end like a VHD file";
        return Err(ForeignError::Malformed { path: path.to_owned(), what });
    }
    match u32_at(footer, 60) {
        Some(2 | 3) => Ok(()),
        _ => Err(ForeignError::Refers { path: path.to_owned(), what: "a parent disk".into() }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A stranger's name as it may be shown on a terminal.
fn printable(name: &str) -> String {
    crate::support::text::marked(name, 200)
}

#[cfg(test)]
mod tests;
