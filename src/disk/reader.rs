//! Reads what a guest would see on a disk, from front to back, holes left out.
//!
//! QEMU's own block layer does the reading (`qemu-nbd`, read-only): every
//! format, compressed clusters and whole backing chains, and it is an
//! implementation that shares nothing with kiln's writers. No temporary copy:
//! blocks come over a socket that has no name once the reader is open.

use super::Format;
use super::block::{BLOCK_SIZE, Block, is_zero};
use super::image::driver;
use super::nbd::{Client, NbdError};
use crate::model::{Failure, FailureKind};
use crate::support::command;
use crate::support::spawn::{self, Process};
use crate::support::wait::{Impatience, Patience};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Blocks asked for ahead: enough that QEMU works while kiln does.
const READ_AHEAD: usize = 6;
/// How often a silent connection looks whether anyone still wants the answer.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Most bytes of qemu-nbd's own words that an error carries.
const LAST_WORDS: u64 = 2000;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("`qemu-nbd` is not installed (or not in PATH); it comes with qemu-img (Debian: qemu-utils)")]
    Missing,
    #[error("a block server for {} cannot be started", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("{} cannot be read{}", path.display(), said(words))]
    Read { path: PathBuf, words: String, source: NbdError },
    #[error("reading of {} was stopped", path.display())]
    Stopped { path: PathBuf, source: Impatience },
}

impl From<&ReadError> for FailureKind {
    fn from(error: &ReadError) -> FailureKind {
        match error {
            ReadError::Stopped { source, .. } => source.into(),
            ReadError::Missing | ReadError::Start { .. } | ReadError::Read { .. } => FailureKind::Environment,
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        let failure = Failure::from_error((&error).into(), &error);
        match error {
            ReadError::Missing => failure.hint("`kiln doctor` says how to install it."),
            _ => failure,
        }
    }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// An open disk. Its blocks come by iterating: index and content, ascending, all-zero blocks left out.
/// Iterating blocks the thread; it ends with an error when the patience that the disk was opened with does.
pub struct Reader {
    path: PathBuf,
    client: Client<Patient>,
    server: Server,
    patience: Patience,
    data: Vec<Range<u64>>,
    /// Next block to ask for: which range, which block in it.
    next: (usize, u64),
    /// Blocks given out, some of them back by now.
    lent: Vec<Block>,
    failed: bool,
}

impl Reader {
    /// Opens the disk at `path` with all its backing files.
    pub async fn open(path: &Path, format: Format, patience: &Patience) -> Result<Reader, ReadError> {
        let (stream, server) = Server::start(path, format).await?;
        let (path, patience) = (path.to_owned(), patience.clone());
        let task = tokio::task::spawn_blocking(move || Reader::negotiate(path, stream, server, patience));
        task.await.expect("shaking hands does not panic")
    }

    fn negotiate(
        path: PathBuf,
        stream: UnixStream,
        server: Server,
        patience: Patience,
    ) -> Result<Reader, ReadError> {
        let failed = |source| failure(&path, source, &server, &patience);
        let mut client = Client::negotiate(Patient { stream, patience: patience.clone() }).map_err(failed)?;
        let data = client.data_blocks().map_err(failed)?;
        let first = data.first().map_or(0, |r| r.start);
        Ok(Reader { path, client, server, patience, data, next: (0, first), lent: Vec::new(), failed: false })
    }

    /// Virtual size in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.client.size()
    }

    /// Blocks that may hold data, as ranges of block indexes, ascending.
    pub fn data_blocks(&self) -> &[Range<u64>] {
        &self.data
    }

    fn next_index(&mut self) -> Option<u64> {
        let (range, block) = &mut self.next;
        let current = self.data.get(*range)?;
        let index = *block;
        *block += 1;
        if *block >= current.end {
            *range += 1;
            *block = self.data.get(*range).map_or(0, |r| r.start);
        }
        Some(index)
    }

    fn next_block(&mut self) -> Result<Option<(u64, Block)>, NbdError> {
        loop {
            while self.client.pending() < READ_AHEAD
                && let Some(index) = self.next_index()
            {
                let buffer = self.spare();
                self.client.ask(index, buffer)?;
            }
            let Some((index, mut block)) = self.client.take()? else {
                return Ok(None);
            };
            block.resize(BLOCK_SIZE, 0);
            let block = Arc::new(block);
            self.lent.push(block.clone());
            if !is_zero(&block) {
                return Ok(Some((index, block)));
            }
        }
    }

    /// A buffer that nobody uses any more, or a new one: fresh memory costs more than the read.
    fn spare(&mut self) -> Vec<u8> {
        let free = self.lent.iter().position(|block| Arc::strong_count(block) == 1);
        free.and_then(|at| Arc::into_inner(self.lent.swap_remove(at))).unwrap_or_default()
    }
}

impl Iterator for Reader {
    type Item = Result<(u64, Block), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match self.patience.check("blocks of a disk", self.server.begun) {
            Err(source) => Err(ReadError::Stopped { path: self.path.clone(), source }),
            Ok(()) => self.next_block().map_err(|e| failure(&self.path, e, &self.server, &self.patience)),
        };
        self.failed = result.is_err();
        result.transpose()
    }
}

