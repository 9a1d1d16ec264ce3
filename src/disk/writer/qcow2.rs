//! qcow2 version 3, plain or with zstd-compressed clusters. No backing file, no snapshots.
//!
//! Order in the file: header, then clusters as they come with each second-level
//! table behind what it covers, then first-level table and reference counts.

use super::DiskWriter;
use super::pool::{CLUSTER, CLUSTERS, Cluster, Codec, Line, Packed, Pool};
use crate::disk::block::{Block, is_zero};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const CLUSTER_SIZE: u64 = CLUSTER as u64;
const CLUSTER_BITS: u32 = CLUSTER_SIZE.trailing_zeros();
const L2_ENTRIES: u64 = CLUSTER_SIZE / 8;
/// Reference counts of 16 bits in one cluster.
const COUNTS: u64 = CLUSTER_SIZE / 2;
/// In table entries: the cluster's reference count is exactly one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// In entries of compressed clusters the number of further sectors begins at this bit.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);
const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
const COMPRESSION_ZSTD: u8 = 1;
const HEADER_LENGTH: u32 = 112;

pub struct Plain {
    image: Image,
}

pub struct Zstd {
    line: Line,
    image: Image,
}

struct Image {
    file: File,
    size: u64,
    compressed: bool,
    /// Reference count of each cluster of the file so far.
    counts: Vec<u16>,
    /// Where the next compressed cluster may begin.
    tail: u64,
    /// First-level table: offsets of the second-level ones.
    l1: Vec<u64>,
    /// Which second-level table is being filled.
    current: usize,
    l2: Vec<u64>,
}

impl Plain {
    pub fn new(file: File, size: u64) -> Plain {
        Plain { image: Image::new(file, size, false) }
    }
}

impl DiskWriter for Plain {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        let first = index * CLUSTERS as u64;
        let mut clusters = (first..).zip(block.chunks(CLUSTER)).filter(|(_, data)| !is_zero(data));
        clusters.try_for_each(|(cluster, data)| self.image.store(cluster, data))
    }

    fn finish(&mut self, _content: &[u8; 32]) -> io::Result<()> {
        self.image.finish()
    }
}

impl Zstd {
    pub fn new(file: File, size: u64, pool: &Arc<Pool>) -> Zstd {
        Zstd { line: Line::new(pool, Codec::Zstd), image: Image::new(file, size, true) }
    }
}

impl DiskWriter for Zstd {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        match self.line.put(index, block)? {
            Some((index, packed)) => self.image.place(index, &packed),
            None => Ok(()),
        }
    }

    fn finish(&mut self, _content: &[u8; 32]) -> io::Result<()> {
        while let Some((index, packed)) = self.line.take()? {
            self.image.place(index, &packed)?;
        }
        self.image.finish()
    }
}

impl Image {
    fn new(file: File, size: u64, compressed: bool) -> Image {
        let tables = size.div_ceil(CLUSTER_SIZE * L2_ENTRIES) as usize;
        Image {
            file,
            size,
            compressed,
            // The header's cluster.
            counts: vec![1],
            tail: CLUSTER_SIZE,
            l1: vec![0; tables],
            current: 0,
            l2: vec![0; L2_ENTRIES as usize],
        }
    }

    fn place(&mut self, index: u64, packed: &Packed) -> io::Result<()> {
        let first = index * CLUSTERS as u64;
        let data = packed.block.chunks(CLUSTER);
        for ((number, cluster), data) in (first..).zip(&packed.clusters).zip(data) {
            match cluster {
                Cluster::Zero => (),
                Cluster::Stored => self.store(number, data)?,
                Cluster::Compressed(place) => self.store_compressed(number, &packed.bytes[place.clone()])?,
            }
        }
        Ok(())
    }

    /// Offset of `count` new clusters at the end of the file, each referred to once.
    fn append(&mut self, count: u64) -> u64 {
        let offset = self.counts.len() as u64 * CLUSTER_SIZE;
        self.counts.resize(self.counts.len() + count as usize, 1);
        offset
    }

    fn store(&mut self, number: u64, data: &[u8]) -> io::Result<()> {
        let offset = self.append(1);
        self.file.write_all_at(data, offset)?;
        self.enter(number, offset | COPIED)
    }

