//! What was fetched before, kept by its digest.
//!
//! A file is named by the SHA-256 of its content. Notes beside the files say
//! under which names they are known: an address with the tag that the server
//! gave, or a digest of another kind. What is still coming in is a part, which
//! outlives a kiln that dies over it. Several kilns may use one folder.

use crate::support::{files, random};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Parts that nobody has gone on with for this long are removed.
const PART_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A folder of downloads.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    /// Bytes that are kept; what was not used for longest goes first.
    limit: u64,
}

/// A file that is complete. It stays readable also when the store drops it.
#[derive(Debug)]
pub struct Kept {
    pub file: File,
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub digest: String,
    /// The server's tag of it, when it is known by an address.
    pub tag: Option<String>,
    /// It is in the store, for others to find.
    pub stored: bool,
}

impl Kept {
    /// All of it, of a file that is known to be small.
    pub fn read(mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A file on its way in.
#[derive(Debug)]
pub struct Part {
    pub file: File,
    /// None: nobody can go on with it later, since another kiln fetches the same.
    place: Option<Place>,
    /// Bytes that can be kept.
    pub bytes: u64,
    /// More bytes than these are not taken.
    pub limit: u64,
    /// How often its size is needed again once it is complete.
    pub copies: u64,
    /// The server's strong tag of the file they belong to; without it nothing can be taken up.
    pub tag: Option<String>,
    /// Headers in which the server told checksums of the whole file.
    pub told: Vec<(String, String)>,
}

/// Where a part lies.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Somebody can go on with it; otherwise it goes away with its handle.
    lasts: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.lasts {
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_file(tag_path(&self.path));
        }
    }
}

/// What a note says.
#[derive(serde::Serialize, serde::Deserialize)]
struct Note {
    /// For people who look into the folder.
    name: String,
    digest: String,
    tag: Option<String>,
}

/// What lies beside a part.
#[derive(serde::Serialize, serde::Deserialize)]
struct Tag {
    tag: String,
    told: Vec<(String, String)>,
}

impl Store {
    /// `limit` in bytes.
    pub fn new(folder: impl Into<PathBuf>, limit: u64) -> Store {
        Store { folder: folder.into(), limit }
    }

    /// The file known by this name.
    pub fn find(&self, name: &str) -> Option<Kept> {
        let note: Note = serde_json::from_slice(&std::fs::read(self.note_path(name)).ok()?).ok()?;
        if note.name != name || !is_digest(&note.digest) {
            return None;
        }
        let file = File::open(self.folder.join(&note.digest)).ok()?;
        // Its time of change is the time of its last use.
        let _ = file.set_modified(SystemTime::now());
        let bytes = file.metadata().ok()?.len();
        Some(Kept { file, bytes, digest: note.digest, tag: note.tag, stored: true })
    }

    /// Writes down that a file that is here is known by this name.
    pub fn note(&self, name: &str, digest: &str, tag: Option<&str>) -> io::Result<()> {
        let note = Note { name: name.into(), digest: digest.into(), tag: tag.map(str::to_owned) };
        files::private_folder(&self.folder.join("known"))?;
        files::write_atomic(&self.note_path(name), &serde_json::to_vec(&note)?)
    }

