//! Where on its device a file lies, as FIEMAP tells it.

use std::path::Path;

use kiln_protocol::message::Extent;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::files::open;

/// A file in more pieces is read rather than placed.
const MOST: usize = 64;

/// The kernel's `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Piece {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// The kernel's `struct fiemap`, whose own size counts without the pieces.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    pieces: [Piece; MOST],
}

const FIEMAP: Opcode = opcode::read_write::<[u8; 32]>(b'f', 11);
const LAST: u32 = 0x1;
/// Says nothing about the bytes: the kernel put pieces together, or another file has this one too.
const HARMLESS: u32 = LAST | 0x1000 | 0x2000;

/// None where the device does not hold the bytes just as they are read, or cannot tell.
pub fn of(path: &Path) -> Option<Vec<Extent>> {
    let file = open(path).ok()?;
    let mut map = Map {
        start: 0,
        length: u64::MAX,
        flags: 0,
        mapped: 0,
        room: MOST as u32,
        reserved: 0,
        pieces: [Piece::default(); MOST],
    };
    // SAFETY: this ioctl fills in the structure and at most `room` pieces behind it.
    unsafe { ioctl(&file, Updater::<FIEMAP, Map>::new(&mut map)) }.ok()?;
    let pieces = map.pieces.get(..map.mapped as usize)?;
    if pieces.last().is_some_and(|p| p.flags & LAST == 0) || pieces.iter().any(|p| p.flags & !HARMLESS != 0) {
        return None;
    }
    Some(pieces.iter().map(|p| Extent(p.logical, p.physical, p.length)).collect())
}