fn failure(path: &Path, source: NbdError, server: &Server, patience: &Patience) -> ReadError {
    match patience.check("blocks of a disk", server.begun) {
        Err(source) => ReadError::Stopped { path: path.to_owned(), source },
        Ok(()) => ReadError::Read { path: path.to_owned(), words: server.last_words(), source },
    }
}

/// A `qemu-nbd` that serves one disk to one client, killed when dropped.
struct Server {
    _process: Process,
    /// Where its messages go: a file without a name, so that it never has to wait for a reader.
    messages: File,
    begun: Instant,
}

impl Server {
    async fn start(path: &Path, format: Format) -> Result<(UnixStream, Server), ReadError> {
        let start = |source| ReadError::Start { path: path.to_owned(), source };
        let program = command::find("qemu-nbd").ok_or(ReadError::Missing)?;
        let filename = std::path::absolute(path).map_err(start)?;
        let filename = filename.to_string_lossy().replace(',', ",,");
        let options = format!("driver={},file.driver=file,file.filename={filename}", driver(format));
        let (stream, listener) = private_socket().map_err(start)?;
        let messages = rustix::fs::memfd_create("qemu-nbd", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(|e| start(e.into()))?;
        // Socket activation: a listening socket as descriptor 3. Only the shell
        // that becomes qemu-nbd knows the PID that has to stand in LISTEN_PID.
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .arg(program)
            .args(["--read-only", "--shared=1", "--image-opts", &options])
            .env("LC_ALL", "C.UTF-8")
            // Its buffers come and go with every request; without this their memory does, too.
            .env("MALLOC_TRIM_THRESHOLD_", "33554432")
            .env("MALLOC_MMAP_THRESHOLD_", "33554432")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(messages.try_clone().map_err(start)?));
        let process = spawn::spawn(command, Vec::new()).await.map_err(start)?;
        Ok((stream, Server { _process: process, messages, begun: Instant::now() }))
    }

    fn last_words(&self) -> String {
        let length = self.messages.metadata().map_or(0, |m| m.len());
        let mut text = vec![0; length.min(LAST_WORDS) as usize];
        // Not by a seek: the position is the server's too.
        let read = self.messages.read_at(&mut text, length.saturating_sub(LAST_WORDS)).unwrap_or(0);
        String::from_utf8_lossy(&text[..read]).trim().replace('\n', "; ")
    }
}

/// A connected socket and the listener that will accept it. Its name is gone when this returns.
fn private_socket() -> io::Result<(UnixStream, UnixListener)> {
    // A folder that only this user enters: nobody else can be the first to connect.
    let dir = tempfile::tempdir()?;
    // Through the descriptor the name is short, however long the folder's is.
    let folder = File::open(dir.path())?;
    let name = format!("/proc/self/fd/{}/s", folder.as_raw_fd());
    let listener = UnixListener::bind(&name)?;
    let stream = UnixStream::connect(&name)?;
    stream.set_read_timeout(Some(HEARTBEAT))?;
    Ok((stream, listener))
}

