//! A command of the guest at this terminal: keys go in, its output comes out, and the terminal is as
//! it was afterwards.

use crate::guest::session::Interaction;
use crate::guest::{GuestError, Interactive, Sink};
use crate::support::wait::Patience;
use kiln_protocol::message::{Exec, Exited, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, IsTerminal, Write};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the reader of keys looks whether it is still wanted.
const LOOK_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Both ends of the terminal are a person's.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The person's shell in the guest, or the command given, as root.
pub fn command(words: &[String]) -> Exec {
    let shell = "command -v bash >/dev/null && exec bash -l; exec sh -l";
    let argv = match words {
        [] => ["/bin/sh", "-c", shell].map(str::to_owned).into(),
        words => words.to_owned(),
    };
    let mut env = vec![("HOME".to_owned(), "/root".to_owned()), ("USER".into(), "root".into())];
    env.extend(
        ["TERM", "LANG", "COLORTERM"].iter().filter_map(|n| Some(((*n).to_owned(), std::env::var(n).ok()?))),
    );
    Exec { argv, env, cwd: Some("/root".into()), stdin: true, ..Exec::default() }
}

/// Runs it at this terminal, or through this process's pipes where there is none.
pub async fn attach(
    guest: &dyn Interactive,
    mut command: Exec,
    patience: &Patience,
) -> Result<Exited, GuestError> {
    let (keys, input) = mpsc::channel(16);
    if !is_interactive() {
        let reading = tokio::spawn(pipe_in(keys));
        let result = guest.interact(command, input, &mut Out, patience).await;
        reading.abort();
        return result;
    }
    let raw = Raw::enter()?;
    command.terminal = Some(size());
    let done = CancellationToken::new();
    let resizing = tokio::spawn(resize(keys.clone()));
    let typing = tokio::task::spawn_blocking({
        let done = done.clone();
        move || type_in(&keys, &done)
    });
    let result = guest.interact(command, input, &mut Out, patience).await;
    done.cancel();
    resizing.abort();
    // Nobody reads the terminal any more once this returns.
    let _ = typing.await;
    drop(raw);
    result
}

/// As a shell tells it: 128 and the signal's number where a signal was the end.
pub fn exit_code(exited: &Exited) -> u8 {
    match (exited.code, exited.signal) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
        (None, None) => 1,
    }
}

struct Out;

impl Sink for Out {
    fn write(&mut self, bytes: &[u8], error: bool) {
        // Nobody reads any more: the command goes on.
        let _ = if error { write(io::stderr(), bytes) } else { write(io::stdout(), bytes) };
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// The terminal hands every key through, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> io::Result<Raw> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

fn size() -> Terminal {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) => Terminal { rows: size.ws_row, columns: size.ws_col },
        Err(_) => Terminal { rows: 24, columns: 80 },
    }
}

/// Keys, until there are no more or `done` says so. Blocks.
fn type_in(keys: &mpsc::Sender<Interaction>, done: &CancellationToken) -> io::Result<()> {
    let (terminal, mut buffer) = (io::stdin(), [0; 4096]);
    while !done.is_cancelled() {
        // Never in a read that nothing could end: that would swallow the next key typed.
        let mut waiting = [PollFd::new(&terminal, PollFlags::IN)];
        if poll(&mut waiting, Some(&LOOK_UP))? == 0 {
            continue;
        }
        let n = rustix::io::read(&terminal, &mut buffer)?;
        let message = match n {
            0 => Interaction::EndOfInput,
            n => Interaction::Input(buffer[..n].to_vec()),
        };
        if keys.blocking_send(message).is_err() || n == 0 {
            break;
        }
    }
    Ok(())
}

async fn resize(keys: mpsc::Sender<Interaction>) -> io::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    while resized.recv().await.is_some() && keys.send(Interaction::Resize(size())).await.is_ok() {}
    Ok(())
}

async fn pipe_in(keys: mpsc::Sender<Interaction>) -> io::Result<()> {
    let (mut input, mut buffer) = (tokio::io::stdin(), vec![0; 1 << 16]);
    loop {
        let n = input.read(&mut buffer).await?;
        if n == 0 || keys.send(Interaction::Input(buffer[..n].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}
