//! Where a connection goes: the one place that all of them pass, redirects and look-ups included.

use super::address::{Network, refusal};
use std::net::IpAddr;
use ureq::unversioned::transport::{ConnectionDetails, Connector, TcpConnector};

/// Lets connections to the open network pass, and those to networks that the settings name. It looks
/// at the very addresses that are then connected to, so that a name which changes gains nothing.
#[derive(Clone, Debug)]
pub struct Gate {
    pub networks: Vec<Network>,
}

/// How the text of an error begins that the gate makes.
const REFUSED: &str = "kiln-refused: ";

impl Gate {
    /// Anywhere: the address comes from the settings.
    pub fn open() -> Gate {
        Gate { networks: Network::ALL.to_vec() }
    }

    fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        refusal(address).filter(|_| !self.networks.iter().any(|n| n.holds(address)))
    }
}

impl Connector for Gate {
    type Out = <TcpConnector as Connector>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        for address in details.addrs.iter() {
            if let Some(what) = self.refusal(address.ip()) {
                let host = details.uri.host().unwrap_or("");
                let text = format!(
                    "{REFUSED}{host} is {what} ({}), which the host does not ask for a document",
                    address.ip()
                );
                return Err(ureq::Error::Io(std::io::Error::other(text)));
            }
        }
        TcpConnector::default().connect(details, chained)
    }
}

/// The gate's own words, in an error that it made.
pub fn refused(error: &ureq::Error) -> Option<String> {
    error.to_string().split_once(REFUSED).map(|(_, reason)| reason.to_owned())
}
