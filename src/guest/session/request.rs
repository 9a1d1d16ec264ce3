//! One request, as its caller holds it. Dropping it gives the request up.

use std::sync::Arc;
use std::time::Duration;

use kiln_protocol::message::{FromHost, Operation};
use kiln_protocol::{WINDOW, frame};
use tokio::sync::mpsc;

use super::table::{End, Event, Shared};
use crate::guest::{GuestError, describe};
use crate::support::wait::Patience;

/// Grants are collected up to this, so that small output does not cost a message each.
const GRANT: u32 = WINDOW / 4;

/// An agent that is called off stops at once; its host may be busy.
const LET_GO: Duration = Duration::from_secs(10);

pub struct Request {
    shared: Arc<Shared>,
    id: u32,
    doing: String,
    events: mpsc::UnboundedReceiver<Event>,
    ungranted: u32,
    input_ended: bool,
}

impl Request {
    pub fn begin(shared: &Arc<Shared>, operation: Operation) -> Result<Request, GuestError> {
        let doing = describe::operation(&operation);
        let (id, events) = shared.open(operation, &doing)?;
        Ok(Request { shared: shared.clone(), id, doing, events, ungranted: 0, input_ended: false })
    }

    /// What it is, for messages: `exec apt-get update`.
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// # Errors
    /// The session is over.
    pub async fn next(&mut self) -> Result<Event, GuestError> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => Err(self.shared.error(&self.doing)),
        }
    }

    /// Lets the agent send as much again as `bytes` were.
    pub fn consumed(&mut self, bytes: &[u8]) {
        self.ungranted += frame::cost(bytes.len());
        if self.ungranted >= GRANT {
            self.shared.grant(self.id, std::mem::take(&mut self.ungranted));
        }
    }

    pub fn input(&mut self, bytes: &[u8]) {
        if !self.input_ended {
            self.shared.send_input(self.id, bytes);
        }
    }

    pub fn end_input(&mut self) {
        self.input(&[]);
        self.input_ended = true;
    }

    pub fn say(&self, message: &FromHost) {
        self.shared.say(self.id, message);
    }

    /// Calls off what the agent still does for this, and waits for its end: a file that it has open keeps a
    /// file system busy, and the next request may be to unmount that.
    pub async fn let_go(&mut self, patience: &Patience) {
        if !self.shared.is_open(self.id) {
            return;
        }
        self.say(&FromHost::Cancel);
        let ended = async { while self.shared.is_open(self.id) && self.next().await.is_ok() {} };
        // One that does not end meets the next request.
        let _ = patience.at_most(LET_GO).wait("the agent to stop", ended).await;
    }

    /// The agent answered what it must not: that ends the session.
    pub fn unexpected(&self, what: &str) -> GuestError {
        let mut what = format!("{}: {what}", self.doing);
        what.truncate(what.floor_char_boundary(500));
        self.shared.end(End::Protocol(what));
        self.shared.error(&self.doing)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.shared.is_open(self.id) {
            self.shared.say(self.id, &FromHost::Cancel);
        }
    }
}
