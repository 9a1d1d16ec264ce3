//! QEMU's control channel: commands with answers matched by id, events for whoever listens, and what the
//! events say about the machine's end.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::support::wait::{Impatience, Patience};

/// QEMU's longest answer (its schema) has about 250 KB; a longer line is a sign of something else.
const LINE_LIMIT: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU refused `{command}`: {description}")]
    Refused { command: String, description: String },
    #[error("QEMU closed its control channel before it answered `{command}`")]
    Closed { command: String },
    #[error("QEMU's control channel said what is not QMP: {0}")]
    Protocol(String),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

#[derive(Clone, Debug)]
pub struct Event {
    /// As in QEMU's manual: `SHUTDOWN`, `GUEST_PANICKED` ...
    pub name: String,
    pub data: Value,
}

/// What the events told about how the machine ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// The `reason` of SHUTDOWN: `guest-reset`, `guest-shutdown`, `host-qmp-quit` ...
    pub shutdown: Option<String>,
    pub panicked: bool,
    pub host_disk: Option<HostDisk>,
}

/// An error of the host's disk, at which the machine was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostDisk {
    pub reason: String,
    pub no_space: bool,
}

/// A control channel in command mode. Clones speak over the same channel.
#[derive(Clone, Debug)]
pub struct Qmp {
    commands: mpsc::Sender<Line>,
    shared: Arc<Shared>,
}

/// One command on its way, and the descriptor that goes with it.
struct Line {
    text: Vec<u8>,
    with: Option<OwnedFd>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    next: AtomicU64,
    host_disk: Notify,
    /// Whether somebody in the guest has the agent's port open.
    port_open: watch::Sender<bool>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    ended: bool,
    ending: Ending,
}

