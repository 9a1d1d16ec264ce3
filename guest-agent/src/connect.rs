//! A connection to an address of this system's own, passed on byte by byte.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use kiln_protocol::frame::{HEADER, Kind};
use kiln_protocol::message::{ErrorKind, FromAgent, Reply};
use rustix::io::{read, retry_on_intr, write};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, SocketFlags, SocketType, bind, connect,
    shutdown, socket_with,
};

use crate::error::{During, Outcome, failed};
use crate::request::{Cancel, Request};

/// What comes from the other end goes out as output; input goes to it. It is over when the other end
/// closes the connection.
pub fn to(request: &Request, address: &[u8], port: u16) -> Outcome<Reply> {
    let place = |port| place(address, port);
    let (Some(own), Some(there)) = (place(0), place(port)) else {
        return Err(failed(ErrorKind::Invalid, "no internet address"));
    };
    // Only an address of one's own can be bound.
    if socket(&own).and_then(|s| bind(&s, &own)).is_err() {
        return Err(failed(ErrorKind::NotFound, "it is no address of this system"));
    }
    let stream =
        socket(&there).and_then(|s| connect(&s, &there).map(|()| s)).during("connect to port", port)?;
    request.say(&FromAgent::Started { pid: 0 });
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(Some(bytes)) = request.input() {
                if !write_all(&stream, &bytes) {
                    break;
                }
                request.grant(bytes.len());
            }
            let how = if request.cancelled().is_some() { Shutdown::Both } else { Shutdown::Write };
            let _ = shutdown(&stream, how);
        });
        let received = receive(request, &stream);
        // The other thread may still wait for input.
        request.cancel(Cancel::Asked);
        received
    })
}

fn place(address: &[u8], port: u16) -> Option<SocketAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        return Some(SocketAddrV4::new(octets.into(), port).into());
    }
    let octets = <[u8; 16]>::try_from(address).ok()?;
    Some(SocketAddrV6::new(octets.into(), port, 0, 0).into())
}

fn socket(address: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn write_all(stream: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match retry_on_intr(|| write(stream.as_fd(), bytes)) {
            Ok(written) => bytes = &bytes[written..],
            Err(_) => return false,
        }
    }
    true
}

fn receive(request: &Request, stream: &OwnedFd) -> Outcome<Reply> {
    let mut sent = 0;
    let mut buffer = Vec::new();
    loop {
        let room = request.wait_for_room()?;
        buffer.resize(HEADER + room, 0);
        let read =
            retry_on_intr(|| read(stream, &mut buffer[HEADER..])).during("read from", "the connection")?;
        request.check()?;
        request.output(Kind::Output, &mut buffer[..HEADER + read]);
        if read == 0 {
            return Ok(Reply::Sent { bytes: sent });
        }
        sent += read as u64;
    }
}
