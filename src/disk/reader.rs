//! Reads what a guest would see on a disk, from front to back, holes left out.
//!
//! QEMU's own block layer says what is on the disk: every format, compressed
//! clusters and whole backing chains, and it is an implementation that shares
//! nothing with kiln's writers. Where it can tell in which file each byte
//! stands, the bytes are read from there; else `qemu-nbd` (read-only) sends
//! them over a socket that has no name once the reader is open. No temporary copy.

use super::Format;
use super::block::{BLOCK_SIZE, Block, is_zero};
use super::extents::{Extents, Map};
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
    #[error("the files of {} cannot be read", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("reading of {} was stopped", path.display())]
    Stopped { path: PathBuf, source: Impatience },
}

impl From<&ReadError> for FailureKind {
    fn from(error: &ReadError) -> FailureKind {
        match error {
            ReadError::Stopped { source, .. } => source.into(),
            ReadError::Missing
            | ReadError::Start { .. }
            | ReadError::Read { .. }
            | ReadError::File { .. } => FailureKind::Environment,
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
    source: Source,
    size: u64,
    data: Vec<Range<u64>>,
    wanted: Wanted,
    buffers: Buffers,
    begun: Instant,
    patience: Patience,
    failed: bool,
}

/// Where blocks come from.
enum Source {
    Files(Extents),
    Served(Client<Patient>, Server),
}

impl Reader {
    /// Opens the disk at `path` with all its backing files.
    pub async fn open(path: &Path, format: Format, patience: &Patience) -> Result<Reader, ReadError> {
        let map = Map::of(path, format, patience).await;
        Reader::with(map.as_ref(), path, format, patience).await
    }

    /// As [`Reader::open`], but only blocks come that may be others than on `below`, a file of the chain. They
    /// are told as well, also those that are zeros by now and will not come; `None`: all may be others.
    pub async fn open_above(
        path: &Path,
        format: Format,
        below: &Path,
        patience: &Patience,
    ) -> Result<(Reader, Option<Vec<Range<u64>>>), ReadError> {
        let map = Map::of(path, format, patience).await;
        let mut reader = Reader::with(map.as_ref(), path, format, patience).await?;
        let above = map.and_then(|m| m.above(below));
        if let Some(above) = &above {
            reader.only(above);
        }
        Ok((reader, above))
    }

    async fn with(
        map: Option<&Map>,
        path: &Path,
        format: Format,
        patience: &Patience,
    ) -> Result<Reader, ReadError> {
        let begun = Instant::now();
        if let Some(extents) = map.and_then(Map::extents) {
            let (size, data) = (extents.size(), extents.data_blocks());
            return Ok(Reader::new(path, Source::Files(extents), size, data, begun, patience));
        }
        // Also where looking failed: the server's words say why.
        let (stream, server) = Server::start(path, format).await?;
        let (path, patience) = (path.to_owned(), patience.clone());
        let task = tokio::task::spawn_blocking(move || {
            let failed = |source| failure(&path, source, &server, begun, &patience);
            let stream = Patient { stream, patience: patience.clone() };
            let mut client = Client::negotiate(stream).map_err(failed)?;
            let (size, data) = (client.size(), client.data_blocks().map_err(failed)?);
            Ok(Reader::new(&path, Source::Served(client, server), size, data, begun, &patience))
        });
        task.await.expect("shaking hands does not panic")
    }

    fn new(
        path: &Path,
        source: Source,
        size: u64,
        data: Vec<Range<u64>>,
        begun: Instant,
        patience: &Patience,
    ) -> Reader {
        let (path, patience) = (path.to_owned(), patience.clone());
        let wanted = Wanted { ranges: data.clone().into_iter(), current: 0..0 };
        Reader {
            path,
            source,
            size,
            data,
            wanted,
            buffers: Buffers::default(),
            begun,
            patience,
            failed: false,
        }
    }

    /// Leaves out what is in none of these ranges of block indexes, which ascend. Nothing was read yet.
    fn only(&mut self, wanted: &[Range<u64>]) {
        let mut common = Vec::new();
        let mut rest = wanted;
        for data in &self.data {
            while let Some(first) = rest.first() {
                let both = first.start.max(data.start)..first.end.min(data.end);
                if !both.is_empty() {
                    common.push(both);
                }
                if first.end > data.end {
                    break;
                }
                rest = &rest[1..];
            }
        }
        self.wanted = Wanted { ranges: common.clone().into_iter(), current: 0..0 };
        self.data = common;
    }

    /// Virtual size in bytes, a multiple of 512.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Blocks that may hold data, as ranges of block indexes, ascending.
    pub fn data_blocks(&self) -> &[Range<u64>] {
        &self.data
    }

    fn next_block(&mut self) -> Result<Option<(u64, Block)>, ReadError> {
        while let Some((index, mut block)) = self.take()? {
            block.resize(BLOCK_SIZE, 0);
            let block = self.buffers.lend(block);
            if !is_zero(&block) {
                return Ok(Some((index, block)));
            }
        }
        Ok(None)
    }

    /// The next block, zeros or not.
    fn take(&mut self) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
        match &mut self.source {
            Source::Files(extents) => {
                let Some(index) = self.wanted.next() else { return Ok(None) };
                let mut buffer = self.buffers.spare();
                let read = extents.read(index, &mut buffer);
                read.map_err(|source| ReadError::File { path: self.path.clone(), source })?;
                Ok(Some((index, buffer)))
            }
            Source::Served(client, server) => {
                let failed = |e| failure(&self.path, e, server, self.begun, &self.patience);
                while client.pending() < READ_AHEAD
                    && let Some(index) = self.wanted.next()
                {
                    client.ask(index, self.buffers.spare()).map_err(failed)?;
                }
                client.take().map_err(failed)
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<(u64, Block), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match self.patience.check("blocks of a disk", self.begun) {
            Err(source) => Err(ReadError::Stopped { path: self.path.clone(), source }),
            Ok(()) => self.next_block(),
        };
        self.failed = result.is_err();
        result.transpose()
    }
}

/// Indexes of blocks that nobody asked for yet.
struct Wanted {
    ranges: std::vec::IntoIter<Range<u64>>,
    current: Range<u64>,
}

impl Iterator for Wanted {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            match self.current.next() {
                None => self.current = self.ranges.next()?,
                index => return index,
            }
        }
    }
}

/// Blocks given out, some of them back by now.
#[derive(Default)]
struct Buffers(Vec<Block>);

impl Buffers {
    /// A buffer that nobody uses any more, or a new one: fresh memory costs more than the read.
    fn spare(&mut self) -> Vec<u8> {
        let free = self.0.iter().position(|block| Arc::strong_count(block) == 1);
        free.and_then(|at| Arc::into_inner(self.0.swap_remove(at))).unwrap_or_default()
    }

