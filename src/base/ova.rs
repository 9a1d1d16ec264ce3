//! The disk inside an OVA: a tar archive of a description and its disks.

use crate::support::files;
use crate::support::wait::{Impatience, Patience};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

const PIECE: usize = 1 << 20;
/// Left free on the host beyond what the disk takes, in bytes.
const SPACE_MARGIN: u64 = 64 << 20;
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
    Read(#[from] io::Error),
    #[error("its disk cannot be written here")]
    Write(#[source] io::Error),
    #[error("not enough space on the host for its disk: {} MiB needed, {} MiB free", needed.div_ceil(1 << 20), free >> 20)]
    NoSpace { needed: u64, free: u64 },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// Copies the archive's only .vmdk to `target`. Blocks.
pub fn extract(archive: &Path, target: &Path, patience: &Patience) -> Result<(), OvaError> {
    let mut file = File::open(archive)?;
    let (start, length) = find(&mut file)?;
    if start.checked_add(length).is_none_or(|end| file.metadata().is_ok_and(|m| m.len() < end)) {
        return Err(OvaError::Short);
    }
    let (needed, free) = (length + SPACE_MARGIN, files::free_space(target).map_err(OvaError::Write)?);
    if free < needed {
        return Err(OvaError::NoSpace { needed, free });
    }
    file.seek(SeekFrom::Start(start))?;
    let mut out = File::create_new(target).map_err(OvaError::Write)?;
    copy(&mut file.take(length), &mut out, length, patience)
}

fn copy(from: &mut impl Read, to: &mut impl Write, length: u64, patience: &Patience) -> Result<(), OvaError> {
    let begun = std::time::Instant::now();
    let mut buffer = vec![0; PIECE];
    let mut copied = 0;
    loop {
        patience.check("the disk in the archive", begun)?;
        match from.read(&mut buffer)? {
            0 if copied < length => return Err(OvaError::Short),
            0 => return to.flush().map_err(OvaError::Write),
            n => {
                to.write_all(&buffer[..n]).map_err(OvaError::Write)?;
                copied += n as u64;
            }
        }
    }
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
            // No file is longer than that.
            .filter(|at| i64::try_from(*at).is_ok())
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
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(60), &CancellationToken::new())
    }

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
        extract(&ova, &disk, &patience()).unwrap();
        assert_eq!(std::fs::read(disk).unwrap(), b"abc");
    }

    #[test]
    fn taking_the_disk_out_can_be_called_off_and_knows_reading_from_writing() {
        let dir = tempfile::tempdir().unwrap();
        let ova = dir.path().join("box.ova");
        std::fs::write(&ova, member("a.vmdk", b"00000000003", b"abc")).unwrap();
        let off = patience();
        off.cancel.cancel();
        let stopped = extract(&ova, &dir.path().join("d"), &off);
        assert!(matches!(stopped, Err(OvaError::Impatience(_))), "{stopped:?}");
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let full = copy(&mut &b"abc"[..], &mut full, 3, &patience());
        assert!(matches!(full, Err(OvaError::Write(_))), "{full:?}");
        // 8 EiB that the archive does not have, and 1 TiB of holes that it has.
        let claims = member("a.vmdk", b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", b"");
        std::fs::write(&ova, claims).unwrap();
        let short = extract(&ova, &dir.path().join("e"), &patience());
        assert!(matches!(short, Err(OvaError::Short | OvaError::NotTar)), "{short:?}");
        std::fs::write(&ova, member("a.vmdk", b"\x80\0\0\0\0\0\x01\0\0\0\0\0", b"")).unwrap();
        File::options().write(true).open(&ova).unwrap().set_len((1 << 40) + 512).unwrap();
        let large = extract(&ova, &dir.path().join("f"), &patience());
        assert!(matches!(large, Err(OvaError::NoSpace { .. })), "{large:?}");
        assert!(!dir.path().join("f").exists());
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
        let cut = extract(&dir.path().join("x.ova"), &dir.path().join("d"), &patience());
        assert!(matches!(cut, Err(OvaError::Short)), "{cut:?}");
    }
}
