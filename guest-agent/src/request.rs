//! One request of the host: its credit, its input, and orders that come while it runs.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use kiln_protocol::WINDOW;
use kiln_protocol::frame::{self, CHUNK, HEADER, Kind};
use kiln_protocol::message::{FromAgent, Terminal};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Outcome, cancelled};
use crate::link::Link;

pub struct Request {
    pub id: u32,
    link: Arc<Link>,
    state: Mutex<State>,
    changed: Condvar,
    /// For a request that sleeps in poll(2) instead of on `changed`.
    wake: OnceLock<OwnedFd>,
    /// The last message has gone out: nothing may follow it.
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What may still be sent as output.
    credit: u32,
    input: VecDeque<Vec<u8>>,
    /// Input received and not yet granted back.
    owed: u32,
    input_ended: bool,
    cancel: Option<Cancel>,
    orders: Vec<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cancel {
    /// The host does not want it any more.
    Asked,
    /// There is no host any more.
    LinkLost,
}

pub enum Order {
    Signal(i32),
    Resize(Terminal),
}

/// The state of the input stream, seen without waiting.
pub enum Input {
    Bytes(Vec<u8>),
    Later,
    End,
}

impl Request {
    pub fn new(id: u32, link: Arc<Link>) -> Request {
        let state = State { credit: WINDOW, ..State::default() };
        Request {
            id,
            link,
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    // What the reader of the link hands in.

    pub fn add_credit(&self, bytes: u32) {
        self.update(|s| s.credit = s.credit.saturating_add(bytes).min(WINDOW));
    }

    /// False: the host sends beyond its window.
    pub fn add_input(&self, payload: Vec<u8>) -> bool {
        let mut fits = true;
        self.update(|s| {
            if payload.is_empty() {
                s.input_ended = true;
                return;
            }
            s.owed = s.owed.saturating_add(frame::cost(payload.len()));
            fits = s.owed <= WINDOW && !s.input_ended;
            if fits {
                s.input.push_back(payload);
            }
        });
        fits
    }

    pub fn cancel(&self, why: Cancel) {
        self.update(|s| s.cancel = s.cancel.max(Some(why)));
    }

    pub fn order(&self, order: Order) {
        self.update(|s| s.orders.push(order));
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        self.wake();
    }

    // What the operation takes.

    /// An event descriptor that becomes readable at every change.
    pub fn waker(&self) -> io::Result<&OwnedFd> {
        if self.wake.get().is_none() {
            let _ = self.wake.set(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        }
        Ok(self.wake.get().expect("set above"))
    }

    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }

    pub fn cancelled(&self) -> Option<Cancel> {
        self.state.lock().unwrap().cancel
    }

    pub fn check(&self) -> Outcome<()> {
        self.cancelled().map_or(Ok(()), |_| Err(cancelled()))
    }

    pub fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut self.state.lock().unwrap().orders)
    }

    /// How many bytes the next output frame may have; 0: wait for credit.
    pub fn room(&self) -> usize {
        (self.state.lock().unwrap().credit as usize).saturating_sub(HEADER).min(CHUNK)
    }

    /// Sends output that `room` allowed. `buffer` begins with room for the header.
    pub fn output(&self, kind: Kind, buffer: &mut [u8]) {
        {
            let mut state = self.state.lock().unwrap();
            state.credit = state.credit.saturating_sub(frame::cost(buffer.len() - HEADER));
        }
        let writer = self.link.lock();
        if !self.closed.load(Ordering::SeqCst) && writer.data(kind, self.id, buffer).is_err() {
            drop(writer);
            self.cancel(Cancel::LinkLost);
        }
    }

    /// Waits until output may be sent, and returns how many bytes.
    pub fn wait_for_room(&self) -> Outcome<usize> {
        let mut state = self.state.lock().unwrap();
        while state.cancel.is_none() && state.credit as usize <= HEADER {
            state = self.changed.wait(state).unwrap();
        }
        drop(state);
        self.check()?;
        Ok(self.room())
    }

    /// The next piece of the input stream, or None at its end. Waits for it.
    pub fn input(&self) -> Outcome<Option<Vec<u8>>> {
        loop {
            match self.try_input() {
                Input::Bytes(bytes) => return Ok(Some(bytes)),
                Input::End => return Ok(None),
                Input::Later => {}
            }
            let mut state = self.state.lock().unwrap();
            while state.cancel.is_none() && state.input.is_empty() && !state.input_ended {
                state = self.changed.wait(state).unwrap();
            }
            drop(state);
            self.check()?;
        }
    }

    pub fn try_input(&self) -> Input {
        let mut state = self.state.lock().unwrap();
        match state.input.pop_front() {
            Some(bytes) => Input::Bytes(bytes),
            None if state.input_ended => Input::End,
            None => Input::Later,
        }
    }

    /// Lets the host send as much again as this piece was.
    pub fn grant(&self, taken: usize) {
        let bytes = frame::cost(taken);
        {
            let mut state = self.state.lock().unwrap();
            state.owed = state.owed.saturating_sub(bytes);
        }
        self.say(&FromAgent::Credit { bytes });
    }

    /// A message that is not the last.
    pub fn say(&self, message: &FromAgent) {
        let writer = self.link.lock();
        if !self.closed.load(Ordering::SeqCst) {
            let _ = writer.control(self.id, message);
        }
    }

    /// The last message.
    pub fn finish(&self, message: &FromAgent) {
        let writer = self.link.lock();
        if !self.closed.swap(true, Ordering::SeqCst) {
            let _ = writer.control(self.id, message);
        }
    }
}
