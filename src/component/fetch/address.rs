//! Which addresses the host asks for a document.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses, such as `10.20.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network: write an address and its bits, such as 10.20.0.0/16")]
pub struct NoNetwork(String);

impl Network {
    /// Every address there is.
    pub const ALL: [Network; 2] = [
        Network { first: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bits: 0 },
        Network { first: IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits: 0 },
    ];

    pub fn holds(&self, address: IpAddr) -> bool {
        let same = |one: u128, other: u128, width: u32| {
            (one ^ other).checked_shr(width - u32::from(self.bits)).unwrap_or(0) == 0
        };
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Network, NoNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let first: IpAddr = address.parse().map_err(|_| NoNetwork(text.into()))?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|b| *b <= width),
            None => Some(width),
        };
        Ok(Network { first, bits: bits.ok_or_else(|| NoNetwork(text.into()))? })
    }
}

/// Why an address is not asked, or None for one of the open network.
pub fn refusal(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) => refusal_v4(v4),
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            if v6.is_loopback() || v6.is_unspecified() {
                Some("a loopback address")
            } else if first & 0xffc0 == 0xfe80 {
                Some("a link-local address")
            } else if first & 0xfe00 == 0xfc00 {
                Some("a private address")
            } else if v6.is_multicast() {
                Some("a multicast address")
            } else if first == 0x2002 || (first == 0x64 && v6.segments()[1] == 0xff9b) {
                // 6to4 and NAT64 carry an IPv4 address, which may be any of the above.
                Some("an address that stands for another one")
            } else {
                None
            }
        }
    }
}

fn refusal_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, ..] = v4.octets();
    if v4.is_loopback() || a == 0 {
        Some("a loopback address")
    } else if v4.is_link_local() {
        Some("a link-local address, where instance metadata lives")
    } else if v4.is_private() || (a == 100 && (64..128).contains(&b)) {
        Some("a private address")
    } else if v4.is_multicast() || v4.is_broadcast() || a >= 240 {
        Some("no address of a server")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, refusal};

    #[test]
    fn networks_hold_what_begins_as_they_do() {
        for (network, inside, outside) in [
            ("10.20.0.0/16", "10.20.255.1", "10.21.0.1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.holds(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.holds(outside.parse().unwrap()), "{network:?} {outside}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "localhost"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_open_network_is_asked() {
        for closed in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(refusal(closed.parse().unwrap()).is_some(), "{closed}");
        }
        for open in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(refusal(open.parse().unwrap()), None, "{open}");
        }
    }
}