/// A stream whose reads end when patience does.
struct Patient {
    stream: UnixStream,
    patience: Patience,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match self.stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
                other => return other,
            }
            self.patience.check("an answer of the block server", begun).map_err(io::Error::other)?;
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::blocklist::BlockList;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(120), &CancellationToken::new())
    }

    /// Arguments are parted by `|`.
    fn run(folder: &Path, program: &str, arguments: &str) {
        let mut command = std::process::Command::new(program);
        let output = command.args(arguments.split('|')).current_dir(folder).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&text));
    }

    async fn list(path: &Path, format: Format) -> BlockList {
        BlockList::of(path, format, &patience()).await.unwrap()
    }

    fn list_of_bytes(bytes: &[u8]) -> BlockList {
        let mut list = BlockList::new(bytes.len() as u64);
        for (index, data) in (0..).zip(bytes.chunks(BLOCK_SIZE)) {
            if !is_zero(data) {
                let mut block = data.to_vec();
                block.resize(BLOCK_SIZE, 0);
                list.insert(index, &Block::new(block));
            }
        }
        list
    }

    /// Three layers: compressed by zlib, compressed by zstd, plain; data, overwritten data, zeros over data.
    fn chain(folder: &Path) -> PathBuf {
        let base = folder.join("base.raw");
        let file = File::create(&base).unwrap();
        file.set_len((70 << 20) + 512).unwrap();
        for (n, at) in (1u8..).zip([0, 5 << 20, (8 << 20) - 100, 33 << 20, 64 << 20, (70 << 20) + 500]) {
            let length = if at > 70 << 20 { 12 } else { 200_000 };
            file.write_all_at(&vec![n; length], at).unwrap();
        }
        let img = |arguments: &str| run(folder, "qemu-img", &arguments.replace(' ', "|"));
        img("convert -f raw -O qcow2 -c -o compression_type=zlib base.raw 1.qcow2");
        img("create -q -f qcow2 -F qcow2 -b 1.qcow2 -o compression_type=zstd 2.qcow2");
        run(folder, "qemu-io", "-f|qcow2|-c|write -c -P 9 6M 1M|2.qcow2");
        img("create -q -f qcow2 -F qcow2 -b 2.qcow2 3.qcow2 72M");
        run(folder, "qemu-io", "-f|qcow2|-c|write -z 33M 128k|-c|write -P 8 6200k 3k|3.qcow2");
        folder.join("3.qcow2")
    }

    #[tokio::test]
    async fn a_chain_reads_as_its_top_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = chain(folder.path());
        run(folder.path(), "qemu-img", "convert|-f|qcow2|-O|raw|3.qcow2|flat.raw");
        let flat = std::fs::read(folder.path().join("flat.raw")).unwrap();
        let found = list(&top, Format::Qcow2).await;
        assert_eq!(found, list_of_bytes(&flat));
        assert_eq!(found, list(&folder.path().join("flat.raw"), Format::Raw).await);
        assert!(found.blocks().len() > 6);
    }

    #[tokio::test]
    async fn names_are_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nbd:a,driver=qcow2,b.raw");
        std::fs::write(&path, vec![1; 4096]).unwrap();
        assert_eq!(list(&path, Format::Raw).await.size(), 4096);
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise");
        std::fs::write(&path, vec![1; 70_000]).unwrap();
        let error = Reader::open(&path, Format::Qcow2, &patience()).await.err().unwrap();
        assert!(error.to_string().contains("Image is not in qcow2 format"), "{error}");
        let missing =
            Reader::open(&folder.path().join("none"), Format::Raw, &patience()).await.err().unwrap();
        assert!(missing.to_string().contains("No such file or directory"), "{missing}");
    }

    /// QEMU reads zeros behind the end of a file: what was cut off may be no error, but it is a difference.
    #[tokio::test]
    async fn a_backing_file_cut_short_never_reads_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let top = chain(folder.path());
        let before = list(&top, Format::Qcow2).await;
        let base = File::options().write(true).open(folder.path().join("1.qcow2")).unwrap();
        let length = base.metadata().unwrap().len();
        for part in [100, 70, 30, 1] {
            base.set_len((length * part / 100).saturating_sub(1024)).unwrap();
            let read = BlockList::of(&top, Format::Qcow2, &patience()).await;
            assert!(read.is_err() || read.is_ok_and(|found| found != before), "{part} % of the file");
        }
    }

    #[tokio::test]
    async fn reading_ends_when_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().write_all_at(&vec![1; 30 << 20], 0).unwrap();
        let patience = patience();
        let mut reader = Reader::open(&path, Format::Raw, &patience).await.unwrap();
        let (first, second) = tokio::task::spawn_blocking(move || {
            let first = reader.next();
            patience.cancel.cancel();
            (first, reader.next())
        })
        .await
        .unwrap();
        assert_eq!(first.unwrap().unwrap().0, 0);
        assert!(matches!(second.unwrap().unwrap_err(), ReadError::Stopped { .. }));
    }
}
