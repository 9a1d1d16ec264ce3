//! The first words: is this the agent that was put into this guest for this boot?

use kiln_protocol::frame::{Frame, Kind};
use kiln_protocol::message::{FromAgent, FromHost, Hello};
use kiln_protocol::{OLDEST, VERSION};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Expect;
use super::reader::Frames;
use super::table::End;
use crate::guest::GuestError;

/// The longest text of a greeting, in bytes.
const TEXT_LIMIT: usize = 128;

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
    let answer = match greeting(&frame, expect) {
        Ok((_, version)) => {
            FromHost::Welcome { version, beat_ms: u32::try_from(expect.beat.as_millis()).unwrap_or(u32::MAX) }
        }
        Err(ref reason) => FromHost::Refused { reason: reason.clone() },
    };
    let payload = serde_json::to_vec(&answer).map_err(|e| GuestError::Local(e.into()))?;
    let sent = link.write_all(&Frame { kind: Kind::Control, id: 0, payload }.encode()).await;
    let (hello, _) = greeting(&frame, expect).map_err(GuestError::Protocol)?;
    sent.map_err(|e| error(End::Lost(e.to_string())))?;
    Ok(hello)
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
