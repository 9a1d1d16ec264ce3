//! Connections to the guest's own addresses, which only the guest has: made by its agent, and passed
//! through to the client on its thread.

use crate::guest::{Guest, GuestError};
use crate::support::wait::Patience;
use kiln_protocol::message::ErrorKind;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as sync;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport};

/// The agent's answer takes a round trip, and a connection to an own address no more.
const ANSWER: Duration = Duration::from_secs(30);

/// The way from the client's thread to the guest.
#[derive(Clone, Debug)]
pub struct Inside {
    asks: mpsc::UnboundedSender<Ask>,
    taken: Arc<AtomicBool>,
}

/// One connection that is wanted.
#[derive(Debug)]
pub struct Ask {
    address: SocketAddr,
    stream: UnixStream,
    answer: sync::Sender<Result<(), Unconnected>>,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unconnected {
    /// The address is another's.
    NotOwn,
    Failed(String),
}

impl Inside {
    pub fn new() -> (Inside, mpsc::UnboundedReceiver<Ask>) {
        let (asks, queue) = mpsc::unbounded_channel();
        (Inside { asks, taken: Arc::default() }, queue)
    }

    /// Whether any connection went to the guest.
    pub fn was_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Connects to an address, if it is the guest's own.
    pub fn connect(&self, address: SocketAddr, input: usize, output: usize) -> Result<Through, Unconnected> {
        let failed = |e: io::Error| Unconnected::Failed(e.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let (answer, answered) = sync::channel();
        let gone = || Unconnected::Failed("the guest is not asked any more".into());
        self.asks.send(Ask { address, stream: theirs, answer }).map_err(|_| gone())?;
        answered.recv_timeout(ANSWER).map_err(|_| gone())??;
        self.taken.store(true, Ordering::Relaxed);
        Ok(Through { stream: ours, buffers: LazyBuffers::new(input, output) })
    }
}

/// Makes the connections that are asked for, one at a time: the client has one. It never ends by itself.
pub async fn serve<T>(guest: &dyn Guest, mut asks: mpsc::UnboundedReceiver<Ask>, patience: &Patience) -> T {
    let mut next = asks.recv().await;
    while let Some(ask) = next {
        let relay = pin!(relay(guest, ask, patience));
        next = tokio::select! {
            // What went on before is over when another is asked for.
            ask = asks.recv() => ask,
            () = relay => asks.recv().await,
        };
    }
    std::future::pending().await
}

async fn relay(guest: &dyn Guest, ask: Ask, patience: &Patience) {
    let Ask { address, stream, answer } = ask;
    let stream = match tokio::net::UnixStream::from_std(stream) {
        Ok(stream) => stream,
        Err(e) => return drop(answer.send(Err(Unconnected::Failed(e.to_string())))),
    };
    let (begun, connected) = oneshot::channel();
    let mut connection = pin!(guest.connect(address, stream, begun, patience));
    tokio::select! {
        biased;
        ended = &mut connection => {
            let why = match ended {
                Err(GuestError::Refused(failed)) if failed.kind == ErrorKind::NotFound => Unconnected::NotOwn,
                Err(error) => Unconnected::Failed(error.to_string()),
                Ok(()) => Unconnected::Failed("the connection was closed at once".into()),
            };
            let _ = answer.send(Err(why));
        }
        _ = connected => {
            let _ = answer.send(Ok(()));
            // How it ends is seen at the other end of the stream.
            let _ = connection.await;
        }
    }
}

/// A connection in the guest, as the client uses it.
pub struct Through {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Through")
    }
}

fn in_time<T>(result: io::Result<T>, timeout: &NextTimeout) -> Result<T, ureq::Error> {
    result.map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(e),
    })
}

impl Transport for Through {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(timeout.not_zero().map(|t| *t))?;
        let output = &self.buffers.output()[..amount];
        in_time(self.stream.write_all(output), &timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.stream.set_read_timeout(timeout.not_zero().map(|t| *t))?;
        let read = in_time(self.stream.read(self.buffers.input_append_buf()), &timeout)?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// It serves one request.
    fn is_open(&mut self) -> bool {
        false
    }
}
