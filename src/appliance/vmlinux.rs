//! The kernel without its wrapping: a bzImage unpacks itself in the guest, which under emulation is a tenth of
//! the appliance's start. QEMU starts the ELF file inside directly where it has an entry for that (PVH).
//!
//! Sources: Documentation/arch/x86/boot.rst of Linux for the header, xen/include/public/elfnote.h for the entry.

use std::io::Read;

/// Largest kernel that is unpacked, in bytes.
const MOST: usize = 256 << 20;
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of the frame format that the `lz4` tool calls legacy.
const LZ4: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Of XEN_ELFNOTE_PHYS32_ENTRY.
const ENTRY_NOTE: u32 = 18;
const PT_NOTE: u32 = 4;

/// The ELF file in a bzImage; `None` where it is packed in another way, or has no entry for QEMU.
pub fn unwrap(image: &[u8]) -> Option<Vec<u8>> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // Of the code that real mode begins with; 0 says 4, as ever.
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (sectors + 1) * 512 + u32_at(image, 0x248)? as usize;
    let payload = image.get(start..)?.get(..u32_at(image, 0x24c)? as usize)?;
    // Its length when unpacked stands behind it.
    let (packed, length) = payload.split_last_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MOST {
        return None;
    }
    let kernel = match *packed.first_chunk::<4>()? {
        ZSTD => unpack_zstd(packed, length)?,
        LZ4 => unpack_lz4(&packed[4..], length)?,
        _ => return None,
    };
    (kernel.len() == length && has_entry(&kernel)).then_some(kernel)
}

fn unpack_zstd(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut kernel = Vec::with_capacity(length);
    let decoder = zstd::Decoder::with_buffer(packed).ok()?.single_frame();
    decoder.take(length as u64 + 1).read_to_end(&mut kernel).ok()?;
    Some(kernel)
}

/// Blocks of at most 8 MiB when unpacked, each behind its length.
fn unpack_lz4(mut packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut kernel = Vec::with_capacity(length);
    while let Some((size, rest)) = packed.split_first_chunk::<4>() {
        let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let left = length.checked_sub(kernel.len())?.min(8 << 20);
        kernel.extend(lz4_flex::block::decompress(block, left).ok()?);
        packed = rest;
    }
    Some(kernel)
}

/// Whether an ELF file of 64 bits has the note with the entry that QEMU takes.
fn has_entry(elf: &[u8]) -> bool {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let notes = || {
        let table = usize::try_from(u64_at(elf, 32)?).ok()?;
        let (size, count) = (usize::from(u16_at(elf, 54)?), usize::from(u16_at(elf, 56)?));
        let headers = (0..count).filter_map(|n| elf.get(table.checked_add(n * size)?..));
        let header = headers.into_iter().find(|h| u32_at(h, 0) == Some(PT_NOTE))?;
        let (offset, length) = (u64_at(header, 8)?, u64_at(header, 32)?);
        elf.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(length).ok()?)
    };
    let Some(mut notes) = notes() else { return false };
    while let (Some(name), Some(content), Some(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        if kind == ENTRY_NOTE && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let padded = |n: u32| (n as usize).next_multiple_of(4);
        let Some(rest) = notes.get(12 + padded(name) + padded(content)..) else { return false };
        notes = rest;
    }
    false
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ELF file that is nothing but its note.
    fn elf(note: u32) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = PT_NOTE as u8;
        elf[64 + 8] = 120;
        let other =
            [&4u32.to_le_bytes()[..], &1u32.to_le_bytes(), &9u32.to_le_bytes(), b"Xen\0", &[1, 0, 0, 0]];
        let entry = [&4u32.to_le_bytes()[..], &8u32.to_le_bytes(), &note.to_le_bytes(), b"Xen\0", &[7; 8]];
        elf.extend(other.concat());
        elf.extend(entry.concat());
        let length = elf.len() - 120;
        elf[64 + 32] = length as u8;
        elf
    }

    fn image(packed: &[u8], length: usize) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend(packed);
        image.extend((length as u32).to_le_bytes());
        image
    }

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(kernel);
        [&LZ4[..], &(block.len() as u32).to_le_bytes(), &block].concat()
    }

    #[test]
    fn what_qemu_can_start_is_unpacked() {
        let kernel = elf(ENTRY_NOTE);
        let zstd = zstd::encode_all(&kernel[..], 3).unwrap();
        assert_eq!(unwrap(&image(&zstd, kernel.len())).as_ref(), Some(&kernel));
        assert_eq!(unwrap(&image(&lz4(&kernel), kernel.len())).as_ref(), Some(&kernel));
        let without = elf(3);
        assert_eq!(unwrap(&image(&lz4(&without), without.len())), None);
        assert_eq!(unwrap(&image(&lz4(&kernel), kernel.len() - 1)), None);
        assert_eq!(unwrap(&image(b"\xfd7zXZ", kernel.len())), None);
        assert_eq!(unwrap(&image(&zstd, usize::MAX)), None);
    }

    proptest! {
        #[test]
        fn property_damage_is_no_crash(at in 0usize..1400, to in any::<u8>()) {
            let kernel = elf(ENTRY_NOTE);
            let mut image = image(&lz4(&kernel), kernel.len());
            let at = at % image.len();
            image[at] = to;
            let _ = unwrap(&image);
            let mut kernel = kernel;
            let at = at % kernel.len();
            kernel[at] = to;
            let _ = has_entry(&kernel);
        }
    }
}
