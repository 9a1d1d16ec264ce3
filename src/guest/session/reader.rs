//! Reading the link: frames, heartbeats, and the silence of a dead one.

use std::time::Duration;

use kiln_protocol::frame::{Decoder, Frame, Kind};
use kiln_protocol::message::FromAgent;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout};

use super::Expect;
use super::table::{End, Shared};

const READ_SIZE: usize = 64 * 1024;

/// Beats that may come at once, after the guest or this machine was held up.
const BEATS_IN_A_RUSH: u64 = 100;

pub struct Frames<R> {
    link: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn new(link: R) -> Frames<R> {
        Frames { link, decoder: Decoder::default(), buffer: vec![0; READ_SIZE] }
    }

    pub async fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|e| End::Protocol(e.to_string()))? {
                return Ok(frame);
            }
            match self.link.read(&mut self.buffer).await {
                Ok(0) if self.decoder.pending() > 0 => {
                    return Err(End::Lost("it was closed in the middle of a message".into()));
                }
                Ok(0) => return Err(End::Lost("it was closed at the guest's end".into())),
                Ok(n) => self.decoder.feed(&self.buffer[..n]),
                Err(e) => return Err(End::Lost(format!("reading from it: {e}"))),
            }
        }
    }
}

/// Hands frames to their requests until the session is over.
pub async fn run<R: AsyncRead + Unpin>(mut frames: Frames<R>, shared: &Shared, expect: &Expect) {
    let mut heart = Heart { begun: Instant::now(), every: expect.beat, beats: 0 };
    let end = loop {
        let step = match timeout(expect.silence, frames.next()).await {
            Err(_) => Err(End::Lost(format!("no sign of life for {} s", expect.silence.as_secs_f32()))),
            Ok(Err(end)) => Err(end),
            Ok(Ok(frame)) if frame.id == 0 => heart.listen(&frame),
            Ok(Ok(frame)) => shared.receive(frame).map_err(End::Protocol),
        };
        if let Err(end) = step {
            break end;
        }
    };
    shared.end(end);
}

/// What belongs to no request.
struct Heart {
    begun: Instant,
    every: Duration,
    beats: u64,
}

impl Heart {
    fn listen(&mut self, frame: &Frame) -> Result<(), End> {
        let breach = |what: String| Err(End::Protocol(what));
        if frame.kind != Kind::Control {
            return breach(format!("a {:?} frame that belongs to no request", frame.kind));
        }
        match serde_json::from_slice(&frame.payload) {
            Ok(FromAgent::Beat { sequence, .. }) => {
                self.beats += 1;
                let due = self.begun.elapsed().as_millis() / self.every.as_millis().max(1);
                if sequence != self.beats {
                    return breach(format!("heartbeat {sequence} came where {} was due", self.beats));
                }
                if u128::from(self.beats) > due * 2 + u128::from(BEATS_IN_A_RUSH) {
                    return breach(format!("{sequence} heartbeats where {due} were due"));
                }
                Ok(())
            }
            Ok(FromAgent::Hello(_)) => Err(End::Lost("the agent was started anew".into())),
            Ok(_) => breach("a message that belongs to no request".into()),
            Err(e) => breach(format!("a message that cannot be understood: {e}")),
        }
    }
}
