//! Digests of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use kiln_protocol::message::{Algorithm, Reply};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{During, Outcome};
use crate::files::absolute;
use crate::request::Request;

pub fn file(request: &Request, path: &str, algorithm: Algorithm) -> Outcome<Reply> {
    digest(request, absolute(path)?, algorithm).map(Reply::Hash)
}

/// The digest of a file's content, in small hexadecimal letters.
pub fn digest(request: &Request, path: &Path, algorithm: Algorithm) -> Outcome<String> {
    match algorithm {
        Algorithm::Md5 => read::<Md5>(request, path),
        Algorithm::Sha1 => read::<Sha1>(request, path),
        Algorithm::Sha256 => read::<Sha256>(request, path),
        Algorithm::Sha512 => read::<Sha512>(request, path),
    }
}

fn read<D: Digest>(request: &Request, path: &Path) -> Outcome<String> {
    let mut file = File::open(path).during("open", path.display())?;
    let mut buffer = vec![0; 128 * 1024];
    let mut digest = D::new();
    loop {
        request.check()?;
        match file.read(&mut buffer).during("read", path.display())? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
