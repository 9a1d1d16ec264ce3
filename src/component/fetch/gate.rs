//! Where a connection goes: the one place that all of them pass, redirects and look-ups included.

use super::address::{Network, refusal};
use super::inside::{Inside, Through, Unconnected};
use std::net::{IpAddr, SocketAddr};
use ureq::unversioned::transport::{ConnectionDetails, Connector, Either, TcpConnector};

/// Lets connections to the open network pass, those to addresses of the guest's own through the guest,
/// and those to networks that the settings name. It looks at the very addresses that are then connected
/// to, so that a name which changes gains nothing.
#[derive(Clone, Debug)]
pub struct Gate {
    pub networks: Vec<Network>,
    /// None: nobody is asked for own addresses.
    pub inside: Option<Inside>,
}

/// How the text of an error begins that the gate makes.
const REFUSED: &str = "kiln-refused: ";

impl Gate {
    /// Anywhere: the address comes from the settings.
    pub fn open() -> Gate {
        Gate { networks: Network::ALL.to_vec(), inside: None }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|n| n.holds(address))
    }

    /// A connection in the guest, if the address is one of its own.
    fn through(&self, address: SocketAddr, details: &ConnectionDetails) -> Result<Through, Unconnected> {
        let inside = self.inside.as_ref().ok_or(Unconnected::NotOwn)?;
        inside.connect(address, details.config.input_buffer_size(), details.config.output_buffer_size())
    }
}

impl Connector for Gate {
    type Out = Either<Through, <TcpConnector as Connector>::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let mut failure = None;
        for address in details.addrs.iter() {
            let Some(what) = refusal(address.ip()) else { continue };
            match self.through(*address, details) {
                Ok(through) => return Ok(Some(Either::A(through))),
                Err(Unconnected::NotOwn) if self.allows(address.ip()) => {}
                // Its other address was one of the guest's own, and nobody listened there.
                Err(Unconnected::NotOwn) if failure.is_some() => {}
                Err(Unconnected::NotOwn) => {
                    let host = details.uri.host().unwrap_or("");
                    let text = format!(
                        "{REFUSED}{host} is {what} ({}), which the host does not ask for a document",
                        address.ip()
                    );
                    return Err(ureq::Error::Io(std::io::Error::other(text)));
                }
                // `localhost` has two addresses, and a server mostly one.
                Err(Unconnected::Failed(text)) => failure = Some(text),
            }
        }
        if let Some(text) = failure {
            return Err(ureq::Error::Io(std::io::Error::other(text)));
        }
        let connected = TcpConnector::default().connect(details, chained)?;
        Ok(connected.map(Either::B))
    }
}

/// The gate's own words, in an error that it made.
pub fn refused(error: &ureq::Error) -> Option<String> {
    error.to_string().split_once(REFUSED).map(|(_, reason)| reason.to_owned())
}