    /// Compressed clusters stand side by side, also across the border of two
    /// clusters of the file where those are neighbours.
    fn store_compressed(&mut self, number: u64, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u64;
        let end = self.counts.len() as u64 * CLUSTER_SIZE;
        let room = self.tail.next_multiple_of(CLUSTER_SIZE) - self.tail;
        if length > room && self.tail + room != end {
            // Something else follows: begin anew at the end.
            self.tail = end;
        }
        let offset = self.tail;
        self.tail += length;
        self.file.write_all_at(data, offset)?;

        // Counted is what a reader will read: whole sectors.
        let sectors = (offset + length - 1) / 512 - offset / 512;
        let last = ((offset / 512 + sectors) * 512 / CLUSTER_SIZE) as usize;
        self.counts.resize(self.counts.len().max(last + 1), 0);
        for count in &mut self.counts[(offset / CLUSTER_SIZE) as usize..=last] {
            *count += 1;
        }
        self.enter(number, COMPRESSED | sectors << SECTORS_SHIFT | offset)
    }

    fn enter(&mut self, number: u64, entry: u64) -> io::Result<()> {
        let table = (number / L2_ENTRIES) as usize;
        if table != self.current {
            self.close_table()?;
            self.current = table;
        }
        self.l2[(number % L2_ENTRIES) as usize] = entry;
        Ok(())
    }

    /// Writes the second-level table being filled, unless it is empty.
    fn close_table(&mut self) -> io::Result<()> {
        if self.l2.iter().all(|e| *e == 0) {
            return Ok(());
        }
        let offset = self.append(1);
        self.file.write_all_at(&big_endian(&self.l2), offset)?;
        self.l1[self.current] = offset | COPIED;
        self.l2.fill(0);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close_table()?;
        let l1 = big_endian(&self.l1);
        let l1_at = self.append((l1.len() as u64).div_ceil(CLUSTER_SIZE).max(1));
        self.file.write_all_at(&l1, l1_at)?;

        // The counts count themselves: find how many clusters that takes.
        let used = self.counts.len() as u64;
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let needed = (used + blocks + tables).div_ceil(COUNTS);
            let needed_tables = (needed * 8).div_ceil(CLUSTER_SIZE);
            if (needed, needed_tables) == (blocks, tables) {
                break;
            }
            (blocks, tables) = (needed, needed_tables);
        }
        let blocks_at = self.append(blocks);
        let table_at = self.append(tables);
        let counts: Vec<u8> = self.counts.iter().flat_map(|c| c.to_be_bytes()).collect();
        self.file.write_all_at(&counts, blocks_at)?;
        let table: Vec<u64> = (0..blocks).map(|b| blocks_at + b * CLUSTER_SIZE).collect();
        self.file.write_all_at(&big_endian(&table), table_at)?;
        self.file.write_all_at(&self.header(l1_at, table_at, tables), 0)?;
        // The last cluster is whole, whatever was written of it.
        self.file.set_len(self.counts.len() as u64 * CLUSTER_SIZE)
    }

    fn header(&self, l1_at: u64, refcounts_at: u64, refcount_clusters: u64) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_LENGTH as usize + 8);
        header.extend(b"QFI\xfb");
        header.extend(3u32.to_be_bytes());
        // No backing file: offset and length of its name.
        header.extend([0; 12]);
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        // Not encrypted.
        header.extend(0u32.to_be_bytes());
        header.extend((self.l1.len() as u32).to_be_bytes());
        header.extend(l1_at.to_be_bytes());
        header.extend(refcounts_at.to_be_bytes());
        header.extend((refcount_clusters as u32).to_be_bytes());
        // No snapshots: number and offset.
        header.extend([0; 12]);
        let incompatible = if self.compressed { INCOMPATIBLE_COMPRESSION_TYPE } else { 0 };
        header.extend(incompatible.to_be_bytes());
        // Compatible and autoclear features.
        header.extend([0; 16]);
        // Counts are of 2^4 bits.
        header.extend(4u32.to_be_bytes());
        header.extend(HEADER_LENGTH.to_be_bytes());
        header.push(if self.compressed { COMPRESSION_ZSTD } else { 0 });
        header.extend([0; 7]);
        // End of the header's extensions.
        header.extend([0; 8]);
        header
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}