    pub fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.note_path(name));
    }

    /// What there is of the file of this name, or nothing of it. It is this caller's alone.
    pub fn part(&self, name: &str) -> io::Result<Part> {
        let folder = self.folder.join("parts");
        files::private_folder(&folder)?;
        let path = folder.join(digest_of(name.as_bytes()));
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let file = self.unnamed()?;
                    return Ok(Part {
                        file,
                        place: None,
                        bytes: 0,
                        limit: u64::MAX,
                        copies: 0,
                        tag: None,
                        told: Vec::new(),
                    });
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // Between opening and locking, its former owner may have completed it and moved it away.
            if std::fs::metadata(&path).is_ok_and(|m| file.metadata().is_ok_and(|own| own.ino() == m.ino())) {
                let kept = std::fs::read(tag_path(&path)).ok();
                let tag: Option<Tag> = kept.and_then(|text| serde_json::from_slice(&text).ok());
                let bytes = if tag.is_some() { file.metadata()?.len() } else { 0 };
                let (tag, told) = tag.map_or((None, Vec::new()), |t| (Some(t.tag), t.told));
                let place = Place { path, lasts: tag.is_some() };
                let part = Part { file, place: Some(place), bytes, limit: u64::MAX, copies: 0, tag, told };
                return Ok(part);
            }
        }
    }

    /// A file without a name: it goes away with its handle, however kiln ends.
    pub fn unnamed(&self) -> io::Result<File> {
        files::private_folder(&self.folder)?;
        let path = self.folder.join(format!("unnamed-{}", random::hexadecimal(8)?));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// Takes a part that is complete. Blocks for as long as reading it once takes.
    pub fn keep(&self, part: Part, name: &str) -> io::Result<Kept> {
        let Part { mut file, place, tag, .. } = part;
        let (sum, bytes) = sum_of(&file)?;
        let digest = hexadecimal(&sum);
        file.seek(SeekFrom::Start(0))?;
        let stored = place.is_some();
        if let Some(mut place) = place {
            file.sync_all()?;
            std::fs::rename(&place.path, self.folder.join(&digest))?;
            place.lasts = false;
            self.note(name, &digest, tag.as_deref())?;
            self.make_room(&digest)?;
        }
        Ok(Kept { file, bytes, digest, tag, stored })
    }

    /// Removes every file that is complete, and returns how many bytes they had. What is being read stays
    /// readable.
    pub fn clear(&self) -> io::Result<u64> {
        if !self.folder.join("parts").is_dir() {
            return Ok(0);
        }
        Store { folder: self.folder.clone(), limit: 0 }.make_room("-")
    }

    /// Removes what was not used for longest until the rest is within the limit. Returns the bytes removed.
    fn make_room(&self, spare: &str) -> io::Result<u64> {
        let mut kept = Vec::new();
        let mut total = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let (entry, metadata) = match entry.and_then(|e| e.metadata().map(|m| (e, m))) {
                Ok(found) => found,
                // Another kiln has just removed it.
                Err(_) => continue,
            };
            if entry.file_name().to_str().is_some_and(is_digest) {
                total += metadata.len();
                kept.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        kept.sort();
        let before = total;
        for (_, bytes, path) in kept {
            if total <= self.limit {
                break;
            }
            if !path.ends_with(spare) {
                let _ = std::fs::remove_file(path);
                total -= bytes;
            }
        }
        self.drop_old_parts()?;
        Ok(before - total)
    }

    /// Removes parts that nobody has gone on with for long.
    pub fn drop_old_parts(&self) -> io::Result<()> {
        let folder = self.folder.join("parts");
        files::private_folder(&folder)?;
        for entry in std::fs::read_dir(folder)?.flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
            if age.is_some_and(|a| a > PART_AGE) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.folder.join("known").join(digest_of(name.as_bytes()))
    }
}

impl Part {
    /// Bytes that a file of this size takes beside itself.
    pub fn also(&self, total: u64) -> u64 {
        total.saturating_mul(self.copies)
    }

    /// Where it lies; None when it has no name, because another kiln fetches the same.
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.path.as_path())
    }

    /// Nobody goes on with it.
    pub fn discard(mut self) {
        if let Some(place) = &mut self.place {
            place.lasts = false;
        }
    }

    /// Nobody can go on with it, and nobody else gets it: it may come from a guest.
    pub fn keep_apart(&mut self) {
        if let Some(place) = &mut self.place {
            place.lasts = false;
        }
        self.place = None;
    }

    /// Begins again, with a file that the server calls by this tag and of which it told this.
    pub fn begin(&mut self, tag: Option<String>, told: Vec<(String, String)>) -> io::Result<()> {
        self.bytes = 0;
        self.file.set_len(0)?;
        if let Some(place) = &mut self.place {
            place.lasts = tag.is_some();
            match &tag {
                Some(tag) => {
                    let tag = Tag { tag: tag.clone(), told: told.clone() };
                    std::fs::write(tag_path(&place.path), serde_json::to_vec(&tag)?)?;
                }
                None => drop(std::fs::remove_file(tag_path(&place.path))),
            }
        }
        (self.tag, self.told) = (tag, told);
        Ok(())
    }
}

fn tag_path(part: &Path) -> PathBuf {
    part.with_extension("tag")
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 of a whole file, and how many bytes it has.
pub fn sum_of(mut file: &File) -> io::Result<([u8; 32], u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((sum.finalize().into(), bytes)),
            n => {
                sum.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn keep(store: &Store, name: &str, content: &[u8]) -> Kept {
        let mut part = store.part(name).unwrap();
        part.begin(Some("\"t\"".into()), Vec::new()).unwrap();
        part.file.write_all(content).unwrap();
        store.keep(part, name).unwrap()
    }

    #[test]
    fn a_part_is_one_callers_and_can_be_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("s"), 1 << 20);
        let mut first = store.part("a").unwrap();
        first.begin(Some("\"one\"".into()), Vec::new()).unwrap();
        first.file.write_all(b"half").unwrap();
        let other = store.part("a").unwrap();
        assert!(other.place.is_none() && other.bytes == 0);
        drop(first);
        let again = store.part("a").unwrap();
        assert_eq!((again.bytes, again.tag.as_deref()), (4, Some("\"one\"")));
        let kept = store.keep(again, "a").unwrap();
        assert_eq!((kept.bytes, kept.digest), (4, digest_of(b"half")));
        let found = store.find("a").unwrap();
        assert_eq!((found.bytes, found.tag.as_deref()), (4, Some("\"one\"")));
        assert!(store.find("b").is_none());
        store.note("b", &digest_of(b"half"), None).unwrap();
        assert_eq!(store.find("b").unwrap().digest, digest_of(b"half"));
        assert_eq!(store.part("a").unwrap().bytes, 0, "what is complete is no part any more");
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), 250);
        for (age, name) in [(300, "a"), (200, "b")] {
            let kept = keep(&store, name, name.repeat(100).as_bytes());
            kept.file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        drop(store.find("a"));
        keep(&store, "c", &[b'c'; 100]);
        assert!(store.find("a").is_some() && store.find("b").is_none() && store.find("c").is_some());
        let large = keep(&store, "d", &[b'd'; 1000]);
        assert_eq!(large.bytes, 1000);
        assert!(store.find("d").is_some(), "also what is larger than all that is kept is kept once");
        assert!(store.find("a").is_none());
        assert_eq!(store.clear().unwrap(), 1000);
        assert!(store.find("d").is_none());
        assert_eq!(Store::new(folder.path().join("none"), 1).clear().unwrap(), 0);
    }
}
