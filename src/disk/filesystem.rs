//! What lies on a partition, told from its first bytes.
//!
//! The bytes are a stranger's: every read is bounded, and nothing in them is followed.

/// How many bytes from the beginning [`probe`] looks at.
pub const PROBE_BYTES: usize = 72 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ext2 and ext3 as well: one driver.
    Ext4,
    Xfs,
    Btrfs,
    Vfat,
    Swap,
    Lvm,
    Luks,
    Raid,
    /// Something that kiln knows only by name.
    Other(&'static str),
}

/// A file system, or what is there in place of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    pub kind: Kind,
    /// None where it has none, or kiln does not read it.
    pub label: Option<String>,
    /// As blkid and fstab write it: lower case with dashes, for vfat `1234-ABCD`.
    pub uuid: Option<String>,
    /// Bytes that it says it takes; 0 where it does not say.
    pub size: u64,
    /// It was not unmounted in order, and has a journal to be replayed. Not known of xfs.
    pub dirty: bool,
}

impl Kind {
    /// The kernel's name, as mount(2) wants it, where there is one that kiln uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Vfat => "vfat",
            Kind::Swap => "swap",
            Kind::Lvm => "lvm",
            Kind::Luks => "luks",
            Kind::Raid => "raid",
            Kind::Other(name) => name,
        }
    }

    /// Whether a Linux root can be on it, as far as kiln goes.
    pub fn can_be_root(self) -> bool {
        matches!(self, Kind::Ext4 | Kind::Xfs | Kind::Btrfs)
    }
}

/// What the bytes are the beginning of; None when kiln does not recognise it.
pub fn probe(bytes: &[u8]) -> Option<Filesystem> {
    let bytes = Bytes(bytes);
    // What wraps others comes first: remains of an older file system may lie behind it.
    wrapper(&bytes)
        .or_else(|| xfs(&bytes))
        .or_else(|| btrfs(&bytes))
        .or_else(|| ext(&bytes))
        .or_else(|| swap(&bytes))
        .or_else(|| other(&bytes))
        .or_else(|| vfat(&bytes))
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.0.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    }

    fn le16(&self, offset: usize) -> Option<u64> {
        self.at(offset).map(|b| u16::from_le_bytes(b).into())
    }

    fn le32(&self, offset: usize) -> Option<u64> {
        self.at(offset).map(|b| u32::from_le_bytes(b).into())
    }

    fn le64(&self, offset: usize) -> Option<u64> {
        self.at(offset).map(u64::from_le_bytes)
    }

    fn be32(&self, offset: usize) -> Option<u64> {
        self.at(offset).map(|b| u32::from_be_bytes(b).into())
    }

    fn be64(&self, offset: usize) -> Option<u64> {
        self.at(offset).map(u64::from_be_bytes)
    }

    /// Text up to a NUL, blanks at its end taken off; None when nothing is left.
    fn text(&self, offset: usize, length: usize) -> Option<String> {
        let field = self.0.get(offset..offset + length)?;
        let text = field.split(|b| *b == 0).next()?;
        let text = String::from_utf8_lossy(text).trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn uuid(&self, offset: usize) -> Option<String> {
        let b: [u8; 16] = self.at(offset)?;
        let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        (b != [0; 16]).then(|| groups.join("-"))
    }
}

fn named(kind: Kind) -> Filesystem {
    Filesystem { kind, label: None, uuid: None, size: 0, dirty: false }
}

fn wrapper(b: &Bytes<'_>) -> Option<Filesystem> {
    let luks = b.has(0, b"LUKS\xba\xbe");
    let lvm = (0..4).any(|s| b.has(s * 512, b"LABELONE") && b.has(s * 512 + 24, b"LVM2 001"));
    let raid = [0, 4096].iter().any(|at| b.has(*at, &[0xfc, 0x4e, 0x2b, 0xa9]));
    match (luks, lvm, raid) {
        (true, ..) => Some(named(Kind::Luks)),
        (_, true, _) => Some(named(Kind::Lvm)),
        (_, _, true) => Some(named(Kind::Raid)),
        _ => None,
    }
}

fn xfs(b: &Bytes<'_>) -> Option<Filesystem> {
    if !b.has(0, b"XFSB") {
        return None;
    }
    let size = b.be32(4)?.saturating_mul(b.be64(8)?);
    Some(Filesystem { label: b.text(108, 12), uuid: b.uuid(32), size, ..named(Kind::Xfs) })
}

fn btrfs(b: &Bytes<'_>) -> Option<Filesystem> {
    const AT: usize = 64 << 10;
    if !b.has(AT + 0x40, b"_BHRfS_M") {
        return None;
    }
    Some(Filesystem {
        label: b.text(AT + 0x12b, 256),
        uuid: b.uuid(AT + 0x20),
        size: b.le64(AT + 0x70)?,
        dirty: b.le64(AT + 0x60)? != 0,
        kind: Kind::Btrfs,
    })
}

fn ext(b: &Bytes<'_>) -> Option<Filesystem> {
    const AT: usize = 1024;
    const RECOVER: u64 = 0x4;
    const SIZES_OF_64_BITS: u64 = 0x80;
    if b.le16(AT + 56)? != 0xef53 {
        return None;
    }
    let incompatible = b.le32(AT + 96)?;
    let high = if incompatible & SIZES_OF_64_BITS != 0 { b.le32(AT + 0x150)? } else { 0 };
    let blocks = b.le32(AT + 4)? | high << 32;
    let block = 1024u64.checked_shl(u32::try_from(b.le32(AT + 24)?).ok()?).unwrap_or(0);
    Some(Filesystem {
        label: b.text(AT + 120, 16),
        uuid: b.uuid(AT + 104),
        size: blocks.saturating_mul(block),
        dirty: incompatible & RECOVER != 0,
        kind: Kind::Ext4,
    })
}

