//! The partition table of built disks: one disk that BIOS and UEFI can boot.
//!
//! The root partition has number 1 and lies last, so that growing the disk grows it.

use crate::disk::gpt::{SECTOR, crc32};
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;
/// Entries of the table and bytes of each, as every tool writes them.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
/// Size of the MBR's boot code; the partition table follows.
pub const BOOT_CODE: usize = 440;

const BIOS_BOOT: [u8; 16] = guid(0x2168_6148, 0x6449, 0x6E6F, *b"tNeedEFI");
const EFI_SYSTEM: [u8; 16] =
    guid(0xC12A_7328, 0xF81F, 0x11D2, [0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B]);
const LINUX_ROOT_X86_64: [u8; 16] =
    guid(0x4F68_BCE3, 0xE8CD, 0x4DB1, [0x96, 0xE7, 0xFB, 0xCA, 0xF9, 0x84, 0xB7, 0x09]);
const LINUX_ROOT_AARCH64: [u8; 16] =
    guid(0xB921_B045, 0x1DF0, 0x41C3, [0xAF, 0x44, 0x4C, 0x6F, 0x28, 0x0D, 0x3F, 0xAE]);

/// A stretch of the disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
}

/// Where things lie on a built disk.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub size: u64,
    pub bios_boot: Extent,
    pub esp: Extent,
    pub root: Extent,
}

impl Layout {
    /// `size` in bytes; a multiple of 1 MiB, at least 128 MiB.
    pub fn new(size: u64) -> Layout {
        let bios_boot = Extent { start: MIB, length: 3 * MIB };
        let esp = Extent { start: 4 * MIB, length: 60 * MIB };
        let start = 64 * MIB;
        // The last MiB holds the table's copy.
        Layout { size, bios_boot, esp, root: Extent { start, length: size - start - MIB } }
    }

    /// Bytes for the start of the disk (protective MBR without boot code, header, entries) and for
    /// its end (entries, header). `identity` makes the disk's and the partitions' ids.
    pub fn gpt(&self, architecture: crate::model::Architecture, identity: &str) -> (Vec<u8>, Vec<u8>) {
        let root_type = match architecture {
            crate::model::Architecture::X86_64 => LINUX_ROOT_X86_64,
            crate::model::Architecture::Aarch64 => LINUX_ROOT_AARCH64,
        };
        let mut entries = vec![0u8; ENTRIES * ENTRY];
        for (number, kind, extent, name) in [
            (1usize, root_type, self.root, "root"),
            (14, BIOS_BOOT, self.bios_boot, "bios"),
            (15, EFI_SYSTEM, self.esp, "esp"),
        ] {
            let entry = &mut entries[(number - 1) * ENTRY..number * ENTRY];
            entry[..16].copy_from_slice(&kind);
            entry[16..32].copy_from_slice(&unique_id(identity, name));
            put_u64(entry, 32, extent.start / SECTOR);
            put_u64(entry, 40, (extent.start + extent.length) / SECTOR - 1);
            for (i, unit) in name.encode_utf16().enumerate() {
                entry[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let last = self.size / SECTOR - 1;
        let disk_id = unique_id(identity, "disk");
        let mut head = self.protective_mbr();
        head.extend(self.header(1, last, 2, &entries, disk_id));
        head.extend(&entries);
        let mut tail = entries.clone();
        tail.extend(self.header(last, 1, last - TABLE_SECTORS, &entries, disk_id));
        (head, tail)
    }

    fn protective_mbr(&self) -> Vec<u8> {
        let mut mbr = vec![0u8; SECTOR as usize];
        let entry = &mut mbr[446..462];
        entry[2] = 2; // CHS of the first sector
        entry[4] = 0xEE;
        entry[5..8].fill(0xFF);
        entry[8..12].copy_from_slice(&1u32.to_le_bytes());
        let sectors = u32::try_from(self.size / SECTOR - 1).unwrap_or(u32::MAX);
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xAA]);
        mbr
    }

    fn header(&self, own: u64, other: u64, table: u64, entries: &[u8], id: [u8; 16]) -> Vec<u8> {
        let mut header = vec![0u8; SECTOR as usize];
        header[..8].copy_from_slice(b"EFI PART");
        put_u32(&mut header, 8, 0x0001_0000);
        put_u32(&mut header, 12, 92);
        put_u64(&mut header, 24, own);
        put_u64(&mut header, 32, other);
        put_u64(&mut header, 40, 2 + TABLE_SECTORS);
        put_u64(&mut header, 48, self.size / SECTOR - 2 - TABLE_SECTORS);
        header[56..72].copy_from_slice(&id);
        put_u64(&mut header, 72, table);
        put_u32(&mut header, 80, ENTRIES as u32);
        put_u32(&mut header, 84, ENTRY as u32);
        put_u32(&mut header, 88, crc32(entries));
        let own_sum = crc32(&header[..92]);
        put_u32(&mut header, 16, own_sum);
        header
    }
}

/// A GUID's bytes as they lie on disk: three little-endian numbers, then eight bytes.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// A version 4 shaped id that depends on nothing but its inputs.
pub fn unique_id(identity: &str, purpose: &str) -> [u8; 16] {
    let digest = Sha256::digest(format!("{purpose}\0{identity}"));
    let mut id: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    id[7] = id[7] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

/// The same for ids that are given as text, as `mke2fs -U` takes them.
pub fn unique_id_text(identity: &str, purpose: &str) -> String {
    let digest = Sha256::digest(format!("{purpose}\0{identity}"));
    let mut id: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    // In text order the version leads the third group.
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gpt::{Table, kind};
    use crate::model::Architecture;

    #[test]
    fn partitions_are_aligned_and_leave_room_for_the_copy() {
        let l = Layout::new(4 << 30);
        for e in [l.bios_boot, l.esp, l.root] {
            assert_eq!((e.start % MIB, e.length % MIB), (0, 0));
        }
        assert_eq!(l.bios_boot.start + l.bios_boot.length, l.esp.start);
        assert_eq!(l.esp.start + l.esp.length, l.root.start);
        let (head, tail) = l.gpt(Architecture::X86_64, "test");
        assert!(head.len() as u64 <= l.bios_boot.start);
        assert!(l.root.start + l.root.length + tail.len() as u64 <= l.size);
        let table = Table::parse(&head, l.size).unwrap();
        let found: Vec<_> = table.partitions.iter().map(|p| (p.number, p.kind.as_str(), p.offset)).collect();
        assert_eq!(
            found,
            [
                (1, kind::ROOT_X86_64, l.root.start),
                (14, kind::BIOS_BOOT, l.bios_boot.start),
                (15, kind::EFI_SYSTEM, l.esp.start)
            ]
        );
        assert!(table.writes()[0] == (l.size - tail.len() as u64, tail), "the copy is another one");
    }

    #[test]
    fn ids_look_like_random_ones() {
        let text = unique_id_text("a", "fs");
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4', "{text}");
        assert_ne!(text, unique_id_text("b", "fs"));
    }
}
