//! What a build tells while it runs: one stream, one schema, for every renderer.
//!
//! Renderers (bars, plain lines, NDJSON, the log file) are receivers of the stream. A slow
//! one never holds the build up: it may lose output lines (told so by [`What::OutputLost`]),
//! nothing else.

use crate::model::{ImageStatus, Stage};
use crate::support::clock;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Version of the schema below; fields may be added under the same number.
pub const SCHEMA: u32 = 1;

/// Output lines that may wait for a renderer before more are dropped.
const OUTPUT_BACKLOG: u64 = 4096;

/// One line of `--progress json` and of `events.ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub v: u32,
    /// Counts from 1 within a build, without gaps in the log file.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: i64,
    pub build: String,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    BuildStarted {
        /// `nginx/1.0.0/3`.
        image: String,
        stages: Vec<StageName>,
        /// Steps that the plan has, over all stages.
        steps: u32,
        folder: PathBuf,
    },
    /// The image's status, in the API's spelling.
    Status {
        status: StatusName,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    StageStarted {
        stage: StageName,
    },
    StageEnded {
        stage: StageName,
        ok: bool,
        wall_ms: u64,
        /// CPU time of kiln's children that ended within the stage.
        cpu_ms: u64,
    },
    /// What a stage does now, when that is worth a line.
    Note {
        stage: StageName,
        text: String,
    },
    /// The stage waits for this; repeated while it does, with the time since it began to.
    Waiting {
        stage: StageName,
        text: String,
        since_ms: u64,
    },
    StepStarted {
        stage: StageName,
        component: String,
        phase: String,
        step: String,
        action: String,
        attempt: u32,
        /// Counts from 1 over the build's steps.
        number: u32,
        log: PathBuf,
    },
    /// A line that the step wrote, cut at 4 KiB. Not in the log file: `log` of the step has it.
    StepOutput {
        step: String,
        line: String,
        error: bool,
    },
    StepEnded {
        stage: StageName,
        component: String,
        phase: String,
        step: String,
        outcome: Outcome,
        wall_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// The disk as it is after a component was put aside while the guest ran on.
    Layer {
        component: String,
        /// Length of its file.
        bytes: u64,
        /// Writes were held so long.
        held_ms: u64,
        /// Keeping it took so long in all.
        wall_ms: u64,
    },
    Warning {
        text: String,
    },
    /// Output lines that this receiver did not get.
    OutputLost {
        lines: u64,
    },
    BuildEnded {
        image: String,
        status: StatusName,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        wall_ms: u64,
        cpu_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Succeeded,
    Failed,
    /// Failed, and its document says that this does not matter.
    Ignored,
    Skipped,
    /// The step asked for a reboot and goes on after it.
    Rebooting,
    Cancelled,
}

/// A stage on the wire: its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageName(pub Stage);

/// An image's status on the wire: the API's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusName(pub ImageStatus);

macro_rules! by_name {
    ($name:ident, $inner:ident, $what:literal) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.0.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                let text = String::deserialize(d)?;
                let unknown = || serde::de::Error::custom(format!(concat!("unknown ", $what, " `{}`"), text));
                $inner::parse(&text).map($name).ok_or_else(unknown)
            }
        }
    };
}
by_name!(StageName, Stage, "stage");
by_name!(StatusName, ImageStatus, "status");

/// The sending end. Clones are the same stream.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Mutex<Inner>>,
    build: Arc<str>,
}

struct Inner {
    seq: u64,
    file: Option<File>,
    receivers: Vec<Receiver>,
}

struct Receiver {
    sender: mpsc::UnboundedSender<Event>,
    /// Output lines sent and not yet taken.
    waiting: Arc<AtomicU64>,
    lost: u64,
}

/// A receiving end.
pub struct Subscription {
    receiver: mpsc::UnboundedReceiver<Event>,
    waiting: Arc<AtomicU64>,
}

impl Subscription {
    /// The next event; None when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        if matches!(event.what, What::StepOutput { .. }) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Some(event)
    }
}

impl Events {
    /// `log` receives every event but output lines, one JSON object per line.
    pub fn new(build: &str, log: Option<File>) -> Events {
        let inner = Inner { seq: 0, file: log, receivers: Vec::new() };
        Events { inner: Arc::new(Mutex::new(inner)), build: build.into() }
    }

    /// Receives everything from now on.
    pub fn subscribe(&self) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicU64::new(0));
        self.lock().receivers.push(Receiver { sender, waiting: waiting.clone(), lost: 0 });
        Subscription { receiver, waiting }
    }

    pub fn send(&self, what: What) {
        let output = matches!(what, What::StepOutput { .. });
        let mut inner = self.lock();
        if !output {
            inner.seq += 1;
        }
        let event =
            Event { v: SCHEMA, seq: inner.seq, at: clock::now_ms(), build: self.build.to_string(), what };
        if !output && let Some(file) = &mut inner.file {
            let mut line = serde_json::to_vec(&event).expect("an event is plain data");
            line.push(b'\n');
            // A full disk must not end a build that may still succeed or explain itself.
            let _ = file.write_all(&line);
        }
        inner.receivers.retain_mut(|r| r.offer(&event, output));
    }

    /// Ends the stream: receivers get what is on its way and then None.
    pub fn close(&self) {
        self.lock().receivers.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver {
    /// False when nobody listens any more.
    fn offer(&mut self, event: &Event, output: bool) -> bool {
        if output && self.waiting.load(Ordering::Relaxed) >= OUTPUT_BACKLOG {
            self.lost += 1;
            return true;
        }
        if self.lost > 0 {
            let lines = std::mem::take(&mut self.lost);
            let _ = self.sender.send(Event { what: What::OutputLost { lines }, ..event.clone() });
        }
        if output {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.sender.send(event.clone()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u32) -> What {
        What::StepOutput { step: "Install".into(), line: n.to_string(), error: false }
    }

    #[test]
    fn events_read_back_as_written() {
        let all = [
            What::StageEnded { stage: StageName(Stage::Boot), ok: true, wall_ms: 1, cpu_ms: 2 },
            What::Status { status: StatusName(ImageStatus::Failed), reason: Some("why".into()) },
            line(1),
        ];
        for what in all {
            let event = Event { v: SCHEMA, seq: 1, at: 5, build: "nginx-1.0.0-1".into(), what };
            let text = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        }
        let started = What::StageStarted { stage: StageName(Stage::Seal) };
        let event = Event { v: 1, seq: 2, at: 5, build: "b".into(), what: started };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"v":1,"seq":2,"at":5,"build":"b","type":"stageStarted","stage":"seal"}"#
        );
    }

    #[tokio::test]
    async fn a_slow_receiver_loses_output_lines_only() {
        let file = tempfile::tempfile().unwrap();
        let events = Events::new("b", Some(file.try_clone().unwrap()));
        let mut slow = events.subscribe();
        for n in 0..OUTPUT_BACKLOG as u32 + 10 {
            events.send(line(n));
        }
        events.send(What::Warning { text: "end".into() });
        events.close();
        let mut got = Vec::new();
        while let Some(event) = slow.next().await {
            got.push(event.what);
        }
        assert_eq!(got.len() as u64, OUTPUT_BACKLOG + 2);
        assert_eq!(got[got.len() - 2], What::OutputLost { lines: 10 });
        assert_eq!(got[got.len() - 1], What::Warning { text: "end".into() });

        use std::io::{Read, Seek};
        let mut text = String::new();
        let mut file = file;
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 1, "output lines are in the steps' own logs");
    }
}
