//! What an agent may send: frames, messages, and a whole session with requests under way.

#![no_main]

use kiln::guest::session::{Expect, Session};
use kiln::guest::{Guest, Sink};
use kiln::support::wait::Patience;
use kiln_protocol::frame::{Decoder, Frame, Kind};
use kiln_protocol::message::{Exec, FromAgent, FromHost, Hello, Mode, Operation};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

struct Count(usize);

impl Sink for Count {
    fn write(&mut self, bytes: &[u8], _: bool) {
        self.0 += bytes.len();
    }
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        oldest: kiln_protocol::OLDEST,
        newest: kiln_protocol::VERSION,
        agent: "fuzz".into(),
        nonce: "nonce".into(),
        boot_id: "boot".into(),
        architecture: "x86_64".into(),
        mode: Mode::Guest,
    };
    let payload = serde_json::to_vec(&FromAgent::Hello(hello)).unwrap();
    Frame { kind: Kind::Control, id: 0, payload }.encode()
}

/// Whatever the cuts are in which bytes arrive, the same frames come out, and encode to the same bytes.
fn decode(data: &[u8]) {
    let mut whole = Decoder::default();
    whole.feed(data);
    let mut pieces = Decoder::default();
    let mut fed = data.chunks(7);
    loop {
        let frame = whole.next_frame();
        let same = loop {
            match pieces.next_frame() {
                Ok(None) => match fed.next() {
                    Some(piece) => pieces.feed(piece),
                    None => break Ok(None),
                },
                other => break other,
            }
        };
        assert_eq!(frame, same);
        let Ok(Some(frame)) = frame else { return };
        let mut again = Decoder::default();
        again.feed(&frame.encode());
        assert_eq!(again.next_frame(), Ok(Some(frame.clone())));
        if let Ok(message) = serde_json::from_slice::<FromAgent>(&frame.payload) {
            let text = serde_json::to_vec(&message).unwrap();
            assert_eq!(serde_json::from_slice::<FromAgent>(&text).unwrap(), message);
        }
        let _ = serde_json::from_slice::<FromHost>(&frame.payload);
    }
}

async fn converse(data: &[u8]) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut from_host, mut to_host) = tokio::io::split(theirs);
    let patience = Patience::new(Duration::from_secs(60), &CancellationToken::new());
    to_host.write_all(&hello()).await.unwrap();
    let session = Session::connect(ours, Expect::new("nonce"), &patience).await.expect("a right greeting");
    let mut count = Count(0);
    let mut bytes = Vec::new();
    // Their ids are 1 to 4, as the frames of the seeds have them.
    let exec = session.exec(Exec { argv: vec!["x".into()], ..Exec::default() }, &mut count, &patience);
    let get = Operation::Get { path: "/x".into(), offset: 0, length: None };
    let get = session.get(get, 1 << 20, &mut bytes, &patience);
    let list = Operation::List { path: "/".into(), recursive: true, after: None, limit: 10 };
    let list = session.call(list, &patience);
    let append = Operation::Append { path: "/x".into() };
    let mut source: &[u8] = b"input";
    let append = session.send(append, &mut source, &patience);
    let peer = async {
        let mut nowhere = tokio::io::sink();
        let drain = tokio::io::copy(&mut from_host, &mut nowhere);
        let send = async {
            // The host may hang up in the middle.
            let _ = to_host.write_all(data).await;
            let _ = to_host.shutdown().await;
        };
        let _ = tokio::join!(drain, send);
    };
    let requests = async {
        let _ = tokio::join!(exec, get, list, append);
    };
    tokio::select! {
        () = requests => {}
        () = async { peer.await; std::future::pending().await } => {}
    }
    assert!(count.0 <= data.len() && bytes.len() <= data.len());
}

fuzz_target!(|data: &[u8]| {
    decode(data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(converse(data));
});