fn swap(b: &Bytes<'_>) -> Option<Filesystem> {
    // At the end of the first page, whatever a page is to that kernel.
    let page = [4 << 10, 16 << 10, 64 << 10].into_iter().find(|page| b.has(page - 10, b"SWAPSPACE2"))?;
    let size = b.le32(1028)?.saturating_add(1).saturating_mul(page as u64);
    Some(Filesystem { label: b.text(1052, 16), uuid: b.uuid(1036), size, ..named(Kind::Swap) })
}

fn other(b: &Bytes<'_>) -> Option<Filesystem> {
    const KNOWN: [(usize, &[u8], &str); 8] = [
        (0, b"hsqs", "squashfs"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
        (0x8001, b"CD001", "iso9660"),
        (3, b"NTFS    ", "ntfs"),
        (3, b"EXFAT   ", "exfat"),
        (3, b"-FVE-FS-", "bitlocker"),
        (4096 + 24, &[0xc6, 0x85, 0x73, 0xf6], "bcachefs"),
    ];
    let (_, _, name) = KNOWN.into_iter().find(|(at, magic, _)| b.has(*at, magic))?;
    Some(named(Kind::Other(name)))
}

fn vfat(b: &Bytes<'_>) -> Option<Filesystem> {
    if !b.has(510, &[0x55, 0xaa]) {
        return None;
    }
    let (serial, label) = match () {
        () if b.has(82, b"FAT32") => (67, 71),
        () if b.has(54, b"FAT12") || b.has(54, b"FAT16") => (39, 43),
        () => return None,
    };
    let sectors = match b.le16(19)? {
        0 => b.le32(32)?,
        small => small,
    };
    let serial = b.le32(serial)?;
    Some(Filesystem {
        label: b.text(label, 11).filter(|l| l != "NO NAME"),
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
        size: sectors * b.le16(11)?,
        ..named(Kind::Vfat)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// Makes a file system with the tool and probes it; `arguments` end with the image's path.
    fn made(size: u64, tool: &str, arguments: &[&str]) -> Filesystem {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let find = |dir: &&str| Path::new(dir).join(tool).exists();
        let dir = ["/usr/sbin", "/sbin", "/usr/bin"].iter().find(|d| find(d)).expect(tool);
        let run = Command::new(Path::new(dir).join(tool)).args(arguments).arg(file.path()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let bytes = std::fs::read(file.path()).unwrap();
        probe(&bytes[..PROBE_BYTES]).expect(tool)
    }

    const UUID: &str = "5f8b2b8c-0a3e-4d55-9d0c-1f6a2b3c4d5e";

    #[test]
    fn what_the_tools_make_is_recognised() {
        let expected = |kind, size| Filesystem {
            label: Some("root".into()),
            uuid: Some(UUID.into()),
            size,
            ..named(kind)
        };
        let ext = made(16 << 20, "mke2fs", &["-q", "-t", "ext4", "-L", "root", "-U", UUID]);
        assert_eq!(ext, expected(Kind::Ext4, 16 << 20));
        let size = 320 << 20;
        let uuid = format!("uuid={UUID}");
        assert_eq!(made(size, "mkfs.xfs", &["-q", "-L", "root", "-m", &uuid]), expected(Kind::Xfs, size));
        let size = 128 << 20;
        assert_eq!(made(size, "mkfs.btrfs", &["-q", "-L", "root", "-U", UUID]), expected(Kind::Btrfs, size));
        let esp = made(40 << 20, "mkfs.vfat", &["-F", "32", "-n", "ESP", "-i", "1234abcd"]);
        assert_eq!((esp.kind, esp.label.as_deref(), esp.size), (Kind::Vfat, Some("ESP"), 40 << 20));
        assert_eq!(esp.uuid.as_deref(), Some("1234-ABCD"));
        let swap = made(8 << 20, "mkswap", &["-L", "root", "-U", UUID]);
        assert_eq!(swap, expected(Kind::Swap, 8 << 20));
    }

    #[test]
    fn what_is_in_the_place_of_a_file_system_is_named() {
        let with = |at: usize, magic: &[u8]| {
            let mut bytes = vec![0; PROBE_BYTES];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            probe(&bytes).map(|f| f.kind)
        };
        assert_eq!(with(0, b"LUKS\xba\xbe\0\x02"), Some(Kind::Luks));
        assert_eq!(with(0, b"hsqs"), Some(Kind::Other("squashfs")));
        assert_eq!(with(4096, &[0xfc, 0x4e, 0x2b, 0xa9]), Some(Kind::Raid));
        let mut lvm = b"LABELONE".to_vec();
        lvm.resize(24, 0);
        lvm.extend_from_slice(b"LVM2 001");
        assert_eq!(with(512, &lvm), Some(Kind::Lvm));
        assert_eq!(with(0, b""), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0usize..70_000) {
            probe(&bytes);
            let mut long = vec![0xff; PROBE_BYTES];
            for (place, magic) in [(0, b"XFSB".as_slice()), (1080, &[0x53, 0xef]), (65600, b"_BHRfS_M")] {
                let mut long = long.clone();
                long[place..place + magic.len()].copy_from_slice(magic);
                probe(&long[..at]);
                probe(&long);
            }
            long.truncate(at);
            probe(&long);
        }
    }
}
