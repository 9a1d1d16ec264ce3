//! The first words: is this the agent that was put into this guest for this boot?

use kiln_protocol::frame::{Frame, Kind};
use kiln_protocol::message::{FromAgent, FromHost, Hello, Renew};
use kiln_protocol::{OLDEST, VERSION};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::reader::Frames;
use super::table::End;
use super::{Expect, Waking};
use crate::guest::GuestError;
use crate::support::{clock, random};
use std::io;
use std::time::{Duration, Instant};

/// The longest text of a greeting, in bytes.
const TEXT_LIMIT: usize = 128;

/// Bytes of the host's randomness for a guest that goes on from a saved memory.
const ENTROPY: usize = 64;

/// A renewal that is answered within this has set the clock as well as it has to be.
const PROMPT: Duration = Duration::from_millis(50);

/// How often an agent on a busy host is asked before its clock is taken as it is.
const ROUNDS: u32 = 5;

pub async fn shake_hands<R, W>(
    frames: &mut Frames<R>,
    link: &mut W,
    expect: &Expect,
) -> Result<Hello, GuestError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let frame = frames.next().await.map_err(error)?;
    welcome(&frame, link, expect).await
}

/// As [`shake_hands`], with an agent in a guest that goes on from a saved memory: it greets as it did
/// there, and again when it has become this start's.
pub async fn wake<R, W>(
    frames: &mut Frames<R>,
    link: &mut W,
    waking: &Waking,
    expect: &Expect,
) -> Result<Hello, GuestError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut frame = frames.next().await.map_err(error)?;
    let slept = Expect { nonce: waking.nonce.clone(), ..expect.clone() };
    if let Err(reason) = greeting(&frame, &slept) {
        let _ = say(link, &FromHost::Refused { reason: reason.clone() }).await;
        return Err(GuestError::Protocol(reason));
    }
    // What came back late may have been heard late: then the clock is not what it was set to.
    for round in 0..ROUNDS {
        let entropy = random::bytes(ENTROPY)?;
        let machine_id = waking.machine_id.clone().filter(|_| round == 0);
        let asked = Instant::now();
        let time_us = clock::micros();
        say(link, &FromHost::Renew(Renew { time_us, entropy, nonce: expect.nonce.clone(), machine_id }))
            .await?;
        frame = frames.next().await.map_err(error)?;
        if let Ok(FromAgent::Failed(failed)) = serde_json::from_slice(&frame.payload) {
            return Err(GuestError::Refused(failed));
        }
        if asked.elapsed() <= PROMPT || greeting(&frame, expect).is_err() {
            break;
        }
    }
    welcome(&frame, link, expect).await
}

/// Checks a greeting and answers it.
async fn welcome<W>(frame: &Frame, link: &mut W, expect: &Expect) -> Result<Hello, GuestError>
where
    W: AsyncWrite + Unpin,
{
    let beat_ms = u32::try_from(expect.beat.as_millis()).unwrap_or(u32::MAX);
    match greeting(frame, expect) {
        Ok((hello, version)) => {
            say(link, &FromHost::Welcome { version, beat_ms }).await?;
            Ok(hello)
        }
        Err(reason) => {
            // Why it is turned down counts more than whether it heard so.
            let _ = say(link, &FromHost::Refused { reason: reason.clone() }).await;
            Err(GuestError::Protocol(reason))
        }
    }
}

async fn say<W: AsyncWrite + Unpin>(link: &mut W, message: &FromHost) -> Result<(), GuestError> {
    let payload = serde_json::to_vec(message).map_err(io::Error::from)?;
    let sent = link.write_all(&Frame { kind: Kind::Control, id: 0, payload }.encode()).await;
    sent.map_err(|e| error(End::Lost(e.to_string())))
}

fn error(end: End) -> GuestError {
    match end {
        End::Protocol(what) => GuestError::Protocol(what),
        End::Lost(reason) => GuestError::Lost { doing: "waiting for its greeting".into(), reason },
    }
}

/// The greeting and the version to speak, or why this is not the agent.
fn greeting(frame: &Frame, expect: &Expect) -> Result<(Hello, u16), String> {
    let hello = match serde_json::from_slice(&frame.payload) {
        Ok(FromAgent::Hello(hello)) if frame.kind == Kind::Control && frame.id == 0 => hello,
        Ok(_) => return Err("it did not greet".into()),
        Err(e) => return Err(format!("a greeting that cannot be understood: {e}")),
    };
    for text in [&hello.agent, &hello.nonce, &hello.boot_id, &hello.architecture] {
        if text.len() > TEXT_LIMIT || text.chars().any(char::is_control) {
            return Err("a greeting with a text that is too long or not printable".into());
        }
    }
    if hello.nonce != expect.nonce {
        return Err("the agent was started for another boot (its nonce is not this boot's)".into());
    }
    let version = hello.newest.min(VERSION);
    if version < hello.oldest.max(OLDEST) {
        return Err(format!(
            "agent {} speaks versions {} to {} of the protocol, this kiln {OLDEST} to {VERSION}",
            hello.agent, hello.oldest, hello.newest
        ));
    }
    Ok((hello, version))
}
