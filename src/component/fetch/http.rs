//! Requests over HTTP, on a thread of their own.

use super::gate::{Gate, refused};
use super::inside::Inside;
use super::names::Names;
use super::store::Part;
use super::{FetchError, Limits, Watch};
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

/// A watched download that brings less than so many bytes a second, for so long, is no connection.
const SLOW: u64 = 1 << 10;
const SLOW_FOR: Duration = Duration::from_secs(30);

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
    /// As IfRange, by the file's date where the server gives no tag. The digest of what comes is known.
    Dated,
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
            .timeout_recv_response(Some(limits.silence))
            .timeout_per_read(Some(limits.silence))
            .timeout_per_write(Some(limits.silence))
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
            let name = if go_on == GoOn::IfMatch { "if-match" } else { "if-range" };
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
                let tag = header("etag").filter(|t| t.starts_with('"'));
                let date = || header("last-modified").filter(|_| go_on == GoOn::Dated);
                let (tag, told) = (tag.or_else(date), told.collect());
                part.begin(tag, told)?;
            }
            304 if tag.is_some() => return Ok(Received::Unchanged),
            412 | 416 if part.bytes > 0 => {
                part.begin(None, Vec::new())?;
                return Err(FetchError::Connection("the file has changed in the meantime".into()));
            }
            _ => return Ok(Received::Other(response)),
        }
        let rest = header("content-length").and_then(|l| l.parse::<u64>().ok());
        if let Some(total) = rest.map(|rest| rest.saturating_add(part.bytes)) {
            if total > part.limit {
                return Err(FetchError::TooLarge { limit: part.limit });
            }
            check_room(part, total)?;
        }
        let mut speed = self.limits.watch.as_ref().map(|watch| Speed::new(watch, part.bytes, rest));
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
            if let Some(speed) = &mut speed {
                speed.came(part.bytes)?;
            }
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

/// Whether there is room for all that the server says will come; it may also say nothing, or lie.
fn check_room(part: &Part, total: u64) -> std::io::Result<()> {
    let stat = rustix::fs::fstatvfs(&part.file)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = (total - part.bytes).saturating_add(part.also(total)).saturating_add(SPACE);
    if free < needed {
        let (needed, free) = (needed >> 20, free >> 20);
        return Err(std::io::Error::other(format!("{needed} MiB are needed there and {free} MiB are free")));
    }
    Ok(())
}

/// Tells a watcher how far a download is, and gives up on a server that only keeps the connection open.
struct Speed<'a> {
    watch: &'a Watch,
    since: Instant,
    then: u64,
}

impl Speed<'_> {
    fn new(watch: &Watch, bytes: u64, rest: Option<u64>) -> Speed<'_> {
        watch.set(bytes, rest.map(|rest| rest.saturating_add(bytes)));
        Speed { watch, since: Instant::now(), then: bytes }
    }

    fn came(&mut self, bytes: u64) -> Result<(), FetchError> {
        self.watch.came(bytes);
        let (passed, came) = (self.since.elapsed(), bytes - self.then);
        if passed < SLOW_FOR {
            return Ok(());
        }
        if came < SLOW * passed.as_secs() {
            let text = format!("only {came} bytes came in {} s", passed.as_secs());
            return Err(FetchError::Connection(text));
        }
        (self.since, self.then) = (Instant::now(), bytes);
        Ok(())
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
