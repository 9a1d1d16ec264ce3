//! One try of a download over HTTP, on a thread of its own.

use super::address::refusal;
use super::{FetchError, Wanted};
use crate::support::wait::Impatience;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// What is there of a download.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes in the file that can be kept.
    bytes: u64,
    /// What the server calls this state of the file; without it nothing can be taken up.
    tag: Option<String>,
}

/// Looks names up, also for redirects, and refuses what the host is not to ask. The connection goes
/// to the very addresses that were looked at.
#[derive(Debug, Default)]
struct Careful {
    private_networks: bool,
    default: DefaultResolver,
}

const REFUSED: &str = "kiln-refused: ";

impl Resolver for Careful {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.default.resolve(uri, config, timeout)?;
        if self.private_networks {
            return Ok(found);
        }
        for address in found.iter() {
            if let Some(what) = refusal(address.ip()) {
                let host = uri.host().unwrap_or("");
                let text = format!(
                    "{REFUSED}{host} is {what} ({}), which the host does not ask for a document",
                    address.ip()
                );
                return Err(ureq::Error::Io(std::io::Error::other(text)));
            }
        }
        Ok(found)
    }
}

/// Receives the rest of a download into the file.
pub fn receive(
    wanted: &Wanted,
    private_networks: bool,
    deadline: Option<Instant>,
    cancel: &CancellationToken,
    file: &mut File,
    progress: &mut Progress,
) -> Result<(), FetchError> {
    let scheme = wanted.source.split("://").next().unwrap_or("");
    if !wanted.source.contains("://") || !matches!(scheme, "http" | "https") {
        return Err(FetchError::Address(format!("`{}` is no http or https address", wanted.source)));
    }
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(wanted.ignore_certificate_errors)
        .build();
    let config = ureq::config::Config::builder()
        .http_status_as_error(false)
        .max_redirects(10)
        .proxy(None)
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .timeout_global(left)
        .tls_config(tls)
        .build();
    let resolver = Careful { private_networks, ..Careful::default() };
    let agent = ureq::Agent::with_parts(config, DefaultConnector::new(), resolver);
    let mut request = agent.get(&wanted.source);
    if let (Some(tag), true) = (&progress.tag, progress.bytes > 0) {
        request = request.header("Range", format!("bytes={}-", progress.bytes)).header("If-Range", tag);
    }
    let mut response = request.call().map_err(error)?;
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let goes_on =
        header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {}-", progress.bytes)));
    match response.status().as_u16() {
        206 if progress.bytes > 0 && goes_on => {}
        200 => {
            // A strong tag only: a weak one may stand for other bytes.
            *progress = Progress { bytes: 0, tag: header("etag").filter(|t| t.starts_with('"')) };
        }
        status => return Err(FetchError::Status(status)),
    }
    file.set_len(progress.bytes)?;
    file.seek(SeekFrom::Start(progress.bytes))?;
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if cancel.is_cancelled() {
            return Err(Impatience::Cancelled { what: "a download".into() }.into());
        }
        let read = body.read(&mut buffer).map_err(|e| FetchError::Connection(e.to_string()))?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read])?;
        progress.bytes += read as u64;
    }
}

fn error(error: ureq::Error) -> FetchError {
    let text = error.to_string();
    if let Some((_, reason)) = text.split_once(REFUSED) {
        return FetchError::Address(reason.to_owned());
    }
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::HostNotFound => {
            FetchError::Address(text)
        }
        // What the certificate says does not change by asking again.
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            FetchError::Address(format!("the server cannot be trusted: {e}"))
        }
        ureq::Error::TooManyRedirects => FetchError::Address("there are more than 10 redirects".into()),
        _ => FetchError::Connection(text),
    }
}
