//! GUID partition tables, as bytes: read, checked, and grown with their disk.
//!
//! What kiln does not change it leaves as it is: names, attributes and entries go
//! back byte for byte.

use std::ops::Range;

/// Bytes of a sector. Disks of QEMU have sectors of this size unless told otherwise.
pub const SECTOR: u64 = 512;

/// Bytes at the beginning of a disk that [`Table::parse`] wants: protective MBR, header, entries.
pub const HEAD_BYTES: usize = 34 * 512;

const HEADER: Range<usize> = 512..1024;
const ENTRIES_AT: usize = 1024;
const MOST_ENTRIES: usize = 128;
const ENTRY: usize = 128;
const ENTRIES_SECTORS: u64 = 32;

/// A partition is grown to a multiple of this many sectors (1 MiB).
const ALIGNMENT: u64 = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    head: Vec<u8>,
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 1, as in the names of partition devices.
    pub number: u32,
    /// The type, lower case with dashes.
    pub kind: String,
    /// Its own identity (PARTUUID).
    pub uuid: String,
    pub name: String,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    #[error("there is no GUID partition table")]
    Absent,
    #[error("the GUID partition table is damaged: {0}")]
    Damaged(String),
    #[error("the GUID partition table has a layout that kiln does not write: {0}")]
    Unusual(String),
    #[error("the partition table has no partition {0}")]
    NoPartition(u32),
    #[error("partition {number} cannot grow: partition {behind} lies behind it")]
    NotLast { number: u32, behind: u32 },
    #[error("the table of a disk of {was} bytes does not fit on {is} bytes")]
    Shrunk { was: u64, is: u64 },
}

/// Types of partitions that mean something to kiln.
pub mod kind {
    pub const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    pub const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
    pub const ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
    pub const ROOT_AARCH64: &str = "b921b045-1df0-41c3-af44-4c6f280d3fae";
}

impl Table {
    /// Reads the table from the first [`HEAD_BYTES`] of a disk of `disk_size` bytes.
    pub fn parse(head: &[u8], disk_size: u64) -> Result<Table, GptError> {
        let header = head.get(HEADER).ok_or(GptError::Absent)?;
        if !header.starts_with(b"EFI PART") {
            return Err(GptError::Absent);
        }
        if head.len() < HEAD_BYTES {
            return Err(GptError::Damaged("its end is missing".into()));
        }
        let head = head[..HEAD_BYTES].to_vec();
        let length = le32(&head, 512 + 12) as usize;
        if !(92..=512).contains(&length) {
            return Err(GptError::Damaged(format!("its header claims {length} bytes")));
        }
        if le32(&head, 512 + 16) != header_sum(&head[HEADER], length) {
            return Err(GptError::Damaged("the header's checksum is wrong".into()));
        }
        let copy = le64(&head, 512 + 32);
        if copy < 2 * (ENTRIES_SECTORS + 2) || copy >= disk_size / SECTOR {
            return Err(GptError::Damaged(format!("its copy is said to be at sector {copy}")));
        }
        let (at, count, size) = (le64(&head, 512 + 72), le32(&head, 512 + 80), le32(&head, 512 + 84));
        if at != 2 || count as usize > MOST_ENTRIES || size as usize != ENTRY {
            return Err(GptError::Unusual(format!("{count} entries of {size} bytes at sector {at}")));
        }
        let entries = &head[ENTRIES_AT..ENTRIES_AT + count as usize * ENTRY];
        if le32(&head, 512 + 88) != crc32(entries) {
            return Err(GptError::Damaged("the checksum of its entries is wrong".into()));
        }
        let partitions = entries
            .chunks_exact(ENTRY)
            .zip(1..)
            .filter(|(entry, _)| entry[..16] != [0; 16])
            .map(|(entry, number)| partition(entry, number))
            .collect::<Result<Vec<_>, _>>()?;
        let table = Table { head, partitions };
        table.check(disk_size)?;
        Ok(table)
    }

    fn check(&self, disk_size: u64) -> Result<(), GptError> {
        let mut sorted: Vec<&Partition> = self.partitions.iter().collect();
        sorted.sort_by_key(|p| p.offset);
        let mut end = HEAD_BYTES as u64;
        for partition in sorted {
            let number = partition.number;
            if partition.offset < end {
                return Err(GptError::Damaged(format!("partition {number} overlaps what is before it")));
            }
            end = partition.offset + partition.size;
            if end > disk_size {
                return Err(GptError::Damaged(format!("partition {number} ends behind the disk's end")));
            }
        }
        Ok(())
    }

