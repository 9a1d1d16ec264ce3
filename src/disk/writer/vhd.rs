//! VHD (Virtual Hard Disk 1.0), fixed and dynamic.

use super::raw::Raw;
use super::{DiskWriter, write_sparse};
use crate::disk::block::{BLOCK_SIZE, Block};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The specification's limit, 2040 GiB.
pub const MAX_SIZE: u64 = 2040 << 30;

const SECTOR: u64 = 512;
/// Bytes of the disk behind one entry of the allocation table.
const CHUNK: u64 = 2 << 20;
/// Where the allocation table stands: after the footer's copy and the header.
const TABLE_AT: u64 = 1536;
const UNUSED: u32 = u32::MAX;
/// The data of a chunk begins at a multiple of this, so that zero pages can stay holes.
const ALIGNMENT: u64 = 4096;

#[derive(Clone, Copy)]
enum Kind {
    Fixed = 2,
    Dynamic = 3,
}

/// Data, then a footer.
pub struct Fixed {
    raw: Raw,
    file: File,
    size: u64,
}

impl Fixed {
    pub fn new(file: File, size: u64) -> io::Result<Fixed> {
        Ok(Fixed { raw: Raw::new(file.try_clone()?, size)?, file, size })
    }
}

impl DiskWriter for Fixed {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        self.raw.write(index, block)
    }

    fn finish(&mut self, content: &[u8; 32]) -> io::Result<()> {
        self.file.write_all_at(&footer(self.size, Kind::Fixed, content), self.size)
    }
}

/// Footer's copy, header, allocation table, then chunks of 2 MiB, each after a
/// bitmap of its sectors, then the footer.
pub struct Dynamic {
    file: File,
    size: u64,
    /// Sector of each chunk's bitmap.
    table: Vec<u32>,
    /// Where the file ends so far.
    end: u64,
}

impl Dynamic {
    pub fn new(file: File, size: u64) -> Dynamic {
        let entries = size.div_ceil(CHUNK) as usize;
        let end = TABLE_AT + (entries as u64 * 4).next_multiple_of(SECTOR);
        Dynamic { file, size, table: vec![UNUSED; entries], end }
    }

    /// Where the data of a chunk begins in the file.
    fn chunk_at(&mut self, chunk: usize) -> io::Result<u64> {
        if self.table[chunk] == UNUSED {
            let data = (self.end + SECTOR).next_multiple_of(ALIGNMENT);
            self.table[chunk] = u32::try_from((data - SECTOR) / SECTOR).map_err(io::Error::other)?;
            self.end = data + CHUNK;
            // All sectors count as written; those that were not are zeros.
            self.file.write_all_at(&[0xff; SECTOR as usize], data - SECTOR)?;
        }
        Ok((u64::from(self.table[chunk]) + 1) * SECTOR)
    }
}

impl DiskWriter for Dynamic {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        let offset = index * BLOCK_SIZE as u64;
        let chunk = self.chunk_at((offset / CHUNK) as usize)?;
        write_sparse(&self.file, block, chunk + offset % CHUNK)
    }

    fn finish(&mut self, content: &[u8; 32]) -> io::Result<()> {
        let footer = footer(self.size, Kind::Dynamic, content);
        let mut table: Vec<u8> = self.table.iter().flat_map(|sector| sector.to_be_bytes()).collect();
        table.resize(table.len().next_multiple_of(SECTOR as usize), 0xff);
        self.file.write_all_at(&footer, 0)?;
        self.file.write_all_at(&header(self.table.len() as u32), SECTOR)?;
        self.file.write_all_at(&table, TABLE_AT)?;
        self.file.write_all_at(&footer, self.end)
    }
}

fn footer(size: u64, kind: Kind, content: &[u8; 32]) -> [u8; 512] {
    let (cylinders, heads, sectors) = geometry(size);
    let mut footer = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    put(
        16,
        &match kind {
            Kind::Fixed => u64::MAX,
            Kind::Dynamic => SECTOR,
        }
        .to_be_bytes(),
    );
    // Readers know some creators as those whose sizes, not whose rounded
    // geometries, count; with any other name QEMU would cut the disk short.
    put(28, b"win ");
    put(32, &0x000a_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    put(60, &(kind as u32).to_be_bytes());
    put(68, &uuid(content));
    let sum = checksum(&footer);
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    footer
}

fn header(entries: u32) -> [u8; 1024] {
    let mut header = [0; 1024];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"cxsparse");
    put(8, &u64::MAX.to_be_bytes());
    put(16, &TABLE_AT.to_be_bytes());
    put(24, &0x0001_0000u32.to_be_bytes());
    put(28, &entries.to_be_bytes());
    put(32, &(CHUNK as u32).to_be_bytes());
    let sum = checksum(&header);
    header[36..40].copy_from_slice(&sum.to_be_bytes());
    header
}

/// One's complement of the sum of all bytes, the checksum's own place being zeros.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().map(|b| u32::from(*b)).sum::<u32>()
}

/// A UUID of the kind whose bits are the maker's business (version 8).
fn uuid(content: &[u8; 32]) -> [u8; 16] {
    let mut uuid: [u8; 16] = content[..16].try_into().expect("sixteen of 32 bytes");
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// (cylinders, heads, sectors per track), by the specification's appendix.
fn geometry(size: u64) -> (u16, u8, u8) {
    let total = (size / SECTOR).min(65535 * 16 * 255);
    let (mut sectors, mut heads, mut tracks);
    if total >= 65535 * 16 * 63 {
        (sectors, heads, tracks) = (255, 16, total / 255);
    } else {
        sectors = 17;
        tracks = total / sectors;
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (sectors, heads, tracks) = (31, 16, total / 31);
        }
        if tracks >= heads * 1024 {
            (sectors, heads, tracks) = (63, 16, total / 63);
        }
    }
    ((tracks / heads) as u16, heads as u8, sectors as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_is_what_the_specification_computes() {
        // What qemu-img writes for disks of exactly such sizes.
        for (cylinders, heads, sectors) in
            [(301, 4, 17), (1000, 10, 17), (1000, 16, 31), (4161, 16, 63), (16644, 16, 63), (65279, 16, 255)]
        {
            let size = u64::from(cylinders) * u64::from(heads) * u64::from(sectors) * SECTOR;
            assert_eq!(geometry(size), (cylinders, heads, sectors));
        }
        assert_eq!(geometry(MAX_SIZE), (65535, 16, 255));
    }

    #[test]
    fn checksums_add_up() {
        let footer = footer(1 << 30, Kind::Fixed, &[7; 32]);
        let mut zeroed = footer;
        zeroed[64..68].fill(0);
        assert_eq!(checksum(&zeroed).to_be_bytes(), footer[64..68]);
        assert_eq!((footer[74], footer[76]), (0x87, 0x87));
    }
}
