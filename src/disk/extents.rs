//! Where in which file each byte of a disk stands, as `qemu-img map` tells it.
//!
//! QEMU alone interprets the format and follows the backing files; what it says
//! is read from the files themselves, without a second process and two copies
//! through a socket. What is compressed has no such place: then there are no extents.

use super::Format;
use super::block::{BLOCK_SIZE, MAX_DISK_SIZE};
use super::image::{FormatSpecific, driver};
use crate::support::command::Tool;
use crate::support::wait::Patience;
use serde::Deserialize;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most files of one chain that are held open.
const MAX_FILES: usize = 128;

/// All bytes of a disk, in order and without gaps.
#[derive(Debug)]
pub struct Extents {
    files: Vec<File>,
    extents: Vec<Extent>,
    /// The extent in which the last block that was read ended.
    at: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Extent {
    /// Bytes of the disk.
    range: Range<u64>,
    /// Which file and where in it; `None`: zeros.
    place: Option<(usize, u64)>,
}

/// One entry of `qemu-img map --output=json`.
#[derive(Deserialize)]
struct Entry {
    start: u64,
    length: u64,
    /// Which file of the chain, the top being 0.
    depth: usize,
    zero: bool,
    data: bool,
    offset: Option<u64>,
    #[serde(default)]
    compressed: bool,
}

/// One file of `qemu-img info --backing-chain --output=json`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Link {
    filename: PathBuf,
    format_specific: Option<FormatSpecific>,
}

/// What QEMU tells of a disk: its files, the top first, and what is where.
pub struct Map {
    files: Vec<PathBuf>,
    entries: Vec<Entry>,
}

impl Map {
    /// The map of the disk at `path`, backing files included; `None` where QEMU does not tell.
    pub async fn of(path: &Path, format: Format, patience: &Patience) -> Option<Map> {
        let path = std::path::absolute(path).ok()?;
        let files = match format {
            Format::Raw | Format::Vhd => vec![path.clone()],
            Format::Qcow2 => chain(&path, format, patience).await?,
            Format::Vmdk | Format::Vhdx => return None,
        };
        let map = Tool::new("qemu-img").args(["map", "--output=json", "-f", driver(format)]).arg(&path);
        let map = map.run(patience).await.ok()?.stdout;
        let task = tokio::task::spawn_blocking(move || Map::parse(&map, files));
        task.await.expect("reading a map does not panic")
    }

    fn parse(map: &[u8], files: Vec<PathBuf>) -> Option<Map> {
        let entries: Vec<Entry> = serde_json::from_slice(map).ok()?;
        let mut end = 0;
        for entry in &entries {
            let stop = entry.start.checked_add(entry.length)?;
            if entry.start != end || stop == end || stop > MAX_DISK_SIZE {
                return None;
            }
            end = stop;
        }
        (end > 0).then_some(Map { files, entries })
    }

    /// Blocks of which a file above `below` decides at least one byte, as ranges of block indexes, ascending:
    /// all others are as `below` has them. `None` where that is no file of the chain.
    pub fn above(&self, below: &Path) -> Option<Vec<Range<u64>>> {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let wanted = identity(below)?;
        let depth = self.files.iter().position(|f| identity(f) == Some(wanted))?;
        Some(blocks(self.entries.iter().filter(|e| e.depth < depth).map(Entry::range)))
    }

    /// `None` where some of the disk has no plain place in a file.
    pub fn extents(&self) -> Option<Extents> {
        let files = self.files.iter().map(open).collect::<Option<_>>()?;
        Some(Extents { files, extents: self.places()?, at: 0 })
    }

    fn places(&self) -> Option<Vec<Extent>> {
        let place = |entry: &Entry| match *entry {
            Entry { zero: true, .. } => Some(None),
            Entry { data: true, compressed: false, offset: Some(offset), depth, length, .. }
                if depth < self.files.len() =>
            {
                offset.checked_add(length)?;
                Some(Some((depth, offset)))
            }
            _ => None,
        };
        let extent = |entry| Some(Extent { range: Entry::range(entry), place: place(entry)? });
        self.entries.iter().map(extent).collect()
    }
}

impl Entry {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.length
    }
}

/// The blocks that bytes of a disk lie in.
fn blocks(bytes: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let block = BLOCK_SIZE as u64;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for range in bytes {
        let blocks = range.start / block..range.end.div_ceil(block);
        match ranges.last_mut() {
            Some(last) if last.end >= blocks.start => last.end = last.end.max(blocks.end),
            _ => ranges.push(blocks),
        }
    }
    ranges
}

