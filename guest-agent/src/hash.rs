//! Digests of files.

use std::io::Read;
use std::path::Path;

use kiln_protocol::message::{Algorithm, Reply};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{During, Outcome};
use crate::files::{absolute, open};
use crate::request::Request;

const BUFFER: usize = 128 * 1024;

/// Takes digests of one file after the other. The buffer is kept: to an emulated guest, fresh memory
/// for every small file costs more than reading it.
pub struct Hasher<'a> {
    request: &'a Request,
    buffer: Vec<u8>,
}

pub fn file(request: &Request, path: &str, algorithm: Algorithm) -> Outcome<Reply> {
    Hasher::new(request).digest(absolute(path)?, algorithm).map(Reply::Hash)
}

impl Hasher<'_> {
    pub fn new(request: &Request) -> Hasher<'_> {
        Hasher { request, buffer: vec![0; BUFFER] }
    }

    /// The digest of a file's content, in small hexadecimal letters.
    pub fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Outcome<String> {
        match algorithm {
            Algorithm::Md5 => self.read::<Md5>(path),
            Algorithm::Sha1 => self.read::<Sha1>(path),
            Algorithm::Sha256 => self.read::<Sha256>(path),
            Algorithm::Sha512 => self.read::<Sha512>(path),
        }
    }

    fn read<D: Digest>(&mut self, path: &Path) -> Outcome<String> {
        let mut file = open(path)?;
        let mut digest = D::new();
        loop {
            self.request.check()?;
            match file.read(&mut self.buffer).during("read", path.display())? {
                0 => return Ok(hex(&digest.finalize())),
                n => digest.update(&self.buffer[..n]),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
