//! Names of servers to addresses.

use std::net::{Ipv4Addr, Ipv6Addr};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// As this system looks names up, but for `localhost`: that one is loopback without asking anybody
/// (RFC 6761, section 6.3), and mostly means the guest's, whatever this host's /etc/hosts holds.
#[derive(Debug, Default)]
pub struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        if host != "localhost" && !host.ends_with(".localhost") {
            return self.0.resolve(uri, config, timeout);
        }
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let mut found = self.empty();
        found.push((Ipv4Addr::LOCALHOST, port).into());
        found.push((Ipv6Addr::LOCALHOST, port).into());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_loopback_whatever_this_system_says() {
        let found = |address: &str| {
            let all = Names::default()
                .resolve(&address.parse().unwrap(), &Config::default(), NextTimeout::default())
                .unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found("http://localhost:81/x"), ["127.0.0.1:81", "[::1]:81"]);
        // No /etc/hosts has these.
        assert_eq!(found("https://a.LocalHost./"), ["127.0.0.1:443", "[::1]:443"]);
        assert_eq!(found("http://192.0.2.1/"), ["192.0.2.1:80"]);
    }
}
