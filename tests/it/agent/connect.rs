//! Connections to the guest's own addresses.

use std::net::SocketAddr;

use super::{agent, kind, patience};
use kiln::guest::Guest;
use kiln_protocol::message::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;

/// Sends everything back, and after that says how much it was.
async fn echo(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

#[tokio::test]
async fn bytes_go_both_ways_until_our_end_closes() {
    let guest = agent().await;
    let p = patience();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address = echo(address).await;
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (begun, connected) = oneshot::channel();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let work = async {
            connected.await.unwrap();
            let (mut read, mut write) = ours.split();
            let mut back = vec![0; bytes.len()];
            let (sent, got) = tokio::join!(write.write_all(&bytes), read.read_exact(&mut back));
            sent.unwrap();
            got.unwrap();
            assert!(back == bytes);
            drop(ours);
        };
        let (ended, ()) = tokio::join!(guest.connect(address, theirs, begun, &p), work);
        ended.unwrap();
    }
}

#[tokio::test]
async fn the_other_end_may_close_first() {
    let guest = agent().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"bye").await.unwrap();
    };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (begun, _connected) = oneshot::channel();
    let mut got = Vec::new();
    let p = patience();
    let (ended, (), read) =
        tokio::join!(guest.connect(address, theirs, begun, &p), server, ours.read_to_end(&mut got));
    ended.unwrap();
    read.unwrap();
    assert_eq!(got, b"bye");
}

#[tokio::test]
async fn other_addresses_and_closed_ports_are_refused() {
    let guest = agent().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = free.local_addr().unwrap();
    drop(free);
    for (address, want) in [
        ("192.0.2.1:80".parse().unwrap(), ErrorKind::NotFound),
        ("[2001:db8::1]:80".parse().unwrap(), ErrorKind::NotFound),
        ("169.254.169.254:80".parse().unwrap(), ErrorKind::NotFound),
        (closed, ErrorKind::Io),
    ] {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let (begun, connected) = oneshot::channel();
        assert_eq!(kind(guest.connect(address, theirs, begun, &patience()).await), want, "{address}");
        assert!(connected.await.is_err());
    }
}
