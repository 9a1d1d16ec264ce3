//! Requests under way, and what the agent may still send for each.

use std::collections::HashMap;
use std::sync::Mutex;

use kiln_protocol::frame::{self, Frame, Kind};
use kiln_protocol::message::{Exited, Failed, FromAgent, FromHost, Operation, Reply};
use kiln_protocol::{WINDOW, frame::MAX_PAYLOAD};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::guest::GuestError;

/// The longest explanation of a failure that is kept, in bytes.
const MESSAGE_LIMIT: usize = 4096;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Lost(String),
    Protocol(String),
}

/// What arrives for one request.
#[derive(Debug)]
pub enum Event {
    Output {
        bytes: Vec<u8>,
        error: bool,
    },
    /// A connection stands.
    Connected,
    Credit(u32),
    Exited(Exited),
    Done(Reply),
    Failed(Failed),
}

/// What both tasks and all requests of a session share.
pub struct Shared {
    pub outgoing: mpsc::UnboundedSender<Vec<u8>>,
    /// Fires when the session is over.
    pub over: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u32, Slot>,
    last_id: u32,
    end: Option<End>,
}

/// What may still come for a request.
struct Slot {
    doing: String,
    shape: Shape,
    /// Bounded by the windows: unread output by `credit`, grants by `unacknowledged`.
    inbox: mpsc::UnboundedSender<Event>,
    /// Output that the agent may still send.
    credit: u32,
    /// Input sent and not granted back.
    unacknowledged: u32,
    started: bool,
    /// Which of output and error output have not ended.
    open: [bool; 2],
}

/// How an operation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Exec { terminal: bool },
    Connect,
    Sent,
    Written,
    Unpacked,
    Stat,
    Hash,
    List,
    Facts,
    Devices,
    Space,
    Nothing,
}

impl Shape {
    fn of(operation: &Operation) -> Shape {
        use Operation as O;
        match operation {
            O::Exec(exec) => Shape::Exec { terminal: exec.terminal.is_some() },
            O::Get { .. } | O::Tree(_) => Shape::Sent,
            O::Connect { .. } => Shape::Connect,
            O::Put(_) | O::WriteAt { .. } | O::Append { .. } | O::Trim { .. } => Shape::Written,
            O::Unpack(_) => Shape::Unpacked,
            O::Stat { .. } => Shape::Stat,
            O::Hash { .. } => Shape::Hash,
            O::List { .. } => Shape::List,
            O::Facts => Shape::Facts,
            O::Devices => Shape::Devices,
            O::Space { .. } | O::GrowFilesystem { .. } => Shape::Space,
            O::Copy { .. }
            | O::Rename { .. }
            | O::MakeFolder { .. }
            | O::Remove { .. }
            | O::Symlink { .. }
            | O::Chmod { .. }
            | O::Chown { .. }
            | O::Power { .. }
            | O::Freeze { .. }
            | O::Thaw
            | O::LoadModules { .. }
            | O::ChangeRoot { .. }
            | O::RereadPartitions { .. }
            | O::Mount { .. }
            | O::Unmount { .. }
            | O::EndProcesses
            | O::Network { .. } => Shape::Nothing,
        }
    }

    fn accepts(self, reply: &Reply) -> bool {
        match reply {
            Reply::Nothing => self == Shape::Nothing,
            Reply::Written { .. } => self == Shape::Written,
            Reply::Sent { .. } => matches!(self, Shape::Sent | Shape::Connect),
            Reply::Unpacked { .. } => self == Shape::Unpacked,
            Reply::Stat(_) => self == Shape::Stat,
            Reply::Hash(_) => self == Shape::Hash,
            Reply::List { .. } => self == Shape::List,
            Reply::Facts(_) => self == Shape::Facts,
            Reply::Devices(_) => self == Shape::Devices,
            Reply::Space { .. } => self == Shape::Space,
        }
    }

    /// Output, error output.
    fn streams(self) -> [bool; 2] {
        match self {
            Shape::Exec { terminal } => [true, !terminal],
            Shape::Sent | Shape::Connect => [true, false],
            _ => [false, false],
        }
    }
}

impl Shared {
    pub fn new(outgoing: mpsc::UnboundedSender<Vec<u8>>) -> Shared {
        Shared { outgoing, over: CancellationToken::new(), table: Mutex::default() }
    }

    /// Ends the session; the first reason counts. Everybody who waits is told.
    pub fn end(&self, end: End) {
        let mut table = self.table.lock().unwrap();
        table.end.get_or_insert(end);
        table.slots.clear();
        self.over.cancel();
    }

    /// Why the session is over, to somebody who was `doing` something.
    pub fn error(&self, doing: &str) -> GuestError {
        match self.table.lock().unwrap().end.clone() {
            Some(End::Protocol(what)) => GuestError::Protocol(what),
            Some(End::Lost(reason)) => GuestError::Lost { doing: doing.into(), reason },
            None => GuestError::Lost { doing: doing.into(), reason: "kiln closed it".into() },
        }
    }

