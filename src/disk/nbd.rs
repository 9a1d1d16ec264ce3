//! A client of the NBD protocol, as much of it as reading a disk front to back needs.
//!
//! Fixed newstyle handshake, structured replies and the `base:allocation`
//! context, so that holes cost nothing. Reads are pipelined. What the server
//! says is bounded and checked.

use super::block::{BLOCK_SIZE, MAX_DISK_SIZE};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x668e_33ef;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;

const CMD_READ: u16 = 0;
const CMD_BLOCK_STATUS: u16 = 7;
/// One piece of data per read.
const DO_NOT_FRAGMENT: u16 = 1 << 2;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_IS_ERROR: u16 = 1 << 15;

/// Extent flag: reads as zeros.
const STATE_ZERO: u32 = 2;

const ALLOCATION: &str = "base:allocation";
/// Most bytes of one option reply or status reply.
const REPLY_LIMIT: u32 = 4 << 20;
/// Bytes of disk that one status request asks about.
const STATUS_SPAN: u64 = 2 << 30;

#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    #[error("the connection to the block server broke")]
    Connection(#[source] io::Error),
    #[error("the block server does not speak the protocol as expected: {0}")]
    Protocol(String),
    #[error("it cannot be read at byte {offset}: {message}")]
    Server { offset: u64, message: String },
    #[error("the disk claims {size} bytes; kiln handles up to {} TiB", MAX_DISK_SIZE >> 40)]
    TooLarge { size: u64 },
}

fn protocol(what: impl Into<String>) -> NbdError {
    NbdError::Protocol(what.into())
}

/// A connection in transmission phase.
pub struct Client<S> {
    stream: S,
    size: u64,
    context: u32,
    reads: VecDeque<PendingRead>,
}

struct PendingRead {
    offset: u64,
    /// As long as was asked for; what was in it before, where nothing has come yet.
    buffer: Vec<u8>,
    /// Bytes answered so far, as data or as holes.
    answered: usize,
    done: bool,
}

impl PendingRead {
    /// The part of the buffer for `length` bytes of the disk from `at`. It will be filled.
    fn place(&mut self, at: u64, length: u32) -> Result<&mut [u8], NbdError> {
        let from = at.checked_sub(self.offset).and_then(|f| usize::try_from(f).ok());
        self.answered += length as usize;
        from.and_then(|f| self.buffer.get_mut(f..f.checked_add(length as usize)?))
            .ok_or_else(|| protocol("data beside what was asked for"))
    }
}

struct Chunk {
    flags: u16,
    kind: u16,
    cookie: u64,
    length: u32,
}

impl<S: Read + Write> Client<S> {
    /// Shakes hands over a fresh connection and opens the default export.
    pub fn negotiate(mut stream: S) -> Result<Client<S>, NbdError> {
        if read_u64(&mut stream)? != GREETING || read_u64(&mut stream)? != OPTION {
            return Err(protocol("no greeting"));
        }
        let flags = read_u16(&mut stream)?;
        if flags & 3 != 3 {
            return Err(protocol("the handshake is too old"));
        }
        send(&mut stream, &3u32.to_be_bytes())?;

        send_option(&mut stream, OPT_STRUCTURED_REPLY, &[])?;
        if option_reply(&mut stream, OPT_STRUCTURED_REPLY)?.0 != REP_ACK {
            return Err(protocol("no structured replies"));
        }

        let mut query = Vec::new();
        query.extend(0u32.to_be_bytes());
        query.extend(1u32.to_be_bytes());
        query.extend((ALLOCATION.len() as u32).to_be_bytes());
        query.extend(ALLOCATION.as_bytes());
        send_option(&mut stream, OPT_SET_META_CONTEXT, &query)?;
        let mut context = None;
        loop {
            match option_reply(&mut stream, OPT_SET_META_CONTEXT)? {
                (REP_ACK, _) => break,
                (REP_META_CONTEXT, data) if data.get(4..) == Some(ALLOCATION.as_bytes()) => {
                    context = Some(be_u32(&data));
                }
                (kind, _) => return Err(protocol(format!("reply {kind:#x} to a context query"))),
            }
        }
        let context = context.ok_or_else(|| protocol("no allocation context"))?;

        // Default export, no wishes for information.
        send_option(&mut stream, OPT_GO, &[0; 6])?;
        let mut size = None;
        loop {
            match option_reply(&mut stream, OPT_GO)? {
                (REP_ACK, _) => break,
                (REP_INFO, data) if data.len() == 12 && data[..2] == [0, 0] => {
                    size = Some(u64::from_be_bytes(data[2..10].try_into().expect("eight bytes")));
                }
                (REP_INFO, _) => (),
                (kind, _) => return Err(protocol(format!("reply {kind:#x} instead of the export"))),
            }
        }
        let size = size.ok_or_else(|| protocol("no size of the export"))?;
        if size > MAX_DISK_SIZE {
            return Err(NbdError::TooLarge { size });
        }
        Ok(Client { stream, size, context, reads: VecDeque::new() })
    }

    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blocks that may hold data, as ranges of block indexes, ascending. No read may be under way.
    pub fn data_blocks(&mut self) -> Result<Vec<Range<u64>>, NbdError> {
        let block = BLOCK_SIZE as u64;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.size {
            let span = STATUS_SPAN.min(self.size - at);
            for (length, flags) in self.status(at, span as u32)? {
                // The last extent may reach beyond what was asked for.
                let end = at.saturating_add(length.into()).min(self.size);
                if flags & STATE_ZERO == 0 {
                    let blocks = at / block..end.div_ceil(block);
                    match ranges.last_mut() {
                        Some(last) if last.end >= blocks.start => last.end = last.end.max(blocks.end),
                        _ => ranges.push(blocks),
                    }
                }
                at = end;
            }
        }
        Ok(ranges)
    }

