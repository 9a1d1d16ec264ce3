//! The block list of a disk: one digest per block that is not all zeros.
//!
//! One list serves identity, verification, comparison and later uploads. Its
//! text form is canonical, so that the digest of the text names the content of
//! the disk, whatever the format that holds it.

use super::Format;
use super::block::{BLOCK_SIZE, Block, MAX_DISK_SIZE};
use super::reader::{ReadError, Reader};
use crate::support::files;
use crate::support::wait::Patience;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

/// Begins the text form; another version is another first line.
const HEADER: &str = "kiln-blocks 1";
/// Blocks named in a message about a difference.
const NAMED: usize = 5;

/// SHA-256 of a block's [`BLOCK_SIZE`] bytes.
pub type BlockDigest = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockList {
    /// Virtual size of the disk in bytes.
    size: u64,
    blocks: BTreeMap<u64, BlockDigest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockListError {
    #[error("this is not a block list that kiln can read: the first line is not `{HEADER}`")]
    Version,
    #[error("line {line} of the block list: {what}")]
    Line { line: usize, what: &'static str },
}

#[derive(Debug, thiserror::Error)]
pub enum BlockListFileError {
    #[error("the block list {} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the block list {} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the block list {} is damaged", path.display())]
    Damaged { path: PathBuf, source: BlockListError },
}

/// How the content of one disk differs from another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// (expected, found) where the virtual sizes do not fit.
    pub sizes: Option<(u64, u64)>,
    /// Indexes of all blocks that are not the same, ascending.
    pub blocks: Vec<u64>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((expected, found)) = self.sizes {
            write!(f, "{found} bytes long instead of {expected}")?;
            if self.blocks.is_empty() {
                return Ok(());
            }
            f.write_str(", ")?;
        }
        let named: Vec<String> =
            self.blocks.iter().take(NAMED).map(|b| format!("{}", b * BLOCK_SIZE as u64)).collect();
        let more = if self.blocks.len() > NAMED { ", ..." } else { "" };
        write!(f, "{} of its blocks of 512 KiB differ, at byte {}{more}", self.blocks.len(), named.join(", "))
    }
}

impl BlockList {
    /// The list of a disk of `size` bytes on which nothing was written yet.
    pub fn new(size: u64) -> BlockList {
        BlockList { size, blocks: BTreeMap::new() }
    }

    /// Takes in a block; one of zeros only has no place here.
    pub fn insert(&mut self, index: u64, block: &Block) {
        debug_assert!(block.len() == BLOCK_SIZE && index < self.size.div_ceil(BLOCK_SIZE as u64));
        self.blocks.insert(index, Sha256::digest(block.as_slice()).into());
    }

    /// Whether the disk has exactly this there.
    pub fn holds(&self, index: u64, block: &Block) -> bool {
        self.blocks.get(&index).is_some_and(|d| *d == BlockDigest::from(Sha256::digest(block.as_slice())))
    }

    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Blocks with data, ascending.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = (u64, &BlockDigest)> {
        self.blocks.iter().map(|(index, digest)| (*index, digest))
    }

    /// Name of the disk's content: `sha256:` and the digest of the text form.
    pub fn identity(&self) -> String {
        format!("sha256:{}", hex(&self.digest()))
    }

