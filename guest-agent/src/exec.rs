//! `Exec`: one thread moves all bytes of a command and decides when it is over.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_protocol::frame::{CHUNK, HEADER, Kind};
use kiln_protocol::message::{Exec, Exited, FromAgent, Mode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::error::{During, Outcome};
use crate::link::timespec;
use crate::process::{self, Process};
use crate::request::{Cancel, Input, Order, Request};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long output may still come after the process has ended. A process that it
/// left behind may hold the pipe for ever, but the last words of a `| tee` count.
const DRAIN: Duration = Duration::from_secs(1);

const END_OF_INPUT_ON_A_TERMINAL: u8 = 4;

/// Runs the command to its end. Its output streams are closed when this returns.
pub fn run(request: &Arc<Request>, exec: Exec, mode: Mode) -> Outcome<Exited> {
    let wake = request.waker().during("exec", "event descriptor")?;
    let process = process::spawn(&exec, mode)?;
    request.say(&FromAgent::Started { pid: process.pid as u32 });
    let ended = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (request, ended, pid) = (request.clone(), ended.clone(), process.pid);
        thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            Process::watch(pid);
            ended.store(true, Ordering::SeqCst);
            request.wake();
        })
    };
    if let Err(e) = watcher {
        process.signal(libc::SIGKILL);
        process.reap();
        return Err(e).during("watch", &exec.argv[0]);
    }
    let mut run = Run {
        request,
        process,
        wake,
        ended: &ended,
        unwritten: VecDeque::new(),
        taken: 0,
        input_over: false,
        time_out: exec.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        ending: Ending::No,
        timed_out: false,
        drain: None,
        buffer: Vec::new(),
    };
    while run.step() {}
    Ok(run.close())
}

struct Run<'a> {
    request: &'a Request,
    process: Process,
    wake: &'a OwnedFd,
    /// The process has ended and can be waited for.
    ended: &'a AtomicBool,
    /// Input that the process has not taken yet; `taken` bytes are to be granted back then.
    unwritten: VecDeque<u8>,
    taken: usize,
    input_over: bool,
    time_out: Option<Instant>,
    ending: Ending,
    timed_out: bool,
    drain: Option<Drain>,
    buffer: Vec<u8>,
}

/// How far we are with ending the process group ourselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// SIGTERM has been sent; SIGKILL follows then.
    Asked(Instant),
    Killed,
}

/// What is still to be read after the end of the process.
struct Drain {
    until: Instant,
    /// Bytes that lay in the pipes when it ended: its own, so they are read however long that takes.
    owed: [usize; 2],
}

