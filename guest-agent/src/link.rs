//! The byte pipe to the host: one writer at a time, whole frames only.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use kiln_protocol::frame::{self, Decoder, Frame, HEADER, Kind};
use kiln_protocol::message::FromAgent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How often a blocked reader or writer looks whether the link has been given up.
const GLANCE: Duration = Duration::from_millis(500);

const READ_SIZE: usize = 64 * 1024;

pub struct Link {
    fd: OwnedFd,
    /// Held while one frame is written; true once a write has failed.
    writer: Mutex<()>,
    lost: AtomicBool,
}

/// The reading half's state: there is one reader.
pub struct Reader<'a> {
    link: &'a Link,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Link {
    pub fn new(fd: OwnedFd) -> Link {
        // Non-blocking: a write to a virtio port whose host has left would block for ever.
        if let Ok(flags) = rustix::fs::fcntl_getfl(&fd) {
            let _ = rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK);
        }
        Link { fd, writer: Mutex::new(()), lost: AtomicBool::new(false) }
    }

    pub fn reader(&self) -> Reader<'_> {
        Reader { link: self, decoder: Decoder::default(), buffer: vec![0; READ_SIZE] }
    }

    /// Ends every blocked read and write.
    pub fn give_up(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Locks the writing half, to do something in step with what is sent.
    pub fn lock(&self) -> Writer<'_> {
        Writer { link: self, _turn: self.writer.lock().unwrap() }
    }

    pub fn control(&self, id: u32, message: &FromAgent) -> io::Result<()> {
        self.lock().control(id, message)
    }

    /// Waits, for a second at most, until the host has taken what was written.
    pub fn flush(&self) {
        let _turn = self.writer.lock();
        let _ = self.ready(PollFlags::OUT, Duration::from_secs(1));
    }

    /// True: ready. False: not within `limit`.
    fn ready(&self, what: PollFlags, limit: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, what)];
        match poll(&mut fds, Some(&timespec(limit))) {
            Err(Errno::INTR) => return Ok(false),
            other => other?,
        };
        let got = fds[0].revents();
        if got.intersects(what) {
            return Ok(true);
        }
        match got.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(false),
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.lost.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.check()?;
            match rustix::io::write(self.fd.as_fd(), bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::AGAIN) => {
                    self.ready(PollFlags::OUT, GLANCE)?;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// The writing half, locked.
pub struct Writer<'a> {
    link: &'a Link,
    _turn: MutexGuard<'a, ()>,
}

impl Writer<'_> {
    pub fn control(&self, id: u32, message: &FromAgent) -> io::Result<()> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, message)?;
        self.data(Kind::Control, id, &mut bytes)
    }

    /// Sends a frame whose payload already stands in `buffer` behind room for the header.
    pub fn data(&self, kind: Kind, id: u32, buffer: &mut [u8]) -> io::Result<()> {
        let head = frame::header(kind, id, buffer.len() - HEADER);
        buffer[..HEADER].copy_from_slice(&head);
        // Half a frame cannot be taken back: after a failure the link is over.
        self.link.write_all(buffer).inspect_err(|_| self.link.give_up())
    }
}

impl Reader<'_> {
    /// The next frame. An error is the end of the link, its text the reason.
    pub fn next(&mut self) -> Result<Frame, String> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|e| e.to_string())? {
                return Ok(frame);
            }
            let got = self.read().map_err(|e| e.to_string())?;
            self.decoder.feed(&self.buffer[..got]);
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        loop {
            self.link.check()?;
            match rustix::io::read(self.link.fd.as_fd(), &mut self.buffer[..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => return Ok(n),
                Err(Errno::AGAIN) => {
                    self.link.ready(PollFlags::IN, GLANCE)?;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

pub fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() }
}