#[derive(Deserialize)]
struct Message {
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Description>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Description {
    desc: String,
}

impl Qmp {
    /// Reads the greeting and enters command mode. The task ends when QEMU closes the channel.
    pub async fn connect(stream: UnixStream, patience: &Patience) -> Result<(Qmp, JoinHandle<()>), QmpError> {
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = patience.wait("QEMU's greeting", read_line(&mut reader)).await?;
        match greeting.map_err(|e| QmpError::Protocol(e.to_string()))? {
            Some(line) if line.starts_with(b"{\"QMP\"") => {}
            Some(line) => return Err(QmpError::Protocol(excerpt(&line))),
            None => return Err(QmpError::Closed { command: "greeting".into() }),
        }
        let (commands, orders) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            next: AtomicU64::new(1),
            host_disk: Notify::new(),
            port_open: watch::Sender::new(true),
            events: broadcast::channel(256).0,
        });
        tokio::spawn(write(writer, orders));
        let reading = tokio::spawn(read(reader, shared.clone()));
        let qmp = Qmp { commands, shared };
        qmp.execute("qmp_capabilities", json!({}), patience).await?;
        Ok((qmp, reading))
    }

    /// Runs a command and returns its answer.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Value,
        patience: &Patience,
    ) -> Result<Value, QmpError> {
        self.command(command, arguments, None, patience).await
    }

    /// Hands QEMU a descriptor, to be named as `fd:NAME` in one later command.
    pub(super) async fn hand_over(
        &self,
        name: &str,
        fd: OwnedFd,
        patience: &Patience,
    ) -> Result<(), QmpError> {
        self.command("getfd", json!({"fdname": name}), Some(fd), patience).await?;
        Ok(())
    }

    async fn command(
        &self,
        command: &str,
        arguments: Value,
        with: Option<OwnedFd>,
        patience: &Patience,
    ) -> Result<Value, QmpError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let closed = || QmpError::Closed { command: command.into() };
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if state.ended {
                return Err(closed());
            }
            state.waiting.insert(id, answer);
        }
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string().into_bytes();
        line.push(b'\n');
        // Another task writes, so that a caller who gives up never leaves half a line.
        let talk = async {
            self.commands.send(Line { text: line, with }).await.map_err(|_| ())?;
            answered.await.map_err(|_| ())
        };
        let result = patience.wait(&format!("QEMU's answer to `{command}`"), talk).await;
        self.shared.lock().waiting.remove(&id);
        match result? {
            Err(()) => Err(closed()),
            Ok(Err(description)) => Err(QmpError::Refused { command: command.into(), description }),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Events from now on. A listener that lags behind 256 of them misses some.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Waits for an error of the host's disk that stopped the machine. For one waiter.
    pub(super) async fn host_disk_failed(&self) {
        self.shared.host_disk.notified().await;
    }

    /// Waits until the agent's port, once opened in the guest, is closed there.
    pub(super) async fn port_closed(&self) {
        // The sender lives as long as this reference to it.
        let _ = self.shared.port_open.subscribe().wait_for(|open| !open).await;
    }

    pub(super) fn ending(&self) -> Ending {
        self.shared.lock().ending.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn take(&self, message: Message) {
        if let Some(name) = message.event {
            let mut state = self.lock();
            match name.as_str() {
                "SHUTDOWN" => state.ending.shutdown = message.data["reason"].as_str().map(str::to_owned),
                "GUEST_PANICKED" => state.ending.panicked = true,
                // It is the only port.
                "VSERPORT_CHANGE" => {
                    self.port_open.send_replace(message.data["open"] == true);
                }
                "BLOCK_IO_ERROR" if message.data["action"] == "stop" => {
                    let reason = message.data["reason"].as_str().unwrap_or("unknown error").to_owned();
                    let no_space = message.data["nospace"] == true;
                    state.ending.host_disk.get_or_insert(HostDisk { reason, no_space });
                    self.host_disk.notify_one();
                }
                _ => {}
            }
            drop(state);
            // Nobody listening is no error.
            let _ = self.events.send(Event { name, data: message.data });
        } else if let Some(waiting) = message.id.and_then(|id| self.lock().waiting.remove(&id)) {
            let answer = match message.error {
                Some(error) => Err(error.desc),
                None => Ok(message.returned.unwrap_or(Value::Null)),
            };
            let _ = waiting.send(answer);
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut orders: mpsc::Receiver<Line>) {
    while let Some(Line { text, with }) = orders.recv().await {
        let begun = match with {
            // A descriptor travels with the first byte.
            Some(fd) => send_with(&writer, &text[..1], fd).await.map(|()| 1),
            None => Ok(0),
        };
        match begun {
            Ok(sent) if writer.write_all(&text[sent..]).await.is_ok() => {}
            _ => return,
        }
    }
}

async fn send_with(writer: &OwnedWriteHalf, byte: &[u8], fd: OwnedFd) -> io::Result<()> {
    let stream: &UnixStream = writer.as_ref();
    let send = || {
        let fds = [fd.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(stream, &[IoSlice::new(byte)], &mut control, SendFlags::empty())?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, send).await
}

async fn read(mut reader: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    while let Ok(Some(line)) = read_line(&mut reader).await {
        match serde_json::from_slice(&line) {
            Ok(message) => shared.take(message),
            Err(_) => break,
        }
    }
    let mut state = shared.lock();
    state.ended = true;
    // Dropping the senders tells everyone who waits.
    state.waiting.clear();
}

/// The next line without its end, None at the end of the stream.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let n = reader.take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if n as u64 == LINE_LIMIT => Err(io::Error::other("a line without an end")),
        _ => Ok(None),
    }
}

fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn patience(millis: u64) -> Patience {
        Patience::new(Duration::from_millis(millis), &CancellationToken::new())
    }

    async fn pair() -> (Qmp, BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, mut writer) = theirs.into_split();
        let mut reader = BufReader::new(reader);
        let serve = async {
            writer.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            read_line(&mut reader).await.unwrap();
            writer.write_all(b"{\"return\": {}, \"id\": 1}\n").await.unwrap();
        };
        let p = patience(5000);
        let (qmp, ()) = tokio::join!(Qmp::connect(ours, &p), serve);
        (qmp.unwrap().0, reader, writer)
    }

    #[tokio::test]
    async fn answers_find_their_questions() {
        let (qmp, mut reader, mut writer) = pair().await;
        let mut events = qmp.events();
        let p = patience(5000);
        let serve = async {
            let first = read_line(&mut reader).await.unwrap().unwrap();
            let second = read_line(&mut reader).await.unwrap().unwrap();
            assert!(String::from_utf8_lossy(&first).contains("\"execute\":\"a\""));
            let id = |l: &[u8]| serde_json::from_slice::<Value>(l).unwrap()["id"].as_u64().unwrap();
            let answer = format!(
                "{{\"event\": \"STOP\", \"data\": {{}}}}\n{{\"id\": {}, \"return\": 2}}\n\
                 {{\"id\": {}, \"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}}}\n",
                id(&second),
                id(&first)
            );
            writer.write_all(answer.as_bytes()).await.unwrap();
        };
        let (a, b, ()) =
            tokio::join!(qmp.execute("a", json!({}), &p), qmp.execute("b", json!({}), &p), serve);
        assert!(matches!(a, Err(QmpError::Refused { description, .. }) if description == "no"));
        assert_eq!(b.unwrap(), 2);
        assert_eq!(events.recv().await.unwrap().name, "STOP");
    }

    #[tokio::test]
    async fn an_end_and_a_silence_are_told_apart() {
        let (qmp, _reader, mut writer) = pair().await;
        let late = qmp.execute("slow", json!({}), &patience(20)).await.unwrap_err();
        assert!(matches!(late, QmpError::Impatience(Impatience::TimedOut { .. })), "{late}");
        let shutdown =
            b"{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n";
        writer.write_all(shutdown).await.unwrap();
        drop((writer, _reader));
        let closed = qmp.execute("late", json!({}), &patience(5000)).await.unwrap_err();
        assert!(matches!(closed, QmpError::Closed { .. }), "{closed}");
        assert_eq!(qmp.ending().shutdown.as_deref(), Some("guest-reset"));
    }

    #[tokio::test]
    async fn a_line_without_an_end_ends_the_channel() {
        let (qmp, _reader, mut writer) = pair().await;
        let flood = tokio::spawn(async move { while writer.write_all(&[b'x'; 65536]).await.is_ok() {} });
        let closed = qmp.execute("x", json!({}), &patience(20_000)).await.unwrap_err();
        assert!(matches!(closed, QmpError::Closed { .. }), "{closed}");
        drop(qmp);
        flood.await.unwrap();
    }
}