impl Extents {
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.range.end)
    }

    /// Blocks that may hold data, as ranges of block indexes, ascending.
    pub fn data_blocks(&self) -> Vec<Range<u64>> {
        blocks(self.extents.iter().filter(|e| e.place.is_some()).map(|e| e.range.clone()))
    }

    /// Fills `buffer` with a block, zeros behind the disk's end. Blocks are read in ascending order.
    pub fn read(&mut self, index: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(BLOCK_SIZE, 0);
        let start = index * BLOCK_SIZE as u64;
        let end = start + BLOCK_SIZE as u64;
        while self.extents.get(self.at).is_some_and(|e| e.range.end <= start) {
            self.at += 1;
        }
        let mut filled = start;
        for Extent { range, place } in &self.extents[self.at..] {
            if filled >= end || range.start >= end {
                break;
            }
            let stop = range.end.min(end);
            let part = &mut buffer[(filled - start) as usize..(stop - start) as usize];
            match place {
                Some((file, offset)) => read_at(&self.files[*file], part, offset + (filled - range.start))?,
                None => part.fill(0),
            }
            filled = stop;
        }
        buffer[filled.saturating_sub(start) as usize..].fill(0);
        Ok(())
    }
}

/// What is behind the end of a file reads as zeros, as QEMU has it: a sector may be begun only.
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => {
                bytes.fill(0);
                return Ok(());
            }
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The files of a chain, the top first.
async fn chain(path: &Path, format: Format, patience: &Patience) -> Option<Vec<PathBuf>> {
    let tool = Tool::new("qemu-img").args(["info", "--backing-chain", "--output=json", "-f", driver(format)]);
    let told = tool.arg(path).run(patience).await.ok()?.stdout;
    let links: Vec<Link> = serde_json::from_slice(&told).ok()?;
    let plain = |l: &Link| {
        // Anything else is a protocol's name, or QEMU's own notation.
        l.filename.is_absolute() && l.format_specific.as_ref().is_none_or(FormatSpecific::is_one_file)
    };
    (links.len() <= MAX_FILES && links.iter().all(plain))
        .then(|| links.into_iter().map(|l| l.filename).collect())
}

fn open(path: &PathBuf) -> Option<File> {
    // Not a device or a pipe: what they give is no matter of offsets alone.
    std::fs::metadata(path).ok().filter(|m| m.is_file())?;
    let file = File::open(path).ok()?;
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, length: u64, rest: &str) -> String {
        format!("{{\"start\": {start}, \"length\": {length}, \"present\": true, {rest}}}")
    }

    fn parsed(entries: &[String]) -> Option<Vec<Extent>> {
        let map = format!("[{}]", entries.join(",\n"));
        Map::parse(map.as_bytes(), vec![PathBuf::new(); 2])?.places()
    }

    const DATA: &str = r#""depth": 1, "zero": false, "data": true, "offset": 65536"#;
    const ZERO: &str = r#""depth": 0, "zero": true, "data": false"#;

    #[test]
    fn a_map_covers_the_disk_or_is_none() {
        let good = [entry(0, 512, DATA), entry(512, 512, ZERO)];
        let expected =
            [Extent { range: 0..512, place: Some((1, 65536)) }, Extent { range: 512..1024, place: None }];
        assert_eq!(parsed(&good).unwrap(), expected);
        let compressed = r#""depth": 0, "zero": false, "data": true"#;
        let named = r#""depth": 0, "zero": false, "data": true, "offset": 0, "compressed": true"#;
        let bad = [
            vec![],
            vec![entry(512, 512, DATA)],
            vec![entry(0, 0, DATA)],
            vec![entry(0, 512, DATA), entry(0, 512, DATA)],
            vec![entry(0, u64::MAX, ZERO)],
            vec![entry(0, 512, ZERO), entry(512, u64::MAX, ZERO)],
            vec![entry(0, 512, compressed)],
            vec![entry(0, 512, named)],
            vec![entry(0, 512, &DATA.replace("1,", "2,"))],
            vec![entry(0, 512, &DATA.replace("65536", "18446744073709551615"))],
            vec![entry(0, 512, &ZERO.replace("true", "false"))],
        ];
        for entries in bad {
            assert!(parsed(&entries).is_none(), "{entries:?}");
        }
        assert!(Map::parse(b"[{", Vec::new()).is_none());
    }

    #[test]
    fn blocks_are_put_together_from_their_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..BLOCK_SIZE + 1000).map(|n| (n % 251) as u8 + 1).collect();
        std::fs::write(&path, &content).unwrap();
        let block = BLOCK_SIZE as u64;
        let mut extents = Extents {
            files: vec![open(&path).unwrap()],
            extents: vec![
                Extent { range: 0..512, place: Some((0, 100)) },
                Extent { range: 512..2 * block + 512, place: None },
                // The last 12 bytes are behind the file's end.
                Extent { range: 2 * block + 512..2 * block + 1024, place: Some((0, block + 500)) },
            ],
            at: 0,
        };
        assert_eq!(extents.size(), 2 * block + 1024);
        assert_eq!(extents.data_blocks(), [0..1, 2..3]);
        let mut buffer = vec![9; 7];
        let mut expected = vec![0; BLOCK_SIZE];
        expected[..512].copy_from_slice(&content[100..612]);
        extents.read(0, &mut buffer).unwrap();
        assert!(buffer == expected);
        expected.fill(0);
        expected[512..1012].copy_from_slice(&content[BLOCK_SIZE + 500..]);
        extents.read(2, &mut buffer).unwrap();
        assert!(buffer == expected);
        assert!(open(&folder.path().to_owned()).is_none());
    }
}