impl Run<'_> {
    /// One round; false when the command is over.
    fn step(&mut self) -> bool {
        self.follow_orders();
        self.take_input();
        if self.ended.load(Ordering::SeqCst) && self.drain.is_none() {
            let pending = |end: &Option<OwnedFd>| {
                end.as_ref().and_then(|e| rustix::io::ioctl_fionread(e).ok()).unwrap_or(0) as usize
            };
            self.drain = Some(Drain {
                until: Instant::now() + DRAIN,
                owed: [pending(&self.process.output), pending(&self.process.errors)],
            });
        }
        if self.is_over() {
            return false;
        }
        let room = self.room();
        let [input, output, errors] = self.wait(room > 0);
        if input {
            self.write_input();
        }
        if output {
            self.read(Kind::Output);
        }
        if errors {
            self.read(Kind::ErrorOutput);
        }
        true
    }

    fn is_over(&mut self) -> bool {
        let Some(drain) = &self.drain else { return false };
        let silent = self.process.output.is_none() && self.process.errors.is_none();
        if silent || self.request.cancelled() == Some(Cancel::LinkLost) {
            return true;
        }
        let late = match self.ending {
            // Others of the group may still be about to end in order.
            Ending::Asked(kill) => Instant::now() >= kill,
            Ending::No | Ending::Killed => Instant::now() >= drain.until,
        };
        late && drain.owed == [0, 0]
    }

    fn follow_orders(&mut self) {
        let now = Instant::now();
        match self.request.cancelled() {
            Some(Cancel::LinkLost) => self.kill(),
            Some(Cancel::Asked) => self.ask_to_end(now),
            None => {}
        }
        if self.time_out.is_some_and(|t| now >= t) && self.drain.is_none() {
            self.timed_out |= self.ending == Ending::No;
            self.ask_to_end(now);
        }
        if matches!(self.ending, Ending::Asked(kill) if now >= kill) {
            self.kill();
        }
        for order in self.request.take_orders() {
            match order {
                Order::Signal(number) => self.process.signal(number),
                Order::Resize(size) => {
                    if let (true, Some(master)) = (self.process.terminal, &self.process.output) {
                        let _ = process::resize(master, size);
                    }
                }
            }
        }
    }

    fn ask_to_end(&mut self, now: Instant) {
        if self.ending == Ending::No {
            self.process.signal(libc::SIGTERM);
            // A stopped process would not notice.
            self.process.signal(libc::SIGCONT);
            self.ending = Ending::Asked(now + GRACE);
        }
    }

    fn kill(&mut self) {
        if self.ending != Ending::Killed {
            self.process.signal(libc::SIGKILL);
            self.ending = Ending::Killed;
        }
    }

    /// Sleeps until something can be done; tells whether input, output and error output are ready.
    fn wait(&mut self, room: bool) -> [bool; 3] {
        let writable = !self.unwritten.is_empty();
        let ends = [
            self.process.input.as_ref().filter(|_| writable).map(|e| (e, PollFlags::OUT)),
            self.process.output.as_ref().filter(|_| room).map(|e| (e, PollFlags::IN)),
            self.process.errors.as_ref().filter(|_| room).map(|e| (e, PollFlags::IN)),
        ];
        let mut fds = vec![PollFd::new(self.wake, PollFlags::IN)];
        fds.extend(ends.iter().flatten().map(|(end, what)| PollFd::new(*end, *what)));
        let moments = [
            self.time_out.filter(|_| self.ending == Ending::No && self.drain.is_none()),
            match self.ending {
                Ending::Asked(kill) => Some(kill),
                _ => None,
            },
            // With bytes owed and no room to send them, only the host can bring us on.
            self.drain.as_ref().filter(|d| d.owed == [0, 0]).map(|d| d.until),
        ];
        let next = moments.into_iter().flatten().min();
        let limit = next.map(|t| timespec(t.saturating_duration_since(Instant::now())));
        let _ = poll(&mut fds, limit.as_ref());
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            let _ = rustix::io::read(self.wake, &mut [0; 8]);
        }
        ends.map(|end| end.is_some() && ready.next() == Some(true))
    }

    /// Output that nobody wants any more needs no credit.
    fn room(&self) -> usize {
        if self.request.cancelled().is_some() { CHUNK } else { self.request.room() }
    }

    fn read(&mut self, kind: Kind) {
        let room = self.room();
        let errors = kind == Kind::ErrorOutput;
        let end = if errors { &mut self.process.errors } else { &mut self.process.output };
        let Some(fd) = end.as_ref().filter(|_| room > 0) else { return };
        self.buffer.resize(HEADER + room, 0);
        match rustix::io::read(fd, &mut self.buffer[HEADER..]) {
            Ok(n) if n > 0 => {
                if self.request.cancelled().is_none() {
                    self.request.output(kind, &mut self.buffer[..HEADER + n]);
                }
                if let Some(drain) = &mut self.drain {
                    let owed = &mut drain.owed[usize::from(errors)];
                    *owed = owed.saturating_sub(n);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                // What lay there has been taken by somebody else, a reader of the same terminal.
                if let Some(drain) = &mut self.drain {
                    drain.owed[usize::from(errors)] = 0;
                }
            }
            // The end of a pipe reads as 0, that of a terminal as EIO.
            Ok(_) | Err(_) => {
                *end = None;
                if let Some(drain) = &mut self.drain {
                    drain.owed[usize::from(errors)] = 0;
                }
            }
        }
    }

    /// Input goes to the process in order; one piece at a time waits here for it.
    fn take_input(&mut self) {
        while self.unwritten.is_empty() {
            match self.request.try_input() {
                Input::Bytes(bytes) if self.process.input.is_some() => {
                    self.taken = bytes.len();
                    self.unwritten = bytes.into();
                }
                // Nobody reads it. The host must be able to finish sending all the same.
                Input::Bytes(bytes) => self.request.grant(bytes.len()),
                Input::End if !self.input_over => {
                    self.input_over = true;
                    match self.process.terminal {
                        true => self.unwritten.push_back(END_OF_INPUT_ON_A_TERMINAL),
                        false => self.process.input = None,
                    }
                }
                Input::End | Input::Later => return,
            }
        }
    }

    fn write_input(&mut self) {
        let Some(end) = &self.process.input else { return };
        match rustix::io::write(end.as_fd(), self.unwritten.as_slices().0) {
            Ok(n) => drop(self.unwritten.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => return,
            // It has closed its input.
            Err(_) => {
                self.process.input = None;
                self.unwritten.clear();
            }
        }
        if self.unwritten.is_empty() && self.taken > 0 {
            self.request.grant(std::mem::take(&mut self.taken));
        }
    }

    fn close(mut self) -> Exited {
        // A group that was to end has had its grace. One that ended by itself may
        // have left a daemon behind on purpose.
        if self.ending != Ending::No {
            self.process.signal(libc::SIGKILL);
        }
        let exited = Exited { timed_out: self.timed_out, ..self.process.reap() };
        self.buffer.resize(HEADER, 0);
        for kind in [Kind::Output, Kind::ErrorOutput] {
            if kind == Kind::Output || !self.process.terminal {
                self.request.output(kind, &mut self.buffer[..HEADER]);
            }
        }
        exited
    }
}
