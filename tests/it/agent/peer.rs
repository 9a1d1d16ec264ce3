//! The session against peers that are not the agent: nothing they send is believed, and little is kept.

use std::time::{Duration, Instant};

use super::{Collect, patience, shell};
use kiln::guest::session::{Expect, Session, Waking};
use kiln::guest::{Guest, GuestError, GuestFiles};
use kiln_protocol::frame::{CHUNK, Decoder, Frame, Kind, header};
use kiln_protocol::message::*;
use kiln_protocol::{VERSION, WINDOW};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// The other end of the link, by hand.
struct Peer {
    link: DuplexStream,
    decoder: Decoder,
}

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: VERSION,
        agent: "0".into(),
        nonce: "right".into(),
        boot_id: "boot".into(),
        architecture: "x86_64".into(),
        mode: Mode::Guest,
    }
}

fn expect() -> Expect {
    Expect { beat: Duration::from_millis(50), silence: Duration::from_millis(400), ..Expect::new("right") }
}

impl Peer {
    async fn say(&mut self, id: u32, message: &FromAgent) {
        let payload = serde_json::to_vec(message).unwrap();
        self.frame(Kind::Control, id, &payload).await;
    }

    async fn frame(&mut self, kind: Kind, id: u32, payload: &[u8]) {
        self.raw(&Frame { kind, id, payload: payload.into() }.encode()).await;
    }

    /// The other side may have hung up already: that is what the tests are about.
    async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.link.write_all(bytes).await;
    }

    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.link.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    async fn hear_message(&mut self) -> Option<(u32, FromHost)> {
        let frame = self.hear().await?;
        assert_eq!(frame.kind, Kind::Control);
        Some((frame.id, serde_json::from_slice(&frame.payload).unwrap()))
    }
}

fn pair() -> (DuplexStream, Peer) {
    let (ours, theirs) = duplex(1 << 20);
    (ours, Peer { link: theirs, decoder: Decoder::default() })
}

/// A session with a peer that greeted rightly.
async fn connected() -> (Session, Peer) {
    let (link, mut peer) = pair();
    let p = patience();
    let (session, ()) = tokio::join!(Session::connect(link, expect(), &p), async {
        peer.say(0, &FromAgent::Hello(hello())).await;
        let (_, welcome) = peer.hear_message().await.unwrap();
        assert_eq!(welcome, FromHost::Welcome { version: VERSION, beat_ms: 50 });
    });
    (session.unwrap(), peer)
}

fn protocol<T: std::fmt::Debug>(result: Result<T, GuestError>) -> String {
    match result {
        Err(GuestError::Protocol(what)) => what,
        other => panic!("expected a breach of the protocol, got {other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_greeting_is_turned_down_with_a_reason() {
    let texts = |f: &dyn Fn(&mut Hello)| {
        let mut hello = hello();
        f(&mut hello);
        FromAgent::Hello(hello)
    };
    let cases = [
        (texts(&|h| h.nonce = "wrong".into()), "another boot"),
        (texts(&|h| (h.oldest, h.newest) = (7, 9)), "speaks versions 7 to 9"),
        (texts(&|h| (h.oldest, h.newest) = (0, 0)), "speaks versions 0 to 0"),
        (texts(&|h| h.boot_id = "b".repeat(500)), "too long or not printable"),
        (texts(&|h| h.agent = "\u{1b}[2J".into()), "too long or not printable"),
        (FromAgent::Beat { sequence: 1, memory_available: 0 }, "did not greet"),
    ];
    for (greeting, reason) in cases {
        let (link, mut peer) = pair();
        let p = patience();
        let (result, heard) = tokio::join!(Session::connect(link, expect(), &p), async {
            peer.say(0, &greeting).await;
            peer.hear_message().await
        });
        let error = protocol(result.map(|_| ()));
        assert!(error.contains(reason), "{error}");
        assert!(matches!(heard, Some((0, FromHost::Refused { .. }))), "{heard:?}");
    }
}

#[tokio::test]
async fn garbage_and_giant_claims_end_the_connection_at_once() {
    let mut giant = header(Kind::Control, 0, 0);
    giant[8..].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&[u8], &str); 4] = [
        (b"\n\nDebian GNU/Linux 12 login: ", "not a frame"),
        (&giant, "claims 4294967295 bytes"),
        (b"K\x09\0\0\0\0\0\0\0\0\0\0", "unknown kind 9"),
        (b"K\x01\0\0\0\0\0\0\x05\0\0\0{}{}{", "cannot be understood"),
    ];
    for (bytes, reason) in cases {
        // As a greeting, and in the middle of a request.
        let (link, mut peer) = pair();
        let p = patience();
        let (result, ()) = tokio::join!(Session::connect(link, expect(), &p), peer.raw(bytes));
        let error = protocol(result.map(|_| ()));
        assert!(error.contains(reason), "{error}");

        let (session, mut peer) = connected().await;
        let (result, ()) = tokio::join!(session.facts(&p), peer.raw(bytes));
        let error = protocol(result);
        assert!(error.contains(reason), "{error}");
        assert!(matches!(session.facts(&p).await, Err(GuestError::Protocol(_))), "it stays over");
    }
}

