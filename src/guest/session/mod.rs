//! The conversation with one agent over one link, for as long as one boot lasts.
//!
//! Two tasks serve the link: one writes frames, one reads and checks them.
//! Neither waits for a caller, so a slow consumer holds up only its own request
//! and credit bounds what is kept for it. Nothing the peer sends is believed: a
//! frame that the protocol does not allow at this point ends the session.

mod handshake;
mod reader;
mod request;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_protocol::frame::{CHUNK, HEADER};
use kiln_protocol::message::{ErrorKind, Exec, Exited, Failed, FromHost, Hello, Operation, Reply, Terminal};
use kiln_protocol::{WINDOW, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Guest, GuestError, Sink};
use crate::support::wait::Patience;
use request::Request;
use table::{End, Event, Shared};

/// Whom to expect at the other end, and how long to believe in it without hearing anything.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The nonce that was handed to the agent for this boot.
    pub nonce: String,
    /// How often the agent is to give a sign of life.
    pub beat: Duration,
    /// A link that is silent for this long is dead.
    pub silence: Duration,
}

impl Expect {
    /// With the ordinary times: a beat every 5 s, dead after 60 s.
    pub fn new(nonce: impl Into<String>) -> Expect {
        Expect { nonce: nonce.into(), beat: Duration::from_secs(5), silence: Duration::from_secs(60) }
    }
}

/// Whom a guest that goes on from a saved memory takes itself for.
#[derive(Clone, Debug)]
pub struct Waking {
    /// The nonce that the agent had when the memory was saved.
    pub nonce: String,
    /// A new /etc/machine-id: None where the image brings its own.
    pub machine_id: Option<String>,
}

/// A guest as reached over one link. Dropping it closes the link.
pub struct Session {
    shared: Arc<Shared>,
    hello: Hello,
    _tasks: DropGuard,
}

/// What a person at a terminal does to a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interaction {
    Input(Vec<u8>),
    EndOfInput,
    Resize(Terminal),
    /// To the whole process group.
    Signal(i32),
}

impl Session {
    /// Waits for the agent's greeting, checks it, and takes the link over.
    ///
    /// # Errors
    /// [`GuestError::Protocol`] when the peer is not the agent that was expected
    /// (another nonce or version, garbage), [`GuestError::Lost`] when the link
    /// ends first, [`GuestError::Impatience`] when nobody comes.
    pub async fn connect<L>(link: L, expect: Expect, patience: &Patience) -> Result<Session, GuestError>
    where
        L: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(link);
        let mut frames = reader::Frames::new(read);
        let hello = patience
            .wait("the guest's agent", handshake::shake_hands(&mut frames, &mut write, &expect))
            .await??;
        Ok(Session::begin(frames, write, hello, expect))
    }

    /// As [`Session::connect`], with the agent of a guest that goes on from a saved memory. Before the
    /// session begins the guest has this host's clock, new randomness and a new identity.
    pub async fn wake<L>(
        link: L,
        waking: &Waking,
        expect: Expect,
        patience: &Patience,
    ) -> Result<Session, GuestError>
    where
        L: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(link);
        let mut frames = reader::Frames::new(read);
        let hello = patience
            .wait("the guest's agent", handshake::wake(&mut frames, &mut write, waking, &expect))
            .await??;
        Ok(Session::begin(frames, write, hello, expect))
    }

    fn begin<L>(
        frames: reader::Frames<ReadHalf<L>>,
        write: WriteHalf<L>,
        hello: Hello,
        expect: Expect,
    ) -> Session
    where
        L: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (outgoing, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(outgoing));
        let stop = CancellationToken::new();
        tokio::spawn({
            let (shared, stop) = (shared.clone(), stop.clone());
            async move { stop.run_until_cancelled(write_frames(write, queue, &shared)).await }
        });
        tokio::spawn({
            let (shared, stop) = (shared.clone(), stop.clone());
            async move { stop.run_until_cancelled(reader::run(frames, &shared, &expect)).await }
        });
        Session { shared, hello, _tasks: stop.drop_guard() }
    }

    /// What the agent said of itself; its texts are checked to be short and printable.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Waits until the session is over, and tells why.
    pub async fn ended(&self) -> GuestError {
        self.shared.over.cancelled().await;
        self.shared.error("waiting for its end")
    }

    /// Ends the session: all that waits for the agent is told this reason.
    pub fn give_up(&self, reason: &str) {
        self.shared.end(End::Lost(reason.to_owned()));
    }

    /// Runs a command that is fed and steered while it runs (`Exec::stdin` or `Exec::terminal`).
    ///
    /// When `input` closes, the command's input ends.
    pub async fn interact(
        &self,
        command: Exec,
        input: mpsc::Receiver<Interaction>,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        let mut request = self.ask(Operation::Exec(command))?;
        let doing = request.doing().to_owned();
        patience.wait(&doing, run_command(&mut request, Some(input), sink)).await?
    }

    fn ask(&self, operation: Operation) -> Result<Request, GuestError> {
        Request::begin(&self.shared, operation)
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut link: W,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: &Shared,
) {
    while let Some(frame) = queue.recv().await {
        if let Err(e) = link.write_all(&frame).await {
            return shared.end(End::Lost(format!("writing to it: {e}")));
        }
    }
}

