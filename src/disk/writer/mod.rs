//! Writes disks for other platforms. A writer takes the blocks of a disk in one
//! forward pass, so that any number of formats is written while the disk is read once.

mod pool;
mod qcow2;
mod raw;
#[cfg(test)]
mod tests;
mod vhd;
mod vmdk;

pub use pool::Pool;

use super::Format;
use super::block::{BLOCK_SIZE, Block, data_runs};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::Arc;

/// A file format that kiln writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExportFormat {
    /// qcow2, clusters as they are.
    Qcow2,
    /// qcow2, clusters compressed with zstd (QEMU 5.1 and later read it).
    Qcow2Zstd,
    /// The bytes of the disk, zeros as holes of the file.
    Raw,
    /// VMDK streamOptimized: what EC2, vSphere and OVA take.
    Vmdk,
    /// VHD of fixed size: what Azure takes.
    Vhd,
    /// VHD that grows.
    VhdDynamic,
}

/// One file being written.
///
/// Blocks come in ascending order; blocks of zeros do not come at all.
pub trait DiskWriter: Send {
    /// Takes one block of exactly [`BLOCK_SIZE`] bytes.
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()>;

    /// Completes the file. `content` is the digest of the disk's block list;
    /// identifiers in the file derive from it, so that equal disks give equal files.
    fn finish(&mut self, content: &[u8; 32]) -> io::Result<()>;
}

impl ExportFormat {
    pub const ALL: [ExportFormat; 6] = [
        ExportFormat::Qcow2,
        ExportFormat::Qcow2Zstd,
        ExportFormat::Raw,
        ExportFormat::Vmdk,
        ExportFormat::Vhd,
        ExportFormat::VhdDynamic,
    ];

    /// The word for it, in recipes too.
    pub fn as_str(self) -> &'static str {
        match self {
            ExportFormat::Qcow2 => "qcow2",
            ExportFormat::Qcow2Zstd => "qcow2-zstd",
            ExportFormat::Raw => "raw",
            ExportFormat::Vmdk => "vmdk",
            ExportFormat::Vhd => "vhd",
            ExportFormat::VhdDynamic => "vhd-dynamic",
        }
    }

    /// The format that a file name usually stands for, by what is behind its last dot.
    pub fn of_extension(extension: &str) -> Option<ExportFormat> {
        match extension {
            "img" => Some(ExportFormat::Raw),
            other => ExportFormat::ALL.into_iter().find(|f| f.extension() == other),
        }
    }

    /// How file names of it usually end, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            ExportFormat::Qcow2 | ExportFormat::Qcow2Zstd => "qcow2",
            ExportFormat::Raw => "raw",
            ExportFormat::Vmdk => "vmdk",
            ExportFormat::Vhd | ExportFormat::VhdDynamic => "vhd",
        }
    }

    /// What the file is opened as.
    pub fn read_as(self) -> Format {
        match self {
            ExportFormat::Qcow2 | ExportFormat::Qcow2Zstd => Format::Qcow2,
            ExportFormat::Raw => Format::Raw,
            ExportFormat::Vmdk => Format::Vmdk,
            ExportFormat::Vhd | ExportFormat::VhdDynamic => Format::Vhd,
        }
    }

    /// Virtual size in bytes of the file made of a disk of `size` bytes: platforms
    /// that take VHDs want whole MiB.
    pub fn virtual_size(self, size: u64) -> u64 {
        match self {
            ExportFormat::Vhd | ExportFormat::VhdDynamic => size.next_multiple_of(1 << 20),
            _ => size,
        }
    }

    /// Largest virtual size in bytes that the format can hold.
    pub fn max_size(self) -> u64 {
        match self {
            ExportFormat::Vhd | ExportFormat::VhdDynamic => vhd::MAX_SIZE,
            _ => super::block::MAX_DISK_SIZE,
        }
    }

    /// Most bytes that the file can take on the host's disk. How well data will
    /// compress cannot be known beforehand: compressed formats count as if it did not.
    pub fn worst_case(self, size: u64, data: &[Range<u64>]) -> u64 {
        let blocks: u64 = data.iter().map(|r| r.end - r.start).sum();
        let bytes = blocks * BLOCK_SIZE as u64;
        let tables = match self {
            ExportFormat::Raw | ExportFormat::Vhd => 0,
            ExportFormat::Qcow2 | ExportFormat::Qcow2Zstd => size / 8192 + bytes / 16384,
            // A marker and padding for each 64 KiB.
            ExportFormat::Vmdk => blocks * 8 * 512 + size / 8192,
            ExportFormat::VhdDynamic => blocks * 4096 + size / (512 << 10),
        };
        bytes + tables + (1 << 20)
    }

    /// A writer into the empty `file` of a disk of `size` bytes.
    pub fn writer(self, file: File, size: u64, pool: &Arc<Pool>) -> io::Result<Box<dyn DiskWriter>> {
        let size = self.virtual_size(size);
        Ok(match self {
            ExportFormat::Qcow2 => Box::new(qcow2::Plain::new(file, size)),
            ExportFormat::Qcow2Zstd => Box::new(qcow2::Zstd::new(file, size, pool)),
            ExportFormat::Raw => Box::new(raw::Raw::new(file, size)?),
            ExportFormat::Vmdk => Box::new(vmdk::Vmdk::new(file, size, pool)?),
            ExportFormat::Vhd => Box::new(vhd::Fixed::new(file, size)?),
            ExportFormat::VhdDynamic => Box::new(vhd::Dynamic::new(file, size)),
        })
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ExportFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<ExportFormat, String> {
        let names = ExportFormat::ALL.map(ExportFormat::as_str).join(", ");
        ExportFormat::ALL
            .into_iter()
            .find(|f| f.as_str() == text)
            .ok_or_else(|| format!("nothing is exported as `{text}`: {names}"))
    }
}

/// Writes what is not zero; `file` is a hole there until now.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    data_runs(bytes)
        .into_iter()
        .try_for_each(|run| file.write_all_at(&bytes[run.clone()], offset + run.start as u64))
}