#[tokio::test]
async fn silence_is_noticed_and_beats_are_enough() {
    let (session, mut peer) = connected().await;
    let p = patience();
    let begun = Instant::now();
    let (result, ()) = tokio::join!(session.facts(&p), async {
        for sequence in 1..=10 {
            peer.say(0, &FromAgent::Beat { sequence, memory_available: 1 }).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    match result {
        Err(GuestError::Lost { doing, reason }) => {
            assert_eq!((doing.as_str(), reason.as_str()), ("ask for facts", "no sign of life for 0.4 s"));
        }
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() > Duration::from_millis(1200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_there_is_a_matter_of_patience_and_a_closed_link_is_not() {
    let (link, peer) = pair();
    let short = patience().at_most(Duration::from_millis(100));
    let result = Session::connect(link, expect(), &short).await.map(|_| ());
    assert!(matches!(result, Err(GuestError::Impatience(_))), "{result:?}");
    drop(peer);
    let (link, mut peer) = pair();
    peer.raw(b"K\x01\0").await;
    drop(peer);
    match Session::connect(link, expect(), &patience()).await.map(|_| ()) {
        Err(GuestError::Lost { reason, .. }) => assert!(reason.contains("middle of a message"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// What a peer may not do with the request it was sent (id 1), and a part of the complaint.
#[tokio::test]
async fn what_does_not_belong_to_a_request_ends_the_session() {
    let started = || FromAgent::Started { pid: 1 };
    let exited = || FromAgent::Exited(Exited { code: Some(0), signal: None, timed_out: false, cpu_ms: 0 });
    let message = |m: FromAgent| (Kind::Control, 1, serde_json::to_vec(&m).unwrap());
    let frame = |kind, id, bytes: &[u8]| (kind, id, bytes.to_vec());
    let (out, err) = (Kind::Output, Kind::ErrorOutput);
    type Sent = Vec<(Kind, u32, Vec<u8>)>;
    let cases: Vec<(Sent, &str)> = vec![
        (vec![frame(out, 2, b"x")], "request 2, which does not exist"),
        (vec![frame(Kind::Input, 1, b"x")], "it sent input"),
        (vec![frame(out, 0, b"x")], "belongs to no request"),
        (vec![message(exited())], "does not belong there"),
        (vec![message(started()), message(started())], "does not belong there"),
        (vec![message(started()), message(exited())], "does not belong there"),
        (vec![message(started()), frame(out, 1, b""), frame(out, 1, b"late")], "not open"),
        (vec![message(started()), frame(err, 1, b""), frame(err, 1, b"")], "not open"),
        (vec![message(FromAgent::Done(Reply::Nothing))], "does not belong there"),
        (vec![message(FromAgent::Credit { bytes: 1 })], "granted more input than it was sent"),
        (vec![message(FromAgent::Beat { sequence: 1, memory_available: 0 })], "does not belong there"),
        (vec![frame(out, 1, &[0; CHUNK]); 9], "more output than it was granted"),
        (vec![frame(out, 1, b"x"); WINDOW as usize / 13 + 1], "more output than it was granted"),
        (vec![frame(Kind::Control, 1, b"[1,2")], "cannot be understood"),
    ];
    for (frames, reason) in cases {
        let (session, mut peer) = connected().await;
        let mut sink = Collect::default();
        let p = patience();
        let flood = async {
            let (id, _) = peer.hear_message().await.unwrap();
            assert_eq!(id, 1);
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, id, payload)| {
                    Frame { kind: *kind, id: *id, payload: payload.clone() }.encode()
                })
                .collect();
            peer.raw(&bytes).await;
        };
        let (result, ()) = tokio::join!(session.exec(shell("true"), &mut sink, &p), flood);
        let error = protocol(result);
        assert!(error.contains(reason), "expected `{reason}` in `{error}`");
    }
}

#[tokio::test]
async fn a_reply_of_another_kind_ends_the_session() {
    for reply in [Reply::Nothing, Reply::Hash("x".into()), Reply::Sent { bytes: 0 }] {
        let (session, mut peer) = connected().await;
        let p = patience();
        let (result, ()) = tokio::join!(session.facts(&p), async {
            let (id, _) = peer.hear_message().await.unwrap();
            peer.say(id, &FromAgent::Done(reply)).await;
        });
        let error = protocol(result);
        assert!(error.starts_with("ask for facts: "), "{error}");
    }
    // A count that is not what came.
    let (session, mut peer) = connected().await;
    let p = patience();
    let (result, ()) = tokio::join!(session.read("/x", 100, &p), async {
        let (id, _) = peer.hear_message().await.unwrap();
        peer.frame(Kind::Output, id, b"abc").await;
        peer.frame(Kind::Output, id, b"").await;
        peer.say(id, &FromAgent::Done(Reply::Sent { bytes: 4 })).await;
    });
    assert!(protocol(result).contains("after 3 bytes came"));
    // More than was asked for, all of it and a failure, less without one.
    let failed = || Some(Failed { kind: ErrorKind::Io, message: "no".repeat(10_000) });
    let item = Packed::Folder { path: "/x".into(), mode: 0o755 };
    let unpack = |items| Unpack { source: None, items: vec![item.clone(); items] };
    for (made, failed) in [(3, None), (2, failed()), (u32::MAX, failed()), (1, None)] {
        let (session, mut peer) = connected().await;
        let (result, ()) = tokio::join!(session.unpack(unpack(2), &p), async {
            let (id, _) = peer.hear_message().await.unwrap();
            peer.say(id, &FromAgent::Done(Reply::Unpacked { made, failed })).await;
        });
        assert!(protocol(result).contains("is no answer to that"));
    }
    let (session, mut peer) = connected().await;
    let (result, ()) = tokio::join!(session.unpack(unpack(2), &p), async {
        let (id, _) = peer.hear_message().await.unwrap();
        peer.say(id, &FromAgent::Done(Reply::Unpacked { made: 1, failed: failed() })).await;
    });
    let (at, failed) = result.unwrap().unwrap();
    assert_eq!((at, failed.message.len()), (1, 4096), "no more is kept of it");
}

#[tokio::test]
async fn an_agent_that_greets_again_is_another_one() {
    let (session, mut peer) = connected().await;
    let p = patience();
    let again = FromAgent::Hello(hello());
    let (result, ()) = tokio::join!(session.facts(&p), peer.say(0, &again));
    assert!(matches!(&result, Err(GuestError::Lost { reason, .. }) if reason.contains("anew")), "{result:?}");
}

#[tokio::test]
async fn a_flood_of_beats_is_a_breach() {
    let (session, mut peer) = connected().await;
    let p = patience();
    let (result, ()) = tokio::join!(session.facts(&p), async {
        for sequence in 1..5000 {
            peer.say(0, &FromAgent::Beat { sequence, memory_available: 1 }).await;
        }
    });
    let error = protocol(result);
    assert!(error.contains("heartbeats where"), "{error}");
}

#[tokio::test]
async fn a_command_that_was_given_up_is_cancelled_and_its_rest_is_swallowed() {
    let (session, mut peer) = connected().await;
    let short = patience().at_most(Duration::from_millis(50));
    let mut sink = Collect::default();
    let result = session.exec(shell("true"), &mut sink, &short).await;
    assert!(matches!(result, Err(GuestError::Impatience(_))));
    let (id, _) = peer.hear_message().await.unwrap();
    let end_of_input = peer.hear().await.unwrap();
    assert_eq!((end_of_input.kind, end_of_input.payload.len()), (Kind::Input, 0));
    assert_eq!(peer.hear_message().await.unwrap(), (id, FromHost::Cancel));
    // The rest of its conversation is still checked, and still belongs to it.
    peer.say(id, &FromAgent::Started { pid: 1 }).await;
    peer.frame(Kind::Output, id, b"late words").await;
    peer.frame(Kind::Output, id, b"").await;
    peer.frame(Kind::ErrorOutput, id, b"").await;
    let exited = Exited { code: None, signal: Some(15), timed_out: false, cpu_ms: 0 };
    peer.say(id, &FromAgent::Exited(exited)).await;
    let p = patience();
    let (facts, ()) = tokio::join!(session.facts(&p), async {
        let (id, _) = peer.hear_message().await.unwrap();
        peer.say(id, &FromAgent::Done(Reply::Facts(Box::default()))).await;
    });
    assert!(facts.is_ok(), "{facts:?}");
}

#[tokio::test]
async fn a_long_refusal_is_cut() {
    let (session, mut peer) = connected().await;
    let p = patience();
    let (result, ()) = tokio::join!(session.stat("/x", true, &p), async {
        let (id, _) = peer.hear_message().await.unwrap();
        let message = "ä".repeat(50_000);
        peer.say(id, &FromAgent::Failed(Failed { kind: ErrorKind::Io, message })).await;
    });
    match result {
        Err(GuestError::Refused(failed)) => assert_eq!(failed.message.len(), 4096),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let (session, _peer) = connected().await;
    let result = session.call(Operation::Space { path: "/".repeat(200_000) }, &patience()).await;
    match result {
        Err(GuestError::Local(e)) => assert!(e.to_string().contains("the limit is 131072"), "{e}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_host_never_sends_more_input_than_its_window() {
    let (session, mut peer) = connected().await;
    let p = patience().at_most(Duration::from_millis(300));
    let put = Put { path: "/x".into(), mode: 0, owner: None, group: None, overwrite: true, parents: false };
    let mut endless = tokio::io::repeat(1);
    // The reader stops at the deadline: the session itself stays.
    let (result, total) = tokio::join!(session.put(put, &mut endless, &p), async {
        let mut total = 0;
        while let Some(frame) = peer.hear().await {
            match frame.kind {
                Kind::Input => total += kiln_protocol::frame::cost(frame.payload.len()),
                _ if total > 0 => break,
                _ => {}
            }
        }
        total
    });
    assert!(matches!(result, Err(GuestError::Impatience(_))), "{result:?}");
    assert!(total <= WINDOW && total > WINDOW - 100, "{total}");
}

/// What a session gets to see that wakes this peer, which greets with these nonces, one after the other.
async fn woken(nonces: &[&str], failed: Option<Failed>) -> (Result<Session, GuestError>, Vec<FromHost>) {
    let (link, mut peer) = pair();
    let waking =
        Waking { nonce: "slept".into(), machine_id: Some("0123456789abcdef0123456789abcdef".into()) };
    let p = patience();
    let (session, heard) = tokio::join!(Session::wake(link, &waking, expect(), &p), async {
        let mut heard = Vec::new();
        for nonce in nonces {
            peer.say(0, &FromAgent::Hello(Hello { nonce: (*nonce).into(), ..hello() })).await;
            heard.extend(peer.hear_message().await.map(|(_, message)| message));
        }
        if let Some(failed) = failed {
            peer.say(0, &FromAgent::Failed(failed)).await;
        }
        heard
    });
    (session, heard)
}

#[tokio::test]
async fn who_wakes_is_renewed_before_anything_else() {
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let before = now();
    let (session, heard) = woken(&["slept", &expect().nonce], None).await;
    assert_eq!(session.unwrap().hello().nonce, expect().nonce);
    let [FromHost::Renew(renew), FromHost::Welcome { version: VERSION, beat_ms: 50 }] = &heard[..] else {
        panic!("{heard:?}");
    };
    assert!((before..=now()).contains(&renew.time_us));
    assert_eq!((renew.entropy.len(), &renew.nonce), (64, &expect().nonce));
    assert_eq!(renew.machine_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
    let (_, again) = woken(&["slept", &expect().nonce], None).await;
    let FromHost::Renew(other) = &again[0] else { panic!("{again:?}") };
    assert_ne!(other.entropy, renew.entropy);
}

#[tokio::test]
async fn who_wakes_as_somebody_else_is_turned_down() {
    // Not the guest of that memory, though the nonce is this start's.
    let (session, heard) = woken(&[&expect().nonce], None).await;
    assert!(protocol(session.map(|_| ())).contains("another boot"), "{heard:?}");
    assert!(matches!(&heard[..], [FromHost::Refused { .. }]), "{heard:?}");
    // One that does not take the new nonce on.
    let (session, heard) = woken(&["slept", "slept"], None).await;
    assert!(protocol(session.map(|_| ())).contains("another boot"), "{heard:?}");
    assert!(matches!(&heard[..], [FromHost::Renew(_), FromHost::Refused { .. }]), "{heard:?}");
    let failed = Failed { kind: ErrorKind::Denied, message: "set the clock: Operation not permitted".into() };
    let (session, _) = woken(&["slept"], Some(failed.clone())).await;
    assert!(matches!(session.map(|_| ()), Err(GuestError::Refused(f)) if f == failed));
}