    /// SHA-256 of the text form.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_text().as_bytes()).into()
    }

    /// Reads a file that [`BlockList::save`] wrote; `None` if there is no such file. Blocks.
    pub fn load(path: &Path) -> Result<Option<BlockList>, BlockListFileError> {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| BlockListFileError::Read { path: path.to_owned(), source })?,
        };
        let damaged = |source| BlockListFileError::Damaged { path: path.to_owned(), source };
        BlockList::parse(&text).map(Some).map_err(damaged)
    }

    /// Writes the text form to a file, whole and durable or not at all. Blocks.
    pub fn save(&self, path: &Path) -> Result<(), BlockListFileError> {
        files::write_atomic(path, self.to_text().as_bytes())
            .map_err(|source| BlockListFileError::Write { path: path.to_owned(), source })
    }

    /// Reads the disk at `path`, backing files included.
    pub async fn of(path: &Path, format: Format, patience: &Patience) -> Result<BlockList, ReadError> {
        let reader = Reader::open(path, format, patience).await?;
        let task = tokio::task::spawn_blocking(|| BlockList::read(reader));
        task.await.expect("reading does not panic")
    }

    /// As [`BlockList::of`], where `below`, a file of the chain, is known to hold `known`: only what the
    /// files above it have changed is read.
    pub async fn of_changed(
        path: &Path,
        format: Format,
        (below, known): (&Path, BlockList),
        patience: &Patience,
    ) -> Result<BlockList, ReadError> {
        let (reader, above) = Reader::open_above(path, format, below, patience).await?;
        let task = tokio::task::spawn_blocking(move || {
            let Some(above) = above else { return BlockList::read(reader) };
            let mut blocks = known.blocks;
            for range in above {
                let mut tail = blocks.split_off(&range.start);
                blocks.append(&mut tail.split_off(&range.end));
            }
            let size = reader.size();
            let changed = BlockList::read(reader)?;
            blocks.extend(changed.blocks);
            blocks.retain(|index, _| *index < size.div_ceil(BLOCK_SIZE as u64));
            Ok(BlockList { size, blocks })
        });
        task.await.expect("reading does not panic")
    }

    /// Reads a whole disk. Blocks the thread.
    pub fn read(reader: Reader) -> Result<BlockList, ReadError> {
        let mut list = BlockList::new(reader.size());
        for block in reader {
            let (index, block) = block?;
            list.insert(index, &block);
        }
        Ok(list)
    }

    /// Compares with a disk that should hold the same.
    pub fn difference(&self, found: &BlockList) -> Option<Difference> {
        let missing = self.blocks.iter().filter(|(i, d)| found.blocks.get(i) != Some(d)).map(|(i, _)| *i);
        let extra = found.blocks.keys().filter(|i| !self.blocks.contains_key(i)).copied();
        let mut blocks: Vec<u64> = missing.chain(extra).collect();
        blocks.sort_unstable();
        let sizes = (found.size != self.size).then_some((self.size, found.size));
        (sizes.is_some() || !blocks.is_empty()).then_some(Difference { sizes, blocks })
    }

    /// Lines: version, `size N`, then `index digest` of each block with data, ascending.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\nsize {}\n", self.size);
        text.reserve(self.blocks.len() * 74);
        for (index, digest) in &self.blocks {
            let _ = writeln!(text, "{index} {}", hex(digest));
        }
        text
    }

    /// Reads exactly what [`BlockList::to_text`] writes.
    pub fn parse(text: &str) -> Result<BlockList, BlockListError> {
        let wrong = |line, what| Err(BlockListError::Line { line, what });
        let mut lines = text.split_inclusive('\n');
        if lines.next() != Some("kiln-blocks 1\n") {
            return Err(BlockListError::Version);
        }
        let size = lines.next().and_then(|l| number(l.strip_prefix("size ")?.strip_suffix('\n')?));
        let Some(size) = size.filter(|s| *s <= MAX_DISK_SIZE) else {
            return wrong(2, "no size of the disk");
        };
        let mut list = BlockList::new(size);
        for (line, text) in (3..).zip(lines) {
            let Some((index, digest)) = text.strip_suffix('\n').and_then(block_line) else {
                return wrong(line, "not an index and a SHA-256 digest");
            };
            if index >= size.div_ceil(BLOCK_SIZE as u64) {
                return wrong(line, "a block beyond the end of the disk");
            }
            if list.blocks.last_key_value().is_some_and(|(last, _)| *last >= index) {
                return wrong(line, "blocks are not in ascending order");
            }
            list.blocks.insert(index, digest);
        }
        Ok(list)
    }
}