    /// At least one extent (length, flags), all longer than nothing.
    fn status(&mut self, offset: u64, length: u32) -> Result<Vec<(u32, u32)>, NbdError> {
        debug_assert!(self.reads.is_empty());
        self.request(CMD_BLOCK_STATUS, 0, offset, length)?;
        let mut extents = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.cookie != offset {
                return Err(protocol("an answer to no question"));
            }
            match chunk.kind {
                CHUNK_NONE => (),
                CHUNK_BLOCK_STATUS if chunk.length >= 12 && (chunk.length - 4) % 8 == 0 => {
                    let data = self.payload(chunk.length)?;
                    if be_u32(&data) == self.context {
                        extents.extend(data[4..].chunks(8).map(|e| (be_u32(e), be_u32(&e[4..]))));
                    }
                }
                kind => return Err(self.refusal(kind, chunk.length, offset)?),
            }
            if chunk.flags & CHUNK_DONE != 0 {
                break;
            }
        }
        if extents.is_empty() || extents.iter().any(|e| e.0 == 0) {
            return Err(protocol(format!("no extent at byte {offset}")));
        }
        Ok(extents)
    }

    /// Reads under way.
    pub fn pending(&self) -> usize {
        self.reads.len()
    }

    /// Asks for one block, to be put into `buffer`; the last block of the disk may be shorter.
    pub fn ask(&mut self, index: u64, mut buffer: Vec<u8>) -> Result<(), NbdError> {
        let offset = index * BLOCK_SIZE as u64;
        let length = (self.size - offset).min(BLOCK_SIZE as u64) as u32;
        self.request(CMD_READ, DO_NOT_FRAGMENT, offset, length)?;
        buffer.resize(length as usize, 0);
        self.reads.push_back(PendingRead { offset, buffer, answered: 0, done: false });
        Ok(())
    }

    /// The block asked for first among those not yet taken and its index; `None` when nothing is under way.
    pub fn take(&mut self) -> Result<Option<(u64, Vec<u8>)>, NbdError> {
        while self.reads.front().is_some_and(|r| !r.done) {
            self.receive()?;
        }
        Ok(self.reads.pop_front().map(|r| (r.offset / BLOCK_SIZE as u64, r.buffer)))
    }

    fn receive(&mut self) -> Result<(), NbdError> {
        let chunk = self.chunk()?;
        let Some(read) = self.reads.iter_mut().find(|r| r.offset == chunk.cookie && !r.done) else {
            return Err(protocol("an answer to no question"));
        };
        match chunk.kind {
            CHUNK_NONE => (),
            CHUNK_DATA if chunk.length > 8 => {
                let at = read_u64(&mut self.stream)?;
                let place = read.place(at, chunk.length - 8)?;
                self.stream.read_exact(place).map_err(NbdError::Connection)?;
            }
            CHUNK_HOLE if chunk.length == 12 => {
                let at = read_u64(&mut self.stream)?;
                let length = be_u32(&read_array::<4>(&mut self.stream)?);
                read.place(at, length)?.fill(0);
            }
            kind => {
                let offset = read.offset;
                return Err(self.refusal(kind, chunk.length, offset)?);
            }
        }
        if chunk.flags & CHUNK_DONE != 0 {
            if read.answered != read.buffer.len() {
                return Err(protocol(format!("an incomplete answer for byte {}", read.offset)));
            }
            read.done = true;
        }
        Ok(())
    }

    /// What an error chunk says.
    fn refusal(&mut self, kind: u16, length: u32, offset: u64) -> Result<NbdError, NbdError> {
        if kind & CHUNK_IS_ERROR == 0 || length < 6 {
            return Ok(protocol(format!("a chunk of kind {kind} and {length} bytes")));
        }
        let data = self.payload(length)?;
        let code = be_u32(&data);
        let said = usize::from(u16::from_be_bytes([data[4], data[5]]));
        let text = String::from_utf8_lossy(data[6..].get(..said).unwrap_or_default()).into_owned();
        // The codes of the protocol are Linux's.
        let error = io::Error::from_raw_os_error(code.cast_signed());
        let message = if text.is_empty() { error.to_string() } else { format!("{text} ({error})") };
        Ok(NbdError::Server { offset, message })
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Result<(), NbdError> {
        let mut message = [0; 28];
        message[..4].copy_from_slice(&REQUEST.to_be_bytes());
        message[4..6].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&command.to_be_bytes());
        // No two requests under way begin at the same byte: the offset is the cookie.
        message[8..16].copy_from_slice(&offset.to_be_bytes());
        message[16..24].copy_from_slice(&offset.to_be_bytes());
        message[24..].copy_from_slice(&length.to_be_bytes());
        send(&mut self.stream, &message)
    }

    fn chunk(&mut self) -> Result<Chunk, NbdError> {
        let head: [u8; 20] = read_array(&mut self.stream)?;
        if be_u32(&head) != REPLY {
            return Err(protocol("no reply where one was due"));
        }
        Ok(Chunk {
            flags: u16::from_be_bytes([head[4], head[5]]),
            kind: u16::from_be_bytes([head[6], head[7]]),
            cookie: u64::from_be_bytes(head[8..16].try_into().expect("eight bytes")),
            length: be_u32(&head[16..]),
        })
    }

    fn payload(&mut self, length: u32) -> Result<Vec<u8>, NbdError> {
        read_bounded(&mut self.stream, length)
    }
}