    fn lend(&mut self, bytes: Vec<u8>) -> Block {
        let block = Arc::new(bytes);
        self.0.push(block.clone());
        block
    }
}

fn failure(path: &Path, source: NbdError, server: &Server, begun: Instant, patience: &Patience) -> ReadError {
    match patience.check("blocks of a disk", begun) {
        Err(source) => ReadError::Stopped { path: path.to_owned(), source },
        Ok(()) => ReadError::Read { path: path.to_owned(), words: server.last_words(), source },
    }
}

/// A `qemu-nbd` that serves one disk to one client, killed when dropped.
struct Server {
    _process: Process,
    /// Where its messages go: a file without a name, so that it never has to wait for a reader.
    messages: File,
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
        Ok((stream, Server { _process: process, messages }))
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

    /// Raw below, qcow2 above it, and what each export is without compression: read from the files themselves.
    #[tokio::test]
    async fn plain_chains_read_the_same_without_a_server() {
        let folder = tempfile::tempdir().unwrap();
        chain(folder.path());
        let img = |arguments: &str| run(folder.path(), "qemu-img", &arguments.replace(' ', "|"));
        img("convert -f qcow2 -O raw 3.qcow2 0.raw");
        img("create -q -f qcow2 -F raw -b 0.raw a.qcow2");
        run(folder.path(), "qemu-io", "-f|qcow2|-c|write -P 7 4M 70000|-c|write -z 0 64k|a.qcow2");
        img("create -q -f qcow2 -F qcow2 -b a.qcow2 b.qcow2 80M");
        run(folder.path(), "qemu-io", "-f|qcow2|-c|write -P 5 79M 512|b.qcow2");
        img("convert -f qcow2 -O raw b.qcow2 flat.raw");
        img("convert -f qcow2 -O vpc -o subformat=dynamic,force_size=on b.qcow2 c.vhd");
        img("convert -f qcow2 -O vpc -o subformat=fixed,force_size=on b.qcow2 d.vhd");
        let expected = list_of_bytes(&std::fs::read(folder.path().join("flat.raw")).unwrap());
        for (name, format) in [
            ("b.qcow2", Format::Qcow2),
            ("flat.raw", Format::Raw),
            ("c.vhd", Format::Vhd),
            ("d.vhd", Format::Vhd),
        ] {
            let path = folder.path().join(name);
            let reader = Reader::open(&path, format, &patience()).await.unwrap();
            assert!(matches!(reader.source, Source::Files(_)), "{name}");
            assert_eq!(BlockList::read(reader).unwrap(), expected, "{name}");
        }
        let reader = Reader::open(&folder.path().join("3.qcow2"), Format::Qcow2, &patience()).await.unwrap();
        assert!(matches!(reader.source, Source::Served(..)));
    }

    /// Whatever is known of a file below, the list is that of a full read, and unchanged blocks are not read.
    #[tokio::test]
    async fn only_what_files_above_have_changed_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let served = chain(folder.path());
        let img = |arguments: &str| run(folder.path(), "qemu-img", &arguments.replace(' ', "|"));
        img("create -q -f qcow2 -F raw -b base.raw a.qcow2");
        // Zeros over data, data over holes, and a disk that grew.
        run(folder.path(), "qemu-io", "-f|qcow2|-c|write -z 0 1M|-c|write -P 7 40M 70000|a.qcow2");
        img("create -q -f qcow2 -F qcow2 -b a.qcow2 b.qcow2 80M");
        run(folder.path(), "qemu-io", "-f|qcow2|-c|write -P 5 79M 512|-c|discard 40M 1M|b.qcow2");
        let plain = folder.path().join("b.qcow2");
        for (top, below) in
            [(&plain, "base.raw"), (&plain, "a.qcow2"), (&served, "1.qcow2"), (&served, "2.qcow2")]
        {
            let whole = list(top, Format::Qcow2).await;
            let format = if below.ends_with("raw") { Format::Raw } else { Format::Qcow2 };
            let below = folder.path().join(below);
            let known = list(&below, format).await;
            let found =
                BlockList::of_changed(top, Format::Qcow2, (&below, known), &patience()).await.unwrap();
            assert_eq!(found, whole, "{below:?}");
            let (reader, above) = Reader::open_above(top, Format::Qcow2, &below, &patience()).await.unwrap();
            assert!(above.is_some());
            assert!(reader.count() < whole.blocks().len(), "{below:?}");
        }
        let stranger = (folder.path().join("3.qcow2"), BlockList::new(1));
        let found =
            BlockList::of_changed(&plain, Format::Qcow2, (&stranger.0, stranger.1), &patience()).await;
        assert_eq!(found.unwrap(), list(&plain, Format::Qcow2).await);
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
