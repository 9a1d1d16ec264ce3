//! The warm states of one home: `<home>/warm/<identity>/`.
//!
//! A folder appears whole, by one rename, and goes with its record first: what has none is no state but
//! something to clear away. There are no locks: who wakes a guest while its state is removed meets a
//! missing file and boots.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::file;
use super::nap::rouse;
use super::record::{Piece, RECORD, Record};
use super::{Alive, Identity, WarmError};
use crate::guest::session::Waking;
use crate::machine::MachineSpec;
use crate::support::files;
use crate::support::wait::Patience;

/// Beside a machine's memory, a state may have what its guest wrote while it booted, and what started it.
const BESIDE: u64 = 1 << 30;

/// How the name of the mark ends that an identity is given up.
const HOPELESS: &str = "hopeless";

/// How long such a mark counts.
const GIVEN_UP: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    home: PathBuf,
    /// Bytes that all states together may have.
    limit: u64,
}

/// A machine that can be woken.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
    record: Record,
    kept: bool,
}

/// For people, and for who counts or tidies up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub identity: String,
    pub title: String,
    /// See [`Identity`].
    pub parts: BTreeMap<String, String>,
    pub bytes: u64,
    pub created: i64,
    pub used: SystemTime,
}

impl Store {
    /// `limit` in bytes; 0 keeps none.
    pub fn new(home: &Path, limit: u64) -> Store {
        Store { home: home.into(), limit }
    }

    pub fn folder(&self) -> PathBuf {
        self.home.join("warm")
    }

    /// Whether a guest with so much memory may be kept: it must not fill the host's disk.
    pub fn has_room(&self, memory_mib: u64) -> bool {
        let free = files::free_space(&self.home).unwrap_or(0);
        self.limit > 0 && free > (memory_mib << 20) + BESIDE
    }

    /// Whether there may be any, and one of so many bytes.
    pub fn takes(&self, bytes: u64) -> bool {
        self.limit > 0 && bytes <= self.limit
    }

    /// Why a state has no place here, whatever else would go for it.
    pub fn too_large(&self, state: &State) -> Option<WarmError> {
        let (bytes, limit) = (state.bytes(), self.limit);
        (!self.takes(bytes)).then_some(WarmError::TooLarge { bytes, limit })
    }

    /// The state of that identity. One that is not whole is an error, and gone afterwards.
    pub fn find(&self, identity: &Identity) -> Result<Option<State>, WarmError> {
        if self.limit == 0 {
            return Ok(None);
        }
        let folder = self.folder().join(&identity.digest);
        let found = State::open(&folder, true);
        let fits = |state: State| match state.record.parts == identity.parts {
            true => Ok(state),
            false => Err(WarmError::Foreign("it is of something else".into())),
        };
        let found = found.and_then(|state| state.map(fits).transpose());
        if found.is_err() {
            self.forget(&folder);
        }
        found
    }

    /// It is too large, or could not be woken from what was kept just now: for a while nobody tries again.
    /// Nothing is removed by that.
    pub fn give_up(&self, identity: &Identity) {
        // What could not be noted is tried again.
        let _ = files::private_folder(&self.folder()).and_then(|()| File::create(self.mark(identity)));
    }

    /// Whether somebody has given it up lately.
    pub fn is_hopeless(&self, identity: &Identity) -> bool {
        is_recent(&self.mark(identity))
    }

    fn mark(&self, identity: &Identity) -> PathBuf {
        self.folder().join(format!("{}.{HOPELESS}", identity.digest))
    }

    /// Every state, the longest unused first; what is none is cleared away.
    pub fn list(&self) -> Vec<Listed> {
        let mut all = Vec::new();
        for folder in self.entries() {
            if is_mark(&folder) {
                if !is_recent(&folder) {
                    let _ = fs::remove_file(&folder);
                }
                continue;
            }
            match State::open(&folder, true) {
                Ok(Some(state)) => all.push(state.listed()),
                _ => self.forget(&folder),
            }
        }
        all.sort_by(|a, b| a.used.cmp(&b.used).then(a.identity.cmp(&b.identity)));
        all
    }

    /// Bytes of all states.
    pub fn bytes(&self) -> u64 {
        self.list().iter().map(|l| l.bytes).sum()
    }

    pub fn remove(&self, state: &State) {
        self.forget(&state.folder);
    }

    /// Removes all of them. A machine that has woken needs none.
    pub fn clear(&self) {
        self.remove_all(&self.list());
        for mark in self.entries().filter(|e| is_mark(e)) {
            let _ = fs::remove_file(mark);
        }
    }

    fn entries(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(self.folder()).into_iter().flatten().flatten().map(|e| e.path())
    }