    /// Takes a disk that is now `disk_size` bytes long to its end, with partition `number`.
    ///
    /// # Errors
    /// Where the partition is not the last one on the disk, and where the disk has become smaller.
    pub fn grow(&mut self, number: u32, disk_size: u64) -> Result<(), GptError> {
        let of = |p: &Partition| p.number == number;
        let index = self.partitions.iter().position(of).ok_or(GptError::NoPartition(number))?;
        let offset = self.partitions[index].offset;
        if let Some(behind) = self.partitions.iter().find(|p| p.offset > offset) {
            return Err(GptError::NotLast { number, behind: behind.number });
        }
        let sectors = disk_size / SECTOR;
        let last_usable = sectors.saturating_sub(ENTRIES_SECTORS + 2);
        let was = (le64(&self.head, 512 + 32) + 1) * SECTOR;
        let end = (last_usable + 1) / ALIGNMENT * ALIGNMENT * SECTOR;
        if sectors * SECTOR < was {
            return Err(GptError::Shrunk { was, is: disk_size });
        }
        put64(&mut self.head, 512 + 32, sectors - 1);
        put64(&mut self.head, 512 + 48, last_usable);
        // An aligned end may be before the present one; a partition never shrinks.
        let size = end.saturating_sub(offset).max(self.partitions[index].size);
        self.partitions[index].size = size;
        let entry = ENTRIES_AT + (number as usize - 1) * ENTRY;
        put64(&mut self.head, entry + 40, (offset + size) / SECTOR - 1);
        // The protective MBR covers the disk, as far as 32 bits go.
        let cover = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
        self.head[446 + 12..446 + 16].copy_from_slice(&cover.to_le_bytes());
        self.seal();
        Ok(())
    }

    fn seal(&mut self) {
        let count = le32(&self.head, 512 + 80) as usize;
        let length = le32(&self.head, 512 + 12) as usize;
        let entries = crc32(&self.head[ENTRIES_AT..ENTRIES_AT + count * ENTRY]);
        put32(&mut self.head, 512 + 88, entries);
        let sum = header_sum(&self.head[HEADER], length);
        put32(&mut self.head, 512 + 16, sum);
    }

    /// What to write where (bytes from the disk's beginning), the copy at the end first, so that
    /// at every moment one of the two is whole.
    pub fn writes(&self) -> [(u64, Vec<u8>); 2] {
        let last = le64(&self.head, 512 + 32);
        let copy_at = last - ENTRIES_SECTORS;
        let mut copy = self.head[ENTRIES_AT..].to_vec();
        let mut header = self.head[HEADER].to_vec();
        put64(&mut header, 24, last);
        put64(&mut header, 32, 1);
        put64(&mut header, 72, copy_at);
        let sum = header_sum(&header, le32(&header, 12) as usize);
        put32(&mut header, 16, sum);
        copy.extend_from_slice(&header);
        [(copy_at * SECTOR, copy), (0, self.head.clone())]
    }
}

fn partition(entry: &[u8], number: u32) -> Result<Partition, GptError> {
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
    let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1));
    let (Some(offset), Some(size)) = (bytes(first), sectors.and_then(bytes)) else {
        return Err(GptError::Damaged(format!("partition {number} is from sector {first} to {last}")));
    };
    if offset.checked_add(size).is_none() {
        return Err(GptError::Damaged(format!("partition {number} ends at sector {last}")));
    }
    let units: Vec<u16> = entry[56..].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    let name = units.split(|u| *u == 0).next().unwrap_or_default();
    Ok(Partition {
        number,
        kind: guid(&entry[..16]),
        uuid: guid(&entry[16..32]),
        name: String::from_utf16_lossy(name),
        offset,
        size,
    })
}

