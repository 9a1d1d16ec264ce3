//! The disk inside an OVA: a tar archive of a description and its disks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

const BLOCK: u64 = 512;
/// Members of an archive that are looked at; an OVA has a handful.
const MEMBERS: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum OvaError {
    #[error("it is no OVA: a tar archive is expected")]
    NotTar,
    #[error("it holds no .vmdk disk")]
    NoDisk,
    #[error("it holds {0} disks; kiln takes machines with one")]
    ManyDisks(usize),
    #[error("it is cut short")]
    Short,
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

/// Copies the archive's only .vmdk to `target`.
pub fn extract(archive: &Path, target: &Path) -> Result<(), OvaError> {
    let mut file = File::open(archive)?;
    let (start, length) = find(&mut file)?;
    file.seek(SeekFrom::Start(start))?;
    let mut out = File::create_new(target)?;
    if io::copy(&mut file.take(length), &mut out)? != length {
        return Err(OvaError::Short);
    }
    out.flush()?;
    Ok(())
}

/// Where the disk lies in the archive: start and length in bytes.
fn find(file: &mut (impl Read + Seek)) -> Result<(u64, u64), OvaError> {
    let mut disks = Vec::new();
    let mut at = 0u64;
    for member in 0..MEMBERS {
        let mut header = [0u8; BLOCK as usize];
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && member > 0 => break,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(OvaError::NotTar),
            result => result?,
        }
        if header.iter().all(|b| *b == 0) && member > 0 {
            break;
        }
        if &header[257..262] != b"ustar" {
            return Err(OvaError::NotTar);
        }
        let length = size(&header[124..136]).ok_or(OvaError::NotTar)?;
        let name = header[..100].split(|b| *b == 0).next().unwrap_or_default();
        let is_file = matches!(header[156], b'0' | 0);
        if is_file && name.to_ascii_lowercase().ends_with(b".vmdk") {
            disks.push((at + BLOCK, length));
        }
        at = length
            .checked_next_multiple_of(BLOCK)
            .and_then(|l| at.checked_add(BLOCK)?.checked_add(l))
            .ok_or(OvaError::NotTar)?;
    }
    match disks.as_slice() {
        [one] => Ok(*one),
        [] => Err(OvaError::NoDisk),
        many => Err(OvaError::ManyDisks(many.len())),
    }
}

/// A tar header's number: octal digits, or (from 8 GiB on) big-endian binary marked by its top bit.
fn size(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let number: [u8; 8] = field[4..12].try_into().ok()?;
        return field[1..4].iter().all(|b| *b == 0).then_some(u64::from_be_bytes(number));
    }
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn member(name: &str, size_field: &[u8], content: &[u8]) -> Vec<u8> {
        let mut block = vec![0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + size_field.len()].copy_from_slice(size_field);
        block[156] = b'0';
        block[257..262].copy_from_slice(b"ustar");
        block.extend(content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    #[test]
    fn the_disk_is_found_between_other_members() {
        let archive = [
            member("box.ovf", b"00000000005", b"12345"),
            member("box-disk1.VMDK", b"00000000003", b"abc"),
            vec![0; 1024],
        ]
        .concat();
        assert_eq!(find(&mut Cursor::new(&archive)).unwrap(), (1536, 3));
        let dir = tempfile::tempdir().unwrap();
        let (ova, disk) = (dir.path().join("box.ova"), dir.path().join("disk"));
        std::fs::write(&ova, &archive).unwrap();
        extract(&ova, &disk).unwrap();
        assert_eq!(std::fs::read(disk).unwrap(), b"abc");
    }

    #[test]
    fn other_archives_are_told_apart() {
        let one = member("a.vmdk", b"00000000001", b"a");
        let two = [one.clone(), one.clone()].concat();
        assert!(matches!(find(&mut Cursor::new(two)), Err(OvaError::ManyDisks(2))));
        assert!(matches!(find(&mut Cursor::new(member("a", b"0", b""))), Err(OvaError::NoDisk)));
        assert!(matches!(find(&mut Cursor::new(vec![7u8; 600])), Err(OvaError::NotTar)));
        assert!(matches!(find(&mut Cursor::new(b"")), Err(OvaError::NotTar)));
        // A length that would send the reader back to the start.
        let loops = member("a", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xfe\x00", b"");
        assert!(matches!(find(&mut Cursor::new(loops)), Err(OvaError::NotTar)));
        let short = member("a.vmdk", b"00000100000", b"a");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.ova"), short).unwrap();
        let cut = extract(&dir.path().join("x.ova"), &dir.path().join("d"));
        assert!(matches!(cut, Err(OvaError::Short)), "{cut:?}");
    }
}