    /// Enters a request and sends it.
    pub fn open(
        &self,
        operation: Operation,
        doing: &str,
    ) -> Result<(u32, mpsc::UnboundedReceiver<Event>), GuestError> {
        let shape = Shape::of(&operation);
        let payload = serde_json::to_vec(&FromHost::Request(Box::new(operation)))
            .map_err(|e| GuestError::Local(e.into()))?;
        if payload.len() > MAX_PAYLOAD {
            let size = payload.len();
            let message = format!("{doing}: the request has {size} bytes, the limit is {MAX_PAYLOAD}");
            return Err(GuestError::Local(std::io::Error::new(std::io::ErrorKind::InvalidInput, message)));
        }
        let (inbox, events) = mpsc::unbounded_channel();
        let mut table = self.table.lock().unwrap();
        if table.end.is_some() {
            drop(table);
            return Err(self.error(doing));
        }
        table.last_id += 1;
        let id = table.last_id;
        let slot = Slot {
            doing: doing.into(),
            shape,
            inbox,
            credit: WINDOW,
            unacknowledged: 0,
            started: false,
            open: shape.streams(),
        };
        table.slots.insert(id, slot);
        // Sent under the lock: the agent sees ids in order.
        let _ = self.outgoing.send(Frame { kind: Kind::Control, id, payload }.encode());
        Ok((id, events))
    }

    /// Whether the agent still has to finish this request.
    pub fn is_open(&self, id: u32) -> bool {
        self.table.lock().unwrap().slots.contains_key(&id)
    }

    pub fn send_input(&self, id: u32, bytes: &[u8]) {
        let mut table = self.table.lock().unwrap();
        let Some(slot) = table.slots.get_mut(&id) else { return };
        slot.unacknowledged += frame::cost(bytes.len());
        let _ = self.outgoing.send(Frame { kind: Kind::Input, id, payload: bytes.to_vec() }.encode());
    }

    pub fn grant(&self, id: u32, bytes: u32) {
        let mut table = self.table.lock().unwrap();
        let Some(slot) = table.slots.get_mut(&id) else { return };
        slot.credit += bytes;
        drop(table);
        self.say(id, &FromHost::Credit { bytes });
    }

    pub fn say(&self, id: u32, message: &FromHost) {
        if let Ok(payload) = serde_json::to_vec(message) {
            let _ = self.outgoing.send(Frame { kind: Kind::Control, id, payload }.encode());
        }
    }

    /// Takes a frame of a request in. An error is a breach of the protocol.
    pub fn receive(&self, frame: Frame) -> Result<(), String> {
        let mut table = self.table.lock().unwrap();
        let Some(slot) = table.slots.get_mut(&frame.id) else {
            return Err(format!("a {:?} frame for request {}, which does not exist", frame.kind, frame.id));
        };
        let breach = |slot: &Slot, what: &str| Err(format!("{}: {what}", slot.doing));
        let message = match frame.kind {
            Kind::Input => return breach(slot, "it sent input"),
            Kind::Output | Kind::ErrorOutput => {
                return slot.data(frame).or_else(|what| breach(slot, what));
            }
            Kind::Control => match serde_json::from_slice(&frame.payload) {
                Ok(message) => message,
                Err(e) => return breach(slot, &format!("a message that cannot be understood: {e}")),
            },
        };
        match slot.message(message) {
            Err(what) => breach(slot, &what),
            Ok(true) => {
                table.slots.remove(&frame.id);
                Ok(())
            }
            Ok(false) => Ok(()),
        }
    }
}

impl Slot {
    fn data(&mut self, frame: Frame) -> Result<(), &'static str> {
        let error = frame.kind == Kind::ErrorOutput;
        let open = &mut self.open[usize::from(error)];
        if !*open {
            return Err("output of a stream that is not open");
        }
        if frame.payload.is_empty() {
            *open = false;
            return Ok(());
        }
        let cost = frame::cost(frame.payload.len());
        self.credit = self.credit.checked_sub(cost).ok_or("more output than it was granted")?;
        // Nobody listens to a request that was given up.
        let _ = self.inbox.send(Event::Output { bytes: frame.payload, error });
        Ok(())
    }

    /// True when this was the last message.
    fn message(&mut self, message: FromAgent) -> Result<bool, String> {
        let exec = matches!(self.shape, Shape::Exec { .. });
        let (event, last) = match message {
            FromAgent::Credit { bytes } => {
                let left = self.unacknowledged.checked_sub(bytes);
                self.unacknowledged = left.ok_or("it granted more input than it was sent")?;
                (Event::Credit(bytes), false)
            }
            FromAgent::Started { .. } if exec && !self.started => {
                self.started = true;
                return Ok(false);
            }
            FromAgent::Started { .. } if self.shape == Shape::Connect && !self.started => {
                self.started = true;
                (Event::Connected, false)
            }
            FromAgent::Exited(exited) if exec && self.started && self.open == [false; 2] => {
                (Event::Exited(exited), true)
            }
            FromAgent::Done(Reply::Unpacked { made, failed }) if self.shape == Shape::Unpacked => {
                (Event::Done(Reply::Unpacked { made, failed: failed.map(shortened) }), true)
            }
            FromAgent::Done(reply) if self.shape.accepts(&reply) && self.open == [false; 2] => {
                (Event::Done(reply), true)
            }
            FromAgent::Failed(failed) => (Event::Failed(shortened(failed)), true),
            other => {
                let mut text = format!("{other:?}");
                text.truncate(text.floor_char_boundary(200));
                return Err(format!("{text} does not belong there"));
            }
        };
        let _ = self.inbox.send(event);
        Ok(last)
    }
}

fn shortened(mut failed: Failed) -> Failed {
    failed.message.truncate(failed.message.floor_char_boundary(MESSAGE_LIMIT));
    failed
}
