//! Questions and file verbs with their answers as types: an extension of every [`Guest`].

use async_trait::async_trait;
use kiln_protocol::message::{
    Algorithm, Device, Entry, ErrorKind, Exec, Exited, Failed, Operation, Put, Reply, Unpack,
};

use super::{Guest, GuestError, Sink};
use crate::support::wait::Patience;

/// Entries asked for at a time.
const PAGE: u32 = 500;

/// A command's end and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    pub exited: Exited,
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
}

/// Keeps the first bytes of each stream and drops the rest.
pub struct Capture {
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
    limit: usize,
}

impl Capture {
    /// `limit` bytes of each stream.
    pub fn new(limit: usize) -> Capture {
        Capture { output: Vec::new(), errors: Vec::new(), limit }
    }
}

impl Sink for Capture {
    fn write(&mut self, bytes: &[u8], error: bool) {
        let kept = if error { &mut self.errors } else { &mut self.output };
        let room = self.limit - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[async_trait]
pub trait GuestFiles: Guest {
    /// An operation that has nothing to answer.
    async fn act(&self, operation: Operation, patience: &Patience) -> Result<(), GuestError> {
        match self.call(operation, patience).await? {
            Reply::Nothing => Ok(()),
            other => Err(mismatch(&other)),
        }
    }

    /// What is at a path; None when nothing is. A link at its end is followed with `follow` only.
    async fn stat(&self, path: &str, follow: bool, patience: &Patience) -> Result<Option<Entry>, GuestError> {
        match self.call(Operation::Stat { path: path.into(), follow }, patience).await? {
            Reply::Stat(entry) => Ok(entry),
            other => Err(mismatch(&other)),
        }
    }

    /// The digest of a file's content, in small hexadecimal letters.
    async fn hash(
        &self,
        path: &str,
        algorithm: Algorithm,
        patience: &Patience,
    ) -> Result<String, GuestError> {
        match self.call(Operation::Hash { path: path.into(), algorithm }, patience).await? {
            Reply::Hash(digest) => Ok(digest),
            other => Err(mismatch(&other)),
        }
    }

    /// What is in a folder, or all below it. More than `most` entries are refused (TooLarge).
    async fn list(
        &self,
        path: &str,
        recursive: bool,
        most: usize,
        patience: &Patience,
    ) -> Result<Vec<Entry>, GuestError> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|e| e.path.clone());
            let page = Operation::List { path: path.into(), recursive, after, limit: PAGE };
            let (entries, more) = match self.call(page, patience).await? {
                Reply::List { entries, more } => (entries, more),
                other => return Err(mismatch(&other)),
            };
            if more && entries.is_empty() {
                return Err(GuestError::Protocol(format!("the list of {path} does not go on")));
            }
            all.extend(entries);
            if all.len() > most {
                return Err(too_large(format!("list {path}: more than {most} entries")));
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// A whole file of at most `limit` bytes; a larger one is refused (TooLarge).
    async fn read(&self, path: &str, limit: u64, patience: &Patience) -> Result<Vec<u8>, GuestError> {
        let mut bytes = Vec::new();
        let operation = Operation::Get { path: path.into(), offset: 0, length: None };
        self.get(operation, limit, &mut bytes, patience).await?;
        Ok(bytes)
    }

    /// As [`GuestFiles::read`], of a text; bytes that are not UTF-8 become U+FFFD.
    async fn read_text(&self, path: &str, limit: u64, patience: &Patience) -> Result<String, GuestError> {
        Ok(String::from_utf8_lossy(&self.read(path, limit, patience).await?).into_owned())
    }

    /// Writes a file (or replaces it) and makes missing folders above it.
    async fn write(
        &self,
        path: &str,
        mode: u32,
        mut content: &[u8],
        patience: &Patience,
    ) -> Result<(), GuestError> {
        let put = Put { path: path.into(), mode, owner: None, group: None, overwrite: true, parents: true };
        self.put(put, &mut content, patience).await.map(drop)
    }

    /// Adds to the end of a file, which is made where it is missing.
    async fn append(&self, path: &str, mut content: &[u8], patience: &Patience) -> Result<(), GuestError> {
        self.send(Operation::Append { path: path.into() }, &mut content, patience).await.map(drop)
    }

    /// Makes many files, folders and links. Which could not be made, by its number, and why; None: all are
    /// there.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when none was tried: what they are made from cannot be opened.
    async fn unpack(
        &self,
        unpack: Unpack,
        patience: &Patience,
    ) -> Result<Option<(usize, Failed)>, GuestError> {
        let all = unpack.items.len();
        match self.call(Operation::Unpack(unpack), patience).await? {
            Reply::Unpacked { made, failed: None } if made as usize == all => Ok(None),
            Reply::Unpacked { made, failed: Some(failed) } if (made as usize) < all => {
                Ok(Some((made as usize, failed)))
            }
            other => Err(mismatch(&other)),
        }
    }

    /// Block devices and partitions.
    async fn devices(&self, patience: &Patience) -> Result<Vec<Device>, GuestError> {
        match self.call(Operation::Devices, patience).await? {
            Reply::Devices(devices) => Ok(devices),
            other => Err(mismatch(&other)),
        }
    }

    /// Total and free bytes of the file system that holds `path`.
    async fn space(&self, path: &str, patience: &Patience) -> Result<(u64, u64), GuestError> {
        match self.call(Operation::Space { path: path.into() }, patience).await? {
            Reply::Space { total, free } => Ok((total, free)),
            other => Err(mismatch(&other)),
        }
    }

    /// Runs a command and keeps the first `limit` bytes of each stream.
    async fn run(&self, command: Exec, limit: usize, patience: &Patience) -> Result<Output, GuestError> {
        let mut capture = Capture::new(limit);
        let exited = self.exec(command, &mut capture, patience).await?;
        Ok(Output { exited, output: capture.output, errors: capture.errors })
    }
}

impl<G: Guest + ?Sized> GuestFiles for G {}

fn mismatch(reply: &Reply) -> GuestError {
    let mut text = format!("{reply:?}");
    text.truncate(text.floor_char_boundary(200));
    GuestError::Protocol(format!("{text} is no answer to that"))
}

fn too_large(message: String) -> GuestError {
    GuestError::Refused(Failed { kind: ErrorKind::TooLarge, message })
}
