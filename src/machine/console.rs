//! The guest's serial console, always recorded and always bounded: a guest that floods it costs the host
//! 5 MiB of disk and 64 KiB of memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The beginning is kept whole, in bytes.
const HEAD: u64 = 1 << 20;
/// Behind it, pieces of this size are written, in bytes; the last two are kept.
const PIECE: u64 = 2 << 20;
/// Between two looks at a console that says little. A pipe holds what comes meanwhile.
const REST: Duration = Duration::from_millis(20);
/// Kept in memory for failures, in bytes.
const TAIL: usize = 64 << 10;
/// Longest line that is shown, in characters.
const LINE: usize = 500;

const HEAD_NAME: &str = "console.log";

/// What a machine's console said lately.
#[derive(Debug, Default)]
pub struct Console {
    tail: Mutex<VecDeque<u8>>,
}

impl Console {
    /// The last `n` lines, oldest first, without control sequences.
    pub fn tail(&self, n: usize) -> Vec<String> {
        let tail = self.tail.lock().expect("no panic while held");
        let bytes: Vec<u8> = tail.iter().copied().collect();
        drop(tail);
        last_lines(&bytes, n)
    }

    fn keep(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().expect("no panic while held");
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
    }

    /// Records until the stream ends. A full disk ends the file, not the reading: the guest must not block.
    pub(super) async fn record(&self, mut stream: impl AsyncRead + Unpin, folder: &Path) {
        let mut file = Recorder::open(folder).ok();
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            self.keep(&buffer[..n]);
            if let Some(recorder) = &mut file
                && recorder.write(&buffer[..n]).is_err()
            {
                file = None;
            }
            // QEMU writes byte by byte; taken in one by one, each would cost a turn of kiln's.
            if n < buffer.len() {
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// The last `n` lines of what a console said, as a person reads them.
pub fn last_lines(console: &[u8], n: usize) -> Vec<String> {
    let text = printable(console);
    // A carriage return draws the line anew: the last drawing counts.
    let drawn = |l| str::trim_end_matches(l, '\r').rsplit('\r').next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(drawn).filter(|l| !l.trim().is_empty()).collect();
    let shorten = |l: &&str| l.chars().take(LINE).collect();
    lines[lines.len().saturating_sub(n)..].iter().map(shorten).collect()
}

/// Everything recorded in a machine's folder, oldest first; where the middle is missing a line says so.
pub fn read_console(folder: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::fs::read(folder.join(HEAD_NAME))?;
    let pieces = pieces(folder)?;
    if pieces.first().is_some_and(|&first| first > 1) {
        bytes.extend_from_slice(b"\n[kiln: the console said more here than is kept]\n");
    }
    for piece in pieces {
        bytes.extend(std::fs::read(piece_path(folder, piece))?);
    }
    Ok(bytes)
}

fn piece_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("console.{number}.log"))
}

/// Numbers of the pieces behind the head, in order; they count from 1.
fn pieces(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|n| n.strip_prefix("console.")?.strip_suffix(".log")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

struct Recorder {
    folder: PathBuf,
    file: File,
    /// 0 is the head.
    piece: u64,
    /// Bytes that still fit into `file`.
    room: u64,
}

impl Recorder {
    /// Goes on where an earlier start in the same folder stopped.
    fn open(folder: &Path) -> io::Result<Recorder> {
        let piece = pieces(folder)?.last().copied().unwrap_or(0);
        let mut recorder =
            Recorder { folder: folder.into(), file: Recorder::file(folder, piece)?, piece, room: 0 };
        recorder.room = recorder.size().saturating_sub(recorder.file.metadata()?.len());
        Ok(recorder)
    }

    fn file(folder: &Path, piece: u64) -> io::Result<File> {
        let path = if piece == 0 { folder.join(HEAD_NAME) } else { piece_path(folder, piece) };
        OpenOptions::new().create(true).append(true).open(path)
    }

    fn size(&self) -> u64 {
        if self.piece == 0 { HEAD } else { PIECE }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.room == 0 {
                self.piece += 1;
                self.file = Recorder::file(&self.folder, self.piece)?;
                self.room = self.size();
                if self.piece > 2 {
                    std::fs::remove_file(piece_path(&self.folder, self.piece - 2))?;
                }
            }
            let n = bytes.len().min(self.room.try_into().unwrap_or(usize::MAX));
            self.file.write_all(&bytes[..n])?;
            self.room -= n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

/// Text without terminal control sequences: what a guest prints must not move the reader's cursor.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' | '\r' => out.push(c),
            '\u{1b}' => match chars.next() {
                // CSI: parameters up to a final letter.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: up to BEL or ST.
                Some(']') => while chars.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
                _ => {}
            },
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_is_bounded_and_its_ends_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let console = Console::default();
        let line = |i: u32| format!("line {i:>10}\n");
        let flood: String = (0..800_000).map(line).collect();
        console.record(flood.as_bytes(), dir.path()).await;
        let kept = read_console(dir.path()).unwrap();
        assert!((3 << 20..=(5 << 20) + 100).contains(&kept.len()), "{}", kept.len());
        assert!(kept.starts_with(line(0).as_bytes()) && kept.ends_with(line(799_999).as_bytes()));
        let text = String::from_utf8(kept).unwrap();
        assert!(text.contains("more here than is kept"));
        assert_eq!(console.tail(2), ["line     799998", "line     799999"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[tokio::test]
    async fn the_next_boot_goes_on_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        for boot in ["one\n", "two\n"] {
            Console::default().record(boot.as_bytes(), dir.path()).await;
        }
        assert_eq!(read_console(dir.path()).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn control_sequences_are_taken_out() {
        let console = Console::default();
        console.keep(b"\x1b[2J\x1b[01;01Hred \x1b[31mtext\x1b[0m\r\n\x1b]0;title\x07\xffok\x08\x00\n\n");
        assert_eq!(console.tail(9), ["red text", "\u{fffd}ok"]);
        console.keep(b"5 s left\r4 s left\r3 s left\r\n");
        assert_eq!(console.tail(1), ["3 s left"]);
        console.keep(&[b'y'; 5000]);
        assert_eq!(console.tail(1)[0].len(), LINE);
    }
}
