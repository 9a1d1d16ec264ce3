//! VMDK streamOptimized: compressed grains one after the other, tables behind
//! them, the directory at the end.

use super::DiskWriter;
use super::pool::{CLUSTER, CLUSTERS, Cluster, Codec, Line, Packed, Pool};
use crate::disk::block::Block;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SECTOR: usize = 512;
const GRAIN_SECTORS: u64 = (CLUSTER / SECTOR) as u64;
/// Entries of a grain table; a multiple of the grains in a block.
const TABLE_ENTRIES: usize = 512;
/// Sectors before the first grain, as everyone has it.
const OVERHEAD: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Sector and size before each grain.
const GRAIN_HEAD: usize = 12;
/// "The directory is found through the footer."
const DIRECTORY_AT_END: u64 = u64::MAX;

const MARKER_TABLE: u32 = 1;
const MARKER_DIRECTORY: u32 = 2;
const MARKER_FOOTER: u32 = 3;

pub struct Vmdk {
    line: Line,
    stream: Stream,
}

struct Stream {
    file: File,
    /// Virtual size in sectors.
    capacity: u64,
    /// Next sector to be written.
    sector: u64,
    /// The table being filled.
    table: usize,
    entries: [u32; TABLE_ENTRIES],
    /// Sector of each table.
    directory: Vec<u32>,
}

impl Vmdk {
    pub fn new(file: File, size: u64, pool: &Arc<Pool>) -> io::Result<Vmdk> {
        let capacity = size / SECTOR as u64;
        let tables = capacity.div_ceil(GRAIN_SECTORS * TABLE_ENTRIES as u64) as usize;
        let mut stream = Stream {
            file,
            capacity,
            sector: 0,
            table: 0,
            entries: [0; TABLE_ENTRIES],
            directory: vec![0; tables],
        };
        let mut start = header(capacity, DIRECTORY_AT_END).to_vec();
        start.resize(OVERHEAD as usize * SECTOR, 0);
        stream.write(&start)?;
        let line = Line::new(pool, Codec::Zlib { head: GRAIN_HEAD, align: SECTOR });
        Ok(Vmdk { line, stream })
    }
}

impl DiskWriter for Vmdk {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        match self.line.put(index, block)? {
            Some((index, packed)) => self.stream.place(index, packed),
            None => Ok(()),
        }
    }

    fn finish(&mut self, content: &[u8; 32]) -> io::Result<()> {
        while let Some((index, packed)) = self.line.take()? {
            self.stream.place(index, packed)?;
        }
        self.stream.end(content)
    }
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sector += (bytes.len() / SECTOR) as u64;
        Ok(())
    }

    fn place(&mut self, index: u64, mut packed: Packed) -> io::Result<()> {
        let first = index * CLUSTERS as u64;
        let table = (first / TABLE_ENTRIES as u64) as usize;
        if table != self.table {
            self.close_table()?;
            self.table = table;
        }
        for (grain, cluster) in (first..).zip(&packed.clusters) {
            let Cluster::Compressed(place) = cluster else { continue };
            let length = (place.len() - GRAIN_HEAD) as u32;
            let head = &mut packed.bytes[place.start..place.start + GRAIN_HEAD];
            head[..8].copy_from_slice(&(grain * GRAIN_SECTORS).to_le_bytes());
            head[8..].copy_from_slice(&length.to_le_bytes());
            self.entries[grain as usize % TABLE_ENTRIES] =
                sector_number(self.sector + (place.start / SECTOR) as u64)?;
        }
        self.write(&packed.bytes)
    }

    /// Writes the table being filled, unless it is empty.
    fn close_table(&mut self) -> io::Result<()> {
        if self.entries == [0; TABLE_ENTRIES] {
            return Ok(());
        }
        let bytes: Vec<u8> = self.entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        self.write(&marker(bytes.len(), MARKER_TABLE))?;
        self.directory[self.table] = sector_number(self.sector)?;
        self.entries = [0; TABLE_ENTRIES];
        self.write(&bytes)
    }

    fn end(&mut self, content: &[u8; 32]) -> io::Result<()> {
        self.close_table()?;
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|e| e.to_le_bytes()).collect();
        directory.resize(directory.len().next_multiple_of(SECTOR), 0);
        self.write(&marker(directory.len(), MARKER_DIRECTORY))?;
        let directory_at = self.sector;
        self.write(&directory)?;
        self.write(&marker(SECTOR, MARKER_FOOTER))?;
        self.write(&header(self.capacity, directory_at))?;
        // End of stream: a marker of nothing.
        self.write(&[0; SECTOR])?;
        self.file.write_all_at(descriptor(self.capacity, content).as_bytes(), SECTOR as u64)
    }
}

/// Tables hold 32 bits: files end at 2 TiB.
fn sector_number(sector: u64) -> io::Result<u32> {
    u32::try_from(sector).map_err(|_| io::Error::other("a VMDK file cannot be longer than 2 TiB"))
}

/// The sector before metadata of `length` bytes.
fn marker(length: usize, kind: u32) -> [u8; SECTOR] {
    let mut marker = [0; SECTOR];
    marker[..8].copy_from_slice(&((length / SECTOR) as u64).to_le_bytes());
    marker[12..16].copy_from_slice(&kind.to_le_bytes());
    marker
}

fn header(capacity: u64, directory: u64) -> [u8; SECTOR] {
    let mut header = [0; SECTOR];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(b"KDMV");
    put(&3u32.to_le_bytes());
    // Line feeds can be tested, grains are compressed, there are markers.
    put(&(1u32 | 1 << 16 | 1 << 17).to_le_bytes());
    put(&capacity.to_le_bytes());
    put(&GRAIN_SECTORS.to_le_bytes());
    put(&1u64.to_le_bytes());
    put(&DESCRIPTOR_SECTORS.to_le_bytes());
    put(&(TABLE_ENTRIES as u32).to_le_bytes());
    // No redundant directory.
    put(&0u64.to_le_bytes());
    put(&directory.to_le_bytes());
    put(&OVERHEAD.to_le_bytes());
    // Shut down cleanly; then what a transfer as text would spoil; then deflate.
    put(b"\0\n \r\n");
    put(&1u16.to_le_bytes());
    header
}

fn descriptor(capacity: u64, content: &[u8; 32]) -> String {
    let cid = u32::from_le_bytes(content[..4].try_into().expect("four of 32 bytes"));
    // All ones would mean "no parent".
    let cid = cid.min(0xffff_fffe);
    let cylinders = (capacity / (255 * 63)).clamp(1, 65535);
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={cid:08x}\n\
         parentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\
         \n\
         # Extent description\n\
         RW {capacity} SPARSE \"disk.vmdk\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.virtualHWVersion = \"7\"\n"
    )
}