/// Sees an `Exec` to its end.
async fn run_command(
    request: &mut Request,
    mut interactions: Option<mpsc::Receiver<Interaction>>,
    sink: &mut dyn Sink,
) -> Result<Exited, GuestError> {
    if interactions.is_none() {
        request.end_input();
    }
    let mut window = WINDOW as usize;
    let mut unsent: Vec<u8> = Vec::new();
    loop {
        // What has been typed goes before what is typed next.
        while !unsent.is_empty() && window > HEADER {
            let piece = unsent.len().min(CHUNK).min(window - HEADER);
            request.input(&unsent[..piece]);
            unsent.drain(..piece);
            window -= piece + HEADER;
        }
        let next = async {
            match &mut interactions {
                Some(input) => input.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = request.next() => match event? {
                Event::Output { bytes, error } => {
                    sink.write(&bytes, error);
                    request.consumed(&bytes);
                }
                Event::Credit(bytes) => window += bytes as usize,
                Event::Exited(exited) => return Ok(exited),
                Event::Failed(failed) => return Err(GuestError::Refused(failed)),
                Event::Done(_) | Event::Connected => {
                    unreachable!("the table lets neither through to an Exec")
                }
            },
            interaction = next, if unsent.is_empty() => match interaction {
                Some(Interaction::Input(bytes)) => unsent = bytes,
                Some(Interaction::Resize(size)) => request.say(&FromHost::Resize(size)),
                Some(Interaction::Signal(number)) => request.say(&FromHost::Signal { number }),
                Some(Interaction::EndOfInput) | None => {
                    request.end_input();
                    // What else is steered (size, signals) goes on after the end of input.
                    if interaction.is_none() {
                        interactions = None;
                    }
                }
            },
        }
    }
}

async fn send_input(
    request: &mut Request,
    source: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<u64, GuestError> {
    let mut window = WINDOW as usize;
    let mut buffer = vec![0; CHUNK];
    let (mut sent, mut all_sent) = (0, false);
    loop {
        let room = window.saturating_sub(HEADER).min(CHUNK);
        tokio::select! {
            biased;
            event = request.next() => match event? {
                Event::Credit(bytes) => window += bytes as usize,
                Event::Done(Reply::Written { bytes }) if all_sent && bytes == sent => return Ok(bytes),
                Event::Failed(failed) => return Err(GuestError::Refused(failed)),
                other => return Err(request.unexpected(&format!("{other:?} after {sent} bytes were sent"))),
            },
            read = source.read(&mut buffer[..room]), if !all_sent && room > 0 => match read? {
                0 => {
                    all_sent = true;
                    request.end_input();
                }
                n => {
                    request.input(&buffer[..n]);
                    window -= frame::cost(n) as usize;
                    sent += n as u64;
                }
            },
        }
    }
}

async fn receive_output(
    request: &mut Request,
    limit: u64,
    sink: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<u64, GuestError> {
    let mut received = 0;
    loop {
        match request.next().await? {
            Event::Output { bytes, .. } => {
                received += bytes.len() as u64;
                if received > limit {
                    return Err(GuestError::Refused(Failed {
                        kind: ErrorKind::TooLarge,
                        message: format!("{}: more than the {limit} bytes it may have", request.doing()),
                    }));
                }
                sink.write_all(&bytes).await?;
                request.consumed(&bytes);
            }
            Event::Done(Reply::Sent { bytes }) if bytes == received => {
                sink.flush().await?;
                return Ok(received);
            }
            Event::Failed(failed) => return Err(GuestError::Refused(failed)),
            other => return Err(request.unexpected(&format!("{other:?} after {received} bytes came"))),
        }
    }
}

/// Passes bytes between a stream of ours and a connection in the guest.
async fn pass_on(
    request: &mut Request,
    stream: UnixStream,
    begun: oneshot::Sender<()>,
) -> Result<(), GuestError> {
    let mut begun = Some(begun);
    let mut window = WINDOW as usize;
    let (mut read, mut write) = stream.into_split();
    let mut buffer = vec![0; CHUNK];
    loop {
        let room = if begun.is_some() { 0 } else { window.saturating_sub(HEADER).min(CHUNK) };
        tokio::select! {
            event = request.next() => match event? {
                Event::Connected => {
                    // Nobody waits any more: then the stream is closed, too.
                    let _ = begun.take().map(|b| b.send(()));
                }
                Event::Output { bytes, .. } => {
                    if write.write_all(&bytes).await.is_err() {
                        // Our end has what it wants.
                        return Ok(());
                    }
                    request.consumed(&bytes);
                }
                Event::Credit(bytes) => window += bytes as usize,
                Event::Done(_) => return Ok(()),
                Event::Failed(failed) => return Err(GuestError::Refused(failed)),
                other => return Err(request.unexpected(&format!("{other:?} on a connection"))),
            },
            got = read.read(&mut buffer[..room]), if room > 0 => match got {
                Ok(n) if n > 0 => {
                    request.input(&buffer[..n]);
                    window -= frame::cost(n) as usize;
                }
                // Our end is closed, and with it all of the connection.
                _ => return Ok(()),
            },
        }
    }
}

#[async_trait]
impl Guest for Session {
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        let mut request = self.ask(Operation::Exec(command))?;
        let doing = request.doing().to_owned();
        patience.wait(&doing, run_command(&mut request, None, sink)).await?
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        let mut request = self.ask(operation)?;
        let doing = request.doing().to_owned();
        match patience.wait(&doing, request.next()).await?? {
            Event::Done(reply) => Ok(reply),
            Event::Failed(failed) => Err(GuestError::Refused(failed)),
            other => Err(request.unexpected(&format!("{other:?} instead of a reply"))),
        }
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let mut request = self.ask(operation)?;
        let doing = request.doing().to_owned();
        let sent = patience.wait(&doing, send_input(&mut request, source)).await?;
        if sent.is_err() {
            request.let_go(patience).await;
        }
        sent
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let mut request = self.ask(operation)?;
        let doing = request.doing().to_owned();
        let received = patience.wait(&doing, receive_output(&mut request, limit, sink)).await?;
        if received.is_err() {
            request.let_go(patience).await;
        }
        received
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        let octets = match address.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mut request = self.ask(Operation::Connect { address: octets, port: address.port() })?;
        let doing = request.doing().to_owned();
        patience.wait(&doing, pass_on(&mut request, stream, begun)).await?
    }

    /// A session lasts one boot; who owns the machine brings it back.
    async fn reboot(&self, _patience: &Patience) -> Result<(), GuestError> {
        Err(GuestError::Refused(Failed {
            kind: ErrorKind::Unsupported,
            message: "this guest cannot be rebooted from here".into(),
        }))
    }
}