fn send_option(stream: &mut impl Write, option: u32, data: &[u8]) -> Result<(), NbdError> {
    let mut message = Vec::with_capacity(16 + data.len());
    message.extend(OPTION.to_be_bytes());
    message.extend(option.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    send(stream, &message)
}

/// (kind of reply, its data)
fn option_reply(stream: &mut impl Read, option: u32) -> Result<(u32, Vec<u8>), NbdError> {
    let magic = read_u64(stream)?;
    let head: [u8; 12] = read_array(stream)?;
    if magic != OPTION_REPLY || be_u32(&head) != option {
        return Err(protocol("no reply to an option"));
    }
    Ok((be_u32(&head[4..]), read_bounded(stream, be_u32(&head[8..]))?))
}

fn read_bounded(stream: &mut impl Read, length: u32) -> Result<Vec<u8>, NbdError> {
    if length > REPLY_LIMIT {
        return Err(protocol(format!("a reply of {length} bytes")));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).map_err(NbdError::Connection)?;
    Ok(data)
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<(), NbdError> {
    stream.write_all(bytes).map_err(NbdError::Connection)
}

fn read_array<const N: usize>(stream: &mut impl Read) -> Result<[u8; N], NbdError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map_err(NbdError::Connection)?;
    Ok(bytes)
}

fn read_u64(stream: &mut impl Read) -> Result<u64, NbdError> {
    read_array(stream).map(u64::from_be_bytes)
}

fn read_u16(stream: &mut impl Read) -> Result<u16, NbdError> {
    read_array(stream).map(u16::from_be_bytes)
}

fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// A server that says what it says, whatever it is asked.
    struct Script(Cursor<Vec<u8>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let head = [OPTION_REPLY.to_be_bytes().to_vec(), option.to_be_bytes().to_vec()].concat();
        [&head[..], &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
    }

    fn handshake(size: u64) -> Vec<u8> {
        let context = [&7u32.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
        let export = [&[0, 0][..], &size.to_be_bytes(), &[0, 1]].concat();
        [
            GREETING.to_be_bytes().to_vec(),
            OPTION.to_be_bytes().to_vec(),
            vec![0, 3],
            reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]),
            reply(OPT_SET_META_CONTEXT, REP_META_CONTEXT, &context),
            reply(OPT_SET_META_CONTEXT, REP_ACK, &[]),
            reply(OPT_GO, REP_INFO, &export),
            reply(OPT_GO, REP_ACK, &[]),
        ]
        .concat()
    }

    fn chunk(flags: u16, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
        let head = [&REPLY.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
        [&head[..], &cookie.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
    }

    fn status(extents: &[(u32, u32)]) -> Vec<u8> {
        let extents = extents.iter().flat_map(|(l, f)| [l.to_be_bytes(), f.to_be_bytes()].concat());
        let data: Vec<u8> = 7u32.to_be_bytes().into_iter().chain(extents).collect();
        chunk(CHUNK_DONE, CHUNK_BLOCK_STATUS, 0, &data)
    }

    fn client(parts: &[Vec<u8>]) -> Result<Client<Script>, NbdError> {
        Client::negotiate(Script(Cursor::new(parts.concat())))
    }

    /// What comes of reading block 0 of a disk of 2048 bytes.
    fn read(answer: Vec<u8>) -> Result<Option<(u64, Vec<u8>)>, NbdError> {
        let mut client = client(&[handshake(2048), answer]).unwrap();
        client.ask(0, Vec::new()).unwrap();
        client.take()
    }

    #[test]
    fn extents_become_ranges_of_blocks() {
        let mib = 1 << 20;
        let extents = status(&[(mib, 3), (512, 0), (mib, 3), (mib, 0), (u32::MAX, 3)]);
        let mut client = client(&[handshake(8 << 20), extents]).unwrap();
        assert_eq!(client.size(), 8 << 20);
        assert_eq!(client.data_blocks().unwrap(), [2..3, 4..7]);
    }

    #[test]
    fn data_comes_in_pieces_and_holes() {
        let data = [&1024u64.to_be_bytes()[..], &[9; 1024]].concat();
        let hole = [&0u64.to_be_bytes()[..], &1024u32.to_be_bytes()].concat();
        let answer = [chunk(0, CHUNK_DATA, 0, &data), chunk(CHUNK_DONE, CHUNK_HOLE, 0, &hole)].concat();
        let (index, block) = read(answer).unwrap().unwrap();
        assert_eq!((index, &block[..1024], &block[1024..]), (0, &[0; 1024][..], &[9; 1024][..]));
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let error = [&5u32.to_be_bytes()[..], &[0, 3], b"bad"].concat();
        let text = read(chunk(CHUNK_DONE, CHUNK_IS_ERROR | 1, 0, &error)).unwrap_err().to_string();
        assert_eq!(text, "it cannot be read at byte 0: bad (Input/output error (os error 5))");
    }

    #[test]
    fn lies_are_refused() {
        let at = |offset: u64, length: usize| [&offset.to_be_bytes()[..], &vec![1; length]].concat();
        let bad = [
            chunk(CHUNK_DONE, CHUNK_DATA, 0, &at(0, 1024)),
            chunk(CHUNK_DONE, CHUNK_DATA, 0, &at(0, 4096)),
            chunk(CHUNK_DONE, CHUNK_DATA, 0, &at(1024, 2048)),
            chunk(CHUNK_DONE, CHUNK_DATA, 0, &at(u64::MAX, 2048)),
            chunk(CHUNK_DONE, CHUNK_DATA, 512, &at(512, 512)),
            chunk(CHUNK_DONE, CHUNK_NONE, 0, &[]),
            chunk(CHUNK_DONE, 99, 0, &[0; 100]),
            vec![0; 20],
            vec![],
        ];
        for answer in bad {
            assert!(read(answer).is_err());
        }
        assert!(matches!(client(&[handshake(u64::MAX)]), Err(NbdError::TooLarge { .. })));
        let mut endless = client(&[handshake(1 << 20), status(&[(0, 0)])]).unwrap();
        assert!(endless.data_blocks().is_err());
    }

    proptest! {
        #[test]
        fn property_no_server_can_do_harm(
            cut in 0usize..200,
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut said = [handshake(1 << 20), status(&[(1 << 20, 0)])].concat();
            said.truncate(cut);
            said.extend(noise);
            if let Ok(mut client) = client(&[said]) {
                let _ = client.data_blocks();
                if client.size() > 0 && client.ask(0, Vec::new()).is_ok() {
                    let _ = client.take();
                }
            }
        }
    }
}