fn block_line(line: &str) -> Option<(u64, BlockDigest)> {
    let (index, digest) = line.split_once(' ')?;
    let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digest.len() != 64 || !digest.bytes().all(hexadecimal) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digest[at..at + 2], 16).ok()?;
    }
    Some((number(index)?, bytes))
}

/// A decimal number in its only form.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|n| n.to_string() == text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn block(byte: u8) -> Block {
        Arc::new(vec![byte; BLOCK_SIZE])
    }

    fn sample() -> BlockList {
        let mut list = BlockList::new(3 * BLOCK_SIZE as u64 + 512);
        list.insert(0, &block(1));
        list.insert(3, &block(2));
        list
    }

    #[test]
    fn the_text_form_and_the_identity_stay_as_they_are() {
        let list = sample();
        assert_eq!(list.to_text(), TEXT);
        assert_eq!(BlockList::parse(TEXT), Ok(list.clone()));
        assert_eq!(
            list.identity(),
            "sha256:00b4aace83e103bde97eff3ecbe11a5db8e6ba5a334cb13987540f0ee77a13a6"
        );
    }

    const TEXT: &str = "kiln-blocks 1\nsize 1573376\n\
        0 33a150bceb13c1a992231e65b4fad16815212fc06cdb408996d32eeb2cef9ebb\n\
        3 228c5bf3f9b0ddb7b231178d7e067aff966a191b1fcd3ed0e2e371eca33fcdfc\n";

    #[test]
    fn differences_name_blocks_and_sizes() {
        let list = sample();
        assert_eq!(list.difference(&list.clone()), None);
        let mut other = BlockList::new(list.size());
        other.insert(1, &block(1));
        other.insert(3, &block(9));
        let difference = list.difference(&other).unwrap();
        assert_eq!(difference.blocks, [0, 1, 3]);
        assert_eq!(difference.to_string(), "3 of its blocks of 512 KiB differ, at byte 0, 524288, 1572864");
        let larger = BlockList { size: 4 << 20, ..list.clone() };
        let difference = list.difference(&larger).unwrap();
        assert_eq!(difference.to_string(), "4194304 bytes long instead of 1573376");
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let good = sample().to_text();
        let lines: Vec<&str> = good.lines().collect();
        let swapped = format!("{}\n{}\n{}\n{}\n", lines[0], lines[1], lines[3], lines[2]);
        let bad = [
            String::new(),
            good.replace("blocks 1", "blocks 2"),
            good.replace("size 1573376", "size 01573376"),
            good.replace("size 1573376", "size 99999999999999999999"),
            good.replace("size 1573376", "size 1000"),
            good.trim_end().to_owned(),
            good.replace("\n3 ", "\n+3 "),
            good.to_uppercase().replace("KILN-BLOCKS", "kiln-blocks").replace("SIZE", "size"),
            swapped,
            format!("{good}\n"),
        ];
        for text in bad {
            assert!(BlockList::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_lists_nothing_or_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.blocks");
        assert!(matches!(BlockList::load(&path), Ok(None)));
        sample().save(&path).unwrap();
        assert_eq!(BlockList::load(&path).unwrap(), Some(sample()));
        std::fs::write(&path, "kiln-blocks 1\nsize x\n").unwrap();
        assert!(matches!(BlockList::load(&path), Err(BlockListFileError::Damaged { .. })));
        assert!(matches!(BlockList::load(folder.path()), Err(BlockListFileError::Read { .. })));
    }

    proptest! {
        #[test]
        fn property_only_canonical_texts_are_read(text in "kiln-blocks 1\nsize [0-9]{1,8}\n([0-9]{1,2} [0-9a-f]{63,65}\n){0,3}") {
            if let Ok(list) = BlockList::parse(&text) {
                prop_assert_eq!(list.to_text(), text);
            }
        }
    }
}
