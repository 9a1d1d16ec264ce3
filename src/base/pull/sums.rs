//! Vendors' lists of digests: as sha256sum and sha512sum write them, and in the BSD form of Fedora's
//! CHECKSUM files.

use crate::component::fetch::hexadecimal;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

/// A digest: its algorithm and its digits, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    pub algorithm: Algorithm,
    pub digits: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    #[error("it has no SHA-256 or SHA-512 of {0}")]
    Absent(String),
    #[error("it has two different digests of {0}")]
    Ambiguous(String),
}

impl Digest {
    /// By the number of digits; "sha256:" or "sha512:" may stand before them.
    pub fn parse(text: &str) -> Option<Digest> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let (named, digits) = match lower.split_once(':') {
            Some(("sha256", digits)) => (Some(Algorithm::Sha256), digits),
            Some(("sha512", digits)) => (Some(Algorithm::Sha512), digits),
            Some(_) => return None,
            None => (None, lower.as_str()),
        };
        let algorithm = match digits.len() {
            64 => Algorithm::Sha256,
            128 => Algorithm::Sha512,
            _ => return None,
        };
        let sound = digits.bytes().all(|b| b.is_ascii_hexdigit()) && named.is_none_or(|n| n == algorithm);
        sound.then(|| Digest { algorithm, digits: digits.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{name}:{}", self.digits)
    }
}

/// The strongest digest that the list has of the file.
pub fn find(list: &str, file: &str) -> Result<Digest, SumsError> {
    let mut all: Vec<Digest> =
        list.lines().filter_map(entry).filter(|(n, _)| *n == file).map(|e| e.1).collect();
    all.dedup();
    let strongest = all.iter().map(|d| d.algorithm).max().ok_or_else(|| SumsError::Absent(file.into()))?;
    all.retain(|d| d.algorithm == strongest);
    match all.split_first() {
        Some((first, rest)) if rest.iter().all(|d| d == first) => Ok(first.clone()),
        _ => Err(SumsError::Ambiguous(file.into())),
    }
}

/// One line: the file's name, and a digest of a kind that is known here.
fn entry(line: &str) -> Option<(&str, Digest)> {
    let line = line.trim_end();
    // SHA256 (name) = digits
    if let Some((algorithm, rest)) = line.split_once(" (") {
        let (name, digits) = rest.rsplit_once(") = ")?;
        return Some((bare(name), Digest::parse(&format!("{algorithm}:{digits}"))?));
    }
    // digits, a blank, and a blank or an asterisk, name
    let (digits, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    if digits.contains(':') {
        return None;
    }
    Some((bare(name), Digest::parse(digits)?))
}

fn bare(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// Digests of a whole file: the one of `algorithm`, and its SHA-256.
pub fn of(mut file: &File, algorithm: Algorithm) -> io::Result<(Digest, String)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut short, mut long) = (Sha256::new(), (algorithm == Algorithm::Sha512).then(Sha512::new));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                short.update(&buffer[..n]);
                long.iter_mut().for_each(|l| l.update(&buffer[..n]));
            }
        }
    }
    let short = hexadecimal(&short.finalize());
    let digits = long.map_or_else(|| short.clone(), |l| hexadecimal(&l.finalize()));
    Ok((Digest { algorithm, digits }, short))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_list_is_read() {
        let (a, b) = ("a".repeat(64), "b".repeat(128));
        let list = format!(
            "{a} *one.img\n{a}  ./two.img\r\n{b}  two.img\nd41d8cd98f00b204e9800998ecf8427e  three.img\n\
             # four.img: 10 bytes\nSHA256 (four (x).img) = {}\n",
            a.to_uppercase()
        );
        let digest = |algorithm, digits: &str| Ok(Digest { algorithm, digits: digits.into() });
        assert_eq!(find(&list, "one.img"), digest(Algorithm::Sha256, &a));
        assert_eq!(find(&list, "two.img"), digest(Algorithm::Sha512, &b));
        assert_eq!(find(&list, "four (x).img"), digest(Algorithm::Sha256, &a));
        assert_eq!(find(&list, "three.img"), Err(SumsError::Absent("three.img".into())));
        assert_eq!(find(&list, "e.img"), Err(SumsError::Absent("e.img".into())), "no part of a name counts");
        let twice = format!("{a}  x\n{}  x\n", "c".repeat(64));
        assert_eq!(find(&twice, "x"), Err(SumsError::Ambiguous("x".into())));
        assert_eq!(find(&format!("{a}  x\n{a} *x\n"), "x"), digest(Algorithm::Sha256, &a));
        // SHA512 in name, SHA256 in length.
        assert!(find(&format!("SHA512 (x) = {a}\n"), "x").is_err());
    }

    #[test]
    fn both_digests_come_from_one_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let (digest, sha256) = of(&File::open(&path).unwrap(), Algorithm::Sha512).unwrap();
        assert!(digest.digits.starts_with("ddaf35a193617aba") && sha256.starts_with("ba7816bf8f01cfea"));
        assert_eq!(of(&File::open(&path).unwrap(), Algorithm::Sha256).unwrap().0.digits, sha256);
    }

    proptest! {
        #[test]
        fn no_list_is_too_strange(list in "([0-9a-f]{64} [ *]?[a-z(]{0,3}|SHA(256|512) \\(a\\) = [0-9a-f]{0,130}|.{0,40}|\n){0,6}") {
            let _ = find(&list, "a");
        }
    }
}
