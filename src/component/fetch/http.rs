//! Requests over HTTP, on a thread of their own.

use super::gate::{Gate, refused};
use super::inside::Inside;
use super::names::Names;
use super::store::Part;
use super::{FetchError, Limits};
use crate::support::wait::Impatience;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Body, SendBody, http};

/// Bytes of an answer that is not the file asked for.
const ANSWER: u64 = 4 << 20;

/// Bytes that a download leaves free on the host's disk.
const SPACE: u64 = 512 << 20;
/// They are looked at every 32 MiB.
const SPACE_CHECK: u32 = 25;

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(String, String)>,
}

/// How a server is asked to go on with a file only if it is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoOn {
    /// Otherwise it sends all of the new one.
    IfRange,
    /// Otherwise it refuses.
    IfMatch,
}

/// What came of asking for a file.
pub enum Received {
    /// The part is complete.
    Complete,
    /// The server's file still has the tag that was told.
    Unchanged,
    /// Another status.
    Other(http::Response<Body>),
}

pub struct Client<'a> {
    agent: ureq::Agent,
    limits: &'a Limits,
}

impl Call {
    pub fn get(url: impl Into<String>) -> Call {
        Call { method: "GET", url: url.into(), headers: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Call {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Client<'_> {
    /// `redirects` that are followed.
    pub fn new(gate: Gate, redirects: u32, ignore_certificate_errors: bool, limits: &Limits) -> Client<'_> {
        let left = limits
            .deadline
            .map(|d| d.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(ignore_certificate_errors)
            .build();
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(redirects)
            .max_redirects_will_error(redirects > 0)
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .timeout_per_write(Some(Duration::from_secs(60)))
            .timeout_global(left)
            .tls_config(tls)
            .build();
        let connector = gate.chain(RustlsConnector::default());
        Client { agent: ureq::Agent::with_parts(config, connector, Names::default()), limits }
    }

    /// Sends the call with the first bytes of the file, so many of them.
    pub fn send(&self, call: &Call, body: Option<(&File, u64)>) -> Result<http::Response<Body>, FetchError> {
        let mut request = http::Request::builder().method(call.method).uri(&call.url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let sent = match body {
            // Some stores want to be told of a body that there is none of it.
            None if call.method != "GET" => self.agent.run(
                request.header("content-length", 0).body(SendBody::none()).map_err(|e| error(e.into()))?,
            ),
            None => self.agent.run(request.body(()).map_err(|e| error(e.into()))?),
            Some((mut file, bytes)) => {
                file.seek(SeekFrom::Start(0))?;
                let request = request.header("content-length", bytes);
                let mut reader = Interruptible { inner: file.take(bytes), limits: self.limits };
                let body = SendBody::from_reader(&mut reader);
                self.agent.run(request.body(body).map_err(|e| error(e.into()))?)
            }
        };
        sent.map_err(error)
    }

    /// Receives what a GET names, or what the part lacks of it. `tag` is that of a file that is here.
    pub fn receive(
        &self,
        mut call: Call,
        go_on: GoOn,
        tag: Option<&str>,
        part: &mut Part,
    ) -> Result<Received, FetchError> {
        if let (Some(tag), true) = (&part.tag, part.bytes > 0) {
            let name = if go_on == GoOn::IfRange { "if-range" } else { "if-match" };
            call = call.with("range", format!("bytes={}-", part.bytes)).with(name, tag);
        } else if let Some(tag) = tag {
            call = call.with("if-none-match", tag);
        }
        let mut response = self.send(&call, None)?;
        if self.limits.inside.as_ref().is_some_and(Inside::was_taken) {
            part.keep_apart();
        }
        let header = |name| header(&response, name);
        let goes_on =
            header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {}-", part.bytes)));
        match response.status().as_u16() {
            206 if part.bytes > 0 && goes_on => {}
            // A strong tag only: a weak one may stand for other bytes.
            200 => {
                let told = response.headers().iter();
                let told = told.filter(|(name, _)| name.as_str().starts_with("x-amz-checksum-"));
                let told = told.filter_map(|(n, v)| Some((n.to_string(), v.to_str().ok()?.to_owned())));
                part.begin(header("etag").filter(|t| t.starts_with('"')), told.collect())?;
            }
            304 if tag.is_some() => return Ok(Received::Unchanged),
            412 | 416 if part.bytes > 0 => {
                part.begin(None, Vec::new())?;
                return Err(FetchError::Connection("the file has changed in the meantime".into()));
            }
            _ => return Ok(Received::Other(response)),
        }
        part.file.seek(SeekFrom::Start(part.bytes))?;
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut body = Interruptible { inner: body, limits: self.limits };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = body.read(&mut buffer).map_err(|e| self.broken(e))?;
            if read == 0 {
                return Ok(Received::Complete);
            }
            if part.bytes + read as u64 > part.limit {
                return Err(FetchError::TooLarge { limit: part.limit });
            }
            part.file.write_all(&buffer[..read])?;
            if part.bytes >> SPACE_CHECK != (part.bytes + read as u64) >> SPACE_CHECK {
                check_space(&part.file)?;
            }
            part.bytes += read as u64;
        }
    }

    fn broken(&self, error: std::io::Error) -> FetchError {
        match self.limits.cancel.is_cancelled() {
            true => Impatience::Cancelled { what: "a download".into() }.into(),
            false => FetchError::Connection(error.to_string()),
        }
    }
}

/// A server, or a guest that plays one, may send without end.
fn check_space(file: &File) -> std::io::Result<()> {
    let stat = rustix::fs::fstatvfs(file)?;
    match stat.f_bavail.saturating_mul(stat.f_frsize) < SPACE {
        true => Err(std::io::Error::other(format!("its disk has less than {} MiB left", SPACE >> 20))),
        false => Ok(()),
    }
}

/// A header's value.
pub fn header(response: &http::Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// The text of an answer, not longer than such texts are.
pub fn text(response: &mut http::Response<Body>) -> Result<String, FetchError> {
    let body = response.body_mut().with_config().limit(ANSWER);
    body.read_to_string().map_err(error)
}

/// A stream that ends with an error once the work is called off.
struct Interruptible<'a, R> {
    inner: R,
    limits: &'a Limits,
}

impl<R: Read> Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.limits.cancel.is_cancelled() {
            return Err(std::io::Error::other("called off"));
        }
        self.inner.read(buffer)
    }
}

fn error(error: ureq::Error) -> FetchError {
    if let Some(reason) = refused(&error) {
        return FetchError::Address(reason);
    }
    let text = error.to_string();
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