    /// Removes those that are listed. Returns the bytes that this freed.
    pub fn remove_all<'a>(&self, gone: impl IntoIterator<Item = &'a Listed>) -> u64 {
        let freed = gone.into_iter().map(|l| {
            self.forget(&self.folder().join(&l.identity));
            l.bytes
        });
        freed.sum()
    }

    /// Those of a disk that goes, too. Returns the bytes that this freed.
    pub fn remove_of(&self, disk: &str) -> u64 {
        let of_it = |l: &&Listed| l.parts.get("disk").is_some_and(|d| d == disk);
        self.remove_all(self.list().iter().filter(of_it))
    }

    /// Takes a finished folder in, and drops what was unused longest for it. A state that there is no
    /// room for stays where it is, to be woken from once.
    pub fn add(&self, staging: &Path, identity: &Identity) -> Result<State, WarmError> {
        let mut state = State::open(staging, false)?
            .ok_or_else(|| WarmError::Damaged { path: staging.into(), what: "it has no record".into() })?;
        let bytes = state.bytes();
        if self.too_large(&state).is_some() {
            return Ok(state);
        }
        let mut listed = self.list();
        let mut all: u64 = listed.iter().map(|l| l.bytes).sum();
        while all + bytes > self.limit && !listed.is_empty() {
            let oldest = listed.remove(0);
            all -= oldest.bytes;
            self.forget(&self.folder().join(&oldest.identity));
        }
        let target = self.folder().join(&identity.digest);
        let store = self.folder();
        files::private_folder(&store).map_err(file("cannot make", &store))?;
        File::open(staging).and_then(|f| f.sync_all()).map_err(file("cannot write", staging))?;
        match fs::rename(staging, &target) {
            // Somebody else was faster; theirs is as good.
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                return Ok(state);
            }
            renamed => renamed.map_err(file("cannot make", &target))?,
        }
        files::sync_folder_of(&target).map_err(file("cannot write", &store))?;
        (state.folder, state.kept) = (target, true);
        Ok(state)
    }

    /// What cannot be removed now is no state any more, and is tried again by who lists them.
    fn forget(&self, folder: &Path) {
        let _ = fs::remove_file(folder.join(RECORD));
        let _ = fs::remove_dir_all(folder);
    }
}

fn is_mark(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == HOPELESS)
}

fn is_recent(mark: &Path) -> bool {
    let modified = fs::metadata(mark).and_then(|m| m.modified());
    // One of the future is nobody's.
    modified.is_ok_and(|m| m.elapsed().is_ok_and(|age| age < GIVEN_UP))
}

impl State {
    fn open(folder: &Path, kept: bool) -> Result<Option<State>, WarmError> {
        let Some(record) = Record::read(folder)? else { return Ok(None) };
        let state = State { folder: folder.into(), record, kept };
        for (name, piece) in &state.record.files {
            let path = state.folder.join(name);
            let length = fs::metadata(&path).map_err(file("cannot read", &path))?.len();
            if length != piece.bytes {
                let what = format!("{length} bytes are left of its {}", piece.bytes);
                return Err(WarmError::Damaged { path, what });
            }
        }
        let named = folder.file_name().is_some_and(|n| n.to_str() == Some(&state.identity().digest));
        match named || !kept {
            true => Ok(Some(state)),
            false => Err(WarmError::Foreign("its folder has another name".into())),
        }
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn piece(&self, name: &str) -> Result<&Piece, WarmError> {
        self.record.piece(&self.folder, name)
    }

    /// What it is an error for that its record says.
    pub fn damaged(&self, what: String) -> WarmError {
        WarmError::Damaged { path: self.folder.join(RECORD), what }
    }

    /// Starts a machine from it. Its guest is this start's own when this returns: with this host's clock, new
    /// randomness, the machine id where one is given, and a nonce of this start's, which is returned, too.
    pub async fn rouse(
        &self,
        spec: &MachineSpec,
        folder: &Path,
        machine_id: Option<String>,
        patience: &Patience,
    ) -> Result<(Alive, String), WarmError> {
        let memory = self.record.memory(&self.folder)?;
        let waking = Waking { nonce: self.record.nonce.clone(), machine_id };
        let woken = rouse(&memory, spec, folder, &waking, patience).await?;
        self.touch();
        Ok(woken)
    }

    /// Whether it is there for the next time, too.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    pub fn bytes(&self) -> u64 {
        self.record.bytes()
    }

    fn identity(&self) -> Identity {
        Identity::of(self.record.parts.clone())
    }

    fn listed(&self) -> Listed {
        let record = &self.record;
        let used = fs::metadata(self.folder.join(RECORD)).and_then(|m| m.modified());
        Listed {
            identity: self.identity().digest,
            title: record.title.clone(),
            parts: record.parts.clone(),
            bytes: record.bytes(),
            created: record.created,
            used: used.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }

    /// It was of use just now.
    fn touch(&self) {
        // What could not be noted makes it the older one of two.
        let _ = File::open(self.folder.join(RECORD)).and_then(|f| f.set_modified(SystemTime::now()));
    }
}

#[cfg(test)]
mod tests;
