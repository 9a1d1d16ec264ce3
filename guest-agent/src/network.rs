//! The appliance's network. By ioctl(2): it has no tools, and netlink would be more code.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kiln_protocol::message::{Address, ErrorKind, Reply};

use crate::error::{During, Outcome, failed};

/// Brings an interface up, with an address and a default route where one is given.
pub fn bring_up(interface: &str, address: Option<Address>) -> Outcome<Reply> {
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(failed(ErrorKind::Invalid, format!("`{interface}` is no name of an interface")));
    }
    let card = Card { socket: socket()?, name: interface };
    if let Some(Address { address, mask, .. }) = address {
        card.set(libc::SIOCSIFADDR, |r| r.ifr_ifru.ifru_addr = internet(address))?;
        card.set(libc::SIOCSIFNETMASK, |r| r.ifr_ifru.ifru_netmask = internet(mask))?;
    }
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    card.set(libc::SIOCSIFFLAGS, |r| r.ifr_ifru.ifru_flags = up)?;
    if let Some(Address { gateway, .. }) = address {
        // SAFETY: an all-zero rtentry is a valid one.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = internet(0);
        route.rt_genmask = internet(0);
        route.rt_gateway = internet(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: this ioctl reads one structure of this type.
        card.told(unsafe { libc::ioctl(card.socket.as_raw_fd(), libc::SIOCADDRT as _, &route) })?;
    }
    Ok(Reply::Nothing)
}

struct Card<'a> {
    /// Any socket of the family will do.
    socket: OwnedFd,
    name: &'a str,
}

impl Card<'_> {
    fn set(&self, what: libc::c_ulong, fill: impl FnOnce(&mut libc::ifreq)) -> Outcome<()> {
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        fill(&mut request);
        // SAFETY: these ioctls read one structure of this type.
        self.told(unsafe { libc::ioctl(self.socket.as_raw_fd(), what as _, &request) })
    }

    fn told(&self, result: libc::c_int) -> Outcome<()> {
        let result = if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        result.during("bring up", self.name)
    }
}

fn socket() -> Outcome<OwnedFd> {
    // SAFETY: socket(2) touches no memory; what it returns is ours alone.
    unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            -1 => Err(std::io::Error::last_os_error()).during("open", "a socket"),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// A sockaddr that is a sockaddr_in: family, port, address in the network's order.
fn internet(address: u32) -> libc::sockaddr {
    // SAFETY: an all-zero sockaddr is a valid one.
    let mut socket: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in socket.sa_data[2..6].iter_mut().zip(address.to_be_bytes()) {
        *to = from as libc::c_char;
    }
    socket
}
