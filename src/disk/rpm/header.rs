//! The record of one package, as rpm keeps it: an index of tags, and the data that it points into.

use crate::model::Package;
use crate::support::text::marked;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCHITECTURE: u32 = 1022;
const DIRECTORY_OF: u32 = 1116;
const BASENAMES: u32 = 1117;
const DIRECTORIES: u32 = 1118;

const NUMBERS: u32 = 4;
const STRING: u32 = 6;
const STRINGS: u32 = 8;

/// Bytes of an entry of the index: tag, type, offset, count.
const ENTRY: usize = 16;
/// rpm itself takes no more entries.
const MOST_ENTRIES: usize = 65_535;

/// The largest packages have 200,000 files.
const MOST_VALUES: usize = 1 << 20;

/// Characters of a name or a version that are told.
const FIELD: usize = 200;
/// Linux opens no longer path.
const LONGEST_PATH: usize = 4096;
/// What a path takes in memory besides its bytes.
const OVERHEAD: usize = 48;

type Result<T> = std::result::Result<T, &'static str>;

/// Nothing of it is believed before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    index: &'a [[u8; ENTRY]],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    pub fn parse(record: &'a [u8]) -> Result<Header<'a>> {
        let (head, rest) = record.split_first_chunk::<8>().ok_or("it is too short")?;
        let (entries, length) = (number(&head[..4]) as usize, number(&head[4..]) as usize);
        if entries > MOST_ENTRIES {
            return Err("it has too many tags");
        }
        let (index, data) = rest.split_at_checked(entries * ENTRY).ok_or("its index is cut off")?;
        if data.len() != length {
            return Err("it has another length than it says");
        }
        Ok(Header { index: index.as_chunks().0, data })
    }

    /// As `rpm -qa --qf '%{NAME} %{ARCH} %{EVR}'` tells it.
    pub fn package(&self) -> Result<Package> {
        let epoch = self.numbers(EPOCH)?.first().map(|epoch| format!("{}:", number(epoch)));
        let field = |tag, missing| self.text(tag)?.ok_or(missing);
        let (version, release) = (field(VERSION, "it has no version")?, field(RELEASE, "it has no release")?);
        Ok(Package {
            name: field(NAME, "it has no name")?,
            architecture: self.text(ARCHITECTURE)?.unwrap_or_default(),
            version: format!("{}{version}-{release}", epoch.unwrap_or_default()),
        })
    }

    /// Adds its files and folders. `room` is how many bytes all of them may take; false when they take more.
    pub fn paths(&self, into: &mut Vec<String>, room: &mut usize) -> Result<bool> {
        let directories: Vec<&[u8]> = self.strings(DIRECTORIES)?.collect::<Result<_>>()?;
        let mut places = self.numbers(DIRECTORY_OF)?.iter();
        for name in self.strings(BASENAMES)? {
            let place = places.next().ok_or("it has more files than places for them")?;
            let directory = directories.get(number(place) as usize);
            let directory = directory.ok_or("a file of it lies in a folder that it does not name")?;
            let path = [directory, name?].concat();
            if path.len() > LONGEST_PATH {
                return Err("it has a path that is too long");
            }
            match room.checked_sub(path.len() + OVERHEAD) {
                Some(left) => *room = left,
                None => return Ok(false),
            }
            into.push(String::from_utf8_lossy(&path).into_owned());
        }
        Ok(true)
    }

    /// Where a tag's data begins, and how many of them there are. What rpm changed when it installed the package
    /// (a place that it was moved to) comes last, and counts.
    fn find(&self, tag: u32, kind: u32) -> Result<Option<(&'a [u8], usize)>> {
        let word = |entry: &[u8; ENTRY], n: usize| number(&entry[4 * n..4 * n + 4]);
        let Some(entry) = self.index.iter().rfind(|entry| word(entry, 0) == tag) else { return Ok(None) };
        if word(entry, 1) != kind {
            return Err("a tag of it has the wrong type");
        }
        let data = self.data.get(word(entry, 2) as usize..).ok_or("a tag of it points behind its end")?;
        let count = word(entry, 3) as usize;
        if count > MOST_VALUES {
            return Err("a tag of it has too many values");
        }
        Ok(Some((data, count)))
    }

    fn numbers(&self, tag: u32) -> Result<&'a [[u8; 4]]> {
        let Some((data, count)) = self.find(tag, NUMBERS)? else { return Ok(&[]) };
        data.as_chunks().0.get(..count).ok_or("a tag of it is cut off")
    }

    fn strings(&self, tag: u32) -> Result<impl Iterator<Item = Result<&'a [u8]>> + use<'a>> {
        let (mut data, count) = self.find(tag, STRINGS)?.unwrap_or_default();
        Ok((0..count).map(move |_| {
            let (first, rest) = first(data)?;
            data = rest;
            Ok(first)
        }))
    }

    fn text(&self, tag: u32) -> Result<Option<String>> {
        let Some((data, _)) = self.find(tag, STRING)? else { return Ok(None) };
        let bytes = first(data)?.0;
        // A character has four bytes at most.
        let bytes = &bytes[..bytes.len().min(4 * FIELD)];
        Ok(Some(marked(String::from_utf8_lossy(bytes).trim(), FIELD)))
    }
}

/// A string up to its NUL, and what follows it.
fn first(data: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = data.iter().position(|b| *b == 0).ok_or("a string of it has no end")?;
    Ok((&data[..end], &data[end + 1..]))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

#[cfg(test)]
mod tests;
