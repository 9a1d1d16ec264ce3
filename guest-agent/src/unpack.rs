//! Files whose contents lie on a disk that the host made: many with one request.
//!
//! Their digests are not checked again: the host took them of the bytes that it wrote, as it does of those
//! that it sends over the link, and the guest cannot write to the disk. To an emulated guest a digest would
//! cost more than all the rest.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use kiln_protocol::message::{ErrorKind, MOST_PACKED, Packed, Reply, Unpack};
use rustix::fs::OFlags;

use crate::error::{During, Outcome, failed};
use crate::files::{absolute, ensure_folder, make_folder, symlink};
use crate::request::Request;
use crate::transfer::replace;
use crate::users::Owner;

/// So much of the source is read at a time: many small files, or a piece of a large one.
const WINDOW: usize = 256 * 1024;

/// Devices that are read without the page cache want memory, offset and length in multiples of their blocks.
const ALIGN: usize = 4096;

pub fn unpack(request: &Request, unpack: &Unpack) -> Outcome<Reply> {
    if unpack.items.len() > MOST_PACKED {
        let text = format!("unpack {} items: at most {MOST_PACKED} are possible", unpack.items.len());
        return Err(failed(ErrorKind::Invalid, text));
    }
    let mut source = unpack.source.as_deref().map(Source::open).transpose()?;
    for (made, item) in unpack.items.iter().enumerate() {
        if let Err(failed) = make(request, source.as_mut(), item) {
            return Ok(Reply::Unpacked { made: made as u32, failed: Some(failed) });
        }
    }
    Ok(Reply::Unpacked { made: unpack.items.len() as u32, failed: None })
}

fn make(request: &Request, source: Option<&mut Source>, item: &Packed) -> Outcome<()> {
    request.check()?;
    match item {
        Packed::Folder { path, mode } => make_folder(path, *mode, true, None, None).map(drop),
        Packed::Symlink { path, target } => symlink(path, target, true).map(drop),
        Packed::File { path, mode, offset, length } => {
            let target = absolute(path)?;
            let mut source = match source {
                Some(source) => Some(source.holding(*offset, *length)?),
                None if *length == 0 => None,
                None => {
                    let text = format!("write {path}: there is no source of its {length} bytes");
                    return Err(failed(ErrorKind::Invalid, text));
                }
            };
            ensure_folder(target.parent().unwrap_or(target))?;
            replace(target, *mode, Owner::default(), true, &mut |mut file| {
                let mut done = 0;
                while done < *length
                    && let Some(source) = &mut source
                {
                    request.check()?;
                    let piece = source.at(*offset + done, *length - done)?;
                    file.write_all(piece).during("write", path)?;
                    done += piece.len() as u64;
                }
                Ok(())
            })
        }
    }
}

/// What the contents are read from, through one window.
struct Source<'a> {
    path: &'a str,
    file: File,
    size: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the window begins, so that it is aligned.
    skip: usize,
    /// What the window holds: from this byte of the source, so many.
    from: u64,
    filled: usize,
}

impl Source<'_> {
    fn open(path: &str) -> Outcome<Source<'_>> {
        absolute(path)?;
        // Past the page cache an emulated guest copies each byte once instead of twice. Not every file can.
        let open = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
        let opened = open(OFlags::DIRECT | OFlags::NONBLOCK).or_else(|_| open(OFlags::NONBLOCK));
        let mut file = opened.during("open", path)?;
        // Of a block device this is the size, too.
        let size = file.seek(SeekFrom::End(0)).during("ask for the size of", path)?;
        let buffer = vec![0; WINDOW + ALIGN];
        let skip = buffer.as_ptr().align_offset(ALIGN);
        Ok(Source { path, file, size, buffer, skip, from: 0, filled: 0 })
    }

    /// Itself, if these bytes are in it.
    fn holding(&mut self, offset: u64, length: u64) -> Outcome<&mut Self> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(self),
            _ => {
                let text =
                    format!("read {length} bytes at {offset} of {}: it has only {}", self.path, self.size);
                Err(failed(ErrorKind::Invalid, text))
            }
        }
    }

    /// The bytes from `offset` on: `most`, or fewer where the window ends; at least one.
    fn at(&mut self, offset: u64, most: u64) -> Outcome<&[u8]> {
        if offset < self.from || offset >= self.from + self.filled as u64 {
            self.from = offset - offset % ALIGN as u64;
            self.filled = 0;
            let window = &mut self.buffer[self.skip..self.skip + WINDOW];
            self.filled = self.file.read_at(window, self.from).during("read", self.path)?;
            if offset >= self.from + self.filled as u64 {
                let end = self.from + self.filled as u64;
                let text = format!("read {} at {offset}: it ends at {end}", self.path);
                return Err(failed(ErrorKind::Io, text));
            }
        }
        let begin = (offset - self.from) as usize;
        let length = most.min((self.filled - begin) as u64) as usize;
        Ok(&self.buffer[self.skip + begin..self.skip + begin + length])
    }
}