/// The first three groups are stored as little-endian numbers.
fn guid(b: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let hex: String = order.iter().map(|i| format!("{:02x}", b[*i])).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The checksum of a header of `length` bytes, its own field taken as zero.
fn header_sum(header: &[u8], length: usize) -> u32 {
    let mut header = header[..length.min(header.len())].to_vec();
    header[16..20].fill(0);
    crc32(&header)
}

/// The checksum of GPT headers and entries.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const SIZE: u64 = 64 << 20;
    const SCRIPT: &str = "label: gpt\n\
        start=2048,size=4096,type=21686148-6449-6E6F-744E-656564454649\n\
        start=6144,size=8192,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
        start=14336,type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709,name=root,uuid=11111111-2222-3333-4444-555555555555\n";

    fn sfdisk(arguments: &[&str], file: &std::path::Path, input: &str) -> String {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut child = Command::new("sfdisk")
            .env("PATH", path)
            .args(arguments)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        text
    }

    fn disk() -> (tempfile::NamedTempFile, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        sfdisk(&["--quiet"], file.path(), SCRIPT);
        let bytes = std::fs::read(file.path()).unwrap();
        (file, bytes)
    }

    #[test]
    fn reads_what_sfdisk_writes() {
        let (_file, bytes) = disk();
        let table = Table::parse(&bytes, SIZE).unwrap();
        let kinds: Vec<&str> = table.partitions.iter().map(|p| p.kind.as_str()).collect();
        assert_eq!(kinds, [kind::BIOS_BOOT, kind::EFI_SYSTEM, kind::ROOT_X86_64]);
        let root = &table.partitions[2];
        assert_eq!((root.number, root.name.as_str(), root.offset), (3, "root", 14336 * 512));
        assert_eq!(root.uuid, "11111111-2222-3333-4444-555555555555");
        assert_eq!(Table::parse(&bytes[..400], SIZE), Err(GptError::Absent));
    }

    #[test]
    fn a_grown_table_is_one_that_sfdisk_finds_in_order() {
        let (file, bytes) = disk();
        let larger = SIZE * 2 + 512;
        file.as_file().set_len(larger).unwrap();
        let mut table = Table::parse(&bytes, larger).unwrap();
        table.grow(3, larger).unwrap();
        let mut image = std::fs::read(file.path()).unwrap();
        for (at, bytes) in table.writes() {
            image[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        std::fs::write(file.path(), &image).unwrap();
        let said = sfdisk(&["--verify"], file.path(), "");
        assert!(said.contains("No errors detected"), "{said}");
        let said = sfdisk(&["--dump"], file.path(), "");
        // 2048 is what the aligned end leaves of 262145 sectors.
        assert!(said.contains("start=       14336, size=      245760"), "{said}");
        assert_eq!(Table::parse(&image, larger).unwrap(), table);
        // The same size once more changes nothing.
        let before = table.clone();
        table.grow(3, larger).unwrap();
        assert_eq!(table, before);
    }

    #[test]
    fn what_cannot_grow_says_why() {
        let (_file, bytes) = disk();
        let table = Table::parse(&bytes, SIZE).unwrap();
        let grow = |number, size| table.clone().grow(number, size).unwrap_err();
        assert_eq!(grow(2, SIZE * 2), GptError::NotLast { number: 2, behind: 3 });
        assert_eq!(grow(9, SIZE * 2), GptError::NoPartition(9));
        assert!(matches!(grow(3, SIZE / 2), GptError::Shrunk { .. }));
    }

    #[test]
    fn damage_is_noticed() {
        let (_file, bytes) = disk();
        for at in [512 + 40, ENTRIES_AT + 33, ENTRIES_AT + 2 * ENTRY + 40] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let error = Table::parse(&bytes, SIZE).unwrap_err();
            assert!(matches!(error, GptError::Damaged(_)), "{at}: {error}");
        }
        let error = Table::parse(&bytes, SIZE / 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the GUID partition table is damaged: its copy is said to be at sector 131071"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 512usize..HEAD_BYTES, value: u8, more: Vec<u8>, fix: bool) {
            let (_, mut bytes) = (0, ONCE.with(Clone::clone));
            bytes[at] = value;
            for (i, b) in more.iter().enumerate().take(64) {
                bytes[ENTRIES_AT + i] = *b;
            }
            if fix {
                let length = (le32(&bytes, 524) as usize).clamp(92, 512);
                let count = (le32(&bytes, 592) as usize).min(MOST_ENTRIES);
                let sum = crc32(&bytes[ENTRIES_AT..ENTRIES_AT + count * ENTRY]);
                put32(&mut bytes, 600, sum);
                let sum = header_sum(&bytes[HEADER], length);
                put32(&mut bytes, 528, sum);
            }
            if let Ok(mut table) = Table::parse(&bytes, SIZE) {
                for number in 0..5 {
                    let _ = table.grow(number, SIZE * 2);
                }
            }
        }
    }

    thread_local! {
        static ONCE: Vec<u8> = disk().1[..HEAD_BYTES].to_vec();
    }
}
