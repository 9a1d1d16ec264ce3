//! Frames: how the byte stream is cut.
//!
//! ```text
//! offset 0  u8   b'K'
//!        1  u8   kind (1 control, 2 input, 3 output, 4 error output)
//!        2  u16  zero
//!        4  u32  id, little endian
//!        8  u32  payload length, little endian
//!       12       payload
//! ```
//!
//! The peer is not trusted: a length over [`MAX_PAYLOAD`] or a wrong first
//! byte ends the conversation before anything is allocated for it.

use std::fmt;

pub const HEADER: usize = 12;

/// Largest payload of any frame, in bytes.
pub const MAX_PAYLOAD: usize = 128 * 1024;

/// Largest payload that senders here use for bulk data.
pub const CHUNK: usize = 64 * 1024;

const MAGIC: u8 = b'K';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message in JSON.
    Control,
    /// Bytes towards the request (stdin, file content to write). Empty: end.
    Input,
    /// Bytes from the request (stdout, file content). Empty: end.
    Output,
    /// stderr of the request. Empty: end.
    ErrorOutput,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub id: u32,
    pub payload: Vec<u8>,
}

/// Why a byte stream is not the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The byte where a frame should begin is not `K`, or reserved bytes are not zero.
    NotAFrame {
        header: [u8; HEADER],
    },
    UnknownKind {
        kind: u8,
    },
    TooLarge {
        claimed: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::NotAFrame { header } => {
                write!(f, "not a frame: it begins with ")?;
                header.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
            FrameError::UnknownKind { kind } => write!(f, "frame of unknown kind {kind}"),
            FrameError::TooLarge { claimed } => {
                write!(f, "frame claims {claimed} bytes, the limit is {MAX_PAYLOAD}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Control => 1,
            Kind::Input => 2,
            Kind::Output => 3,
            Kind::ErrorOutput => 4,
        }
    }
}

/// The header for a payload of `length` bytes, which must not exceed [`MAX_PAYLOAD`].
pub fn header(kind: Kind, id: u32, length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD);
    let mut h = [0; HEADER];
    h[0] = MAGIC;
    h[1] = kind.byte();
    h[4..8].copy_from_slice(&id.to_le_bytes());
    h[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    h
}

/// Reads a header: kind, id and payload length.
pub fn parse_header(h: &[u8; HEADER]) -> Result<(Kind, u32, usize), FrameError> {
    if h[0] != MAGIC || h[2] != 0 || h[3] != 0 {
        return Err(FrameError::NotAFrame { header: *h });
    }
    let kind = match h[1] {
        1 => Kind::Control,
        2 => Kind::Input,
        3 => Kind::Output,
        4 => Kind::ErrorOutput,
        kind => return Err(FrameError::UnknownKind { kind }),
    };
    let id = u32::from_le_bytes([h[4], h[5], h[6], h[7]]);
    let claimed = u32::from_le_bytes([h[8], h[9], h[10], h[11]]);
    if claimed as usize > MAX_PAYLOAD {
        return Err(FrameError::TooLarge { claimed });
    }
    Ok((kind, id, claimed as usize))
}

/// What a data frame of this payload takes from the credit of its stream.
///
/// The header counts too, so that a peer that sends single bytes cannot make
/// the receiver keep much more than a window. The empty frame that ends a
/// stream is free.
pub fn cost(payload: usize) -> u32 {
    if payload == 0 { 0 } else { (payload + HEADER) as u32 }
}

/// Cuts a byte stream into frames, however it was chunked on its way.
///
/// Holds at most one frame and one feed: callers take every frame out before
/// they feed again. After an error there is no next frame.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame, or None until more bytes have come.
    ///
    /// # Errors
    /// The stream is not the protocol; found out from the header alone.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some((head, body)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, id, length) = parse_header(head)?;
        let Some(payload) = body.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.taken += HEADER + length;
        Ok(Some(Frame { kind, id, payload }))
    }

    /// Bytes of a frame that has begun and is not complete.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

impl Frame {
    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend_from_slice(&header(self.kind, self.id, self.payload.len()));
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}
