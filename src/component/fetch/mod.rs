//! Fetching for a guest: the host asks the network, the guest gets a file.
//!
//! What is fetched lies on the host until all of it is there, so the guest never
//! sees a part, and a connection that breaks is taken up where it broke. What is
//! complete is kept by its digest, for the next one who wants it.

mod address;
mod gate;
mod http;
mod inside;
mod names;
mod published;
pub mod s3;
mod store;

pub use address::{Network, NoNetwork};
pub use published::{Watch, file, page};
pub use store::{Kept, Part, Store, hexadecimal};

use crate::guest::Guest;
use crate::support::wait::{Impatience, Patience};
use gate::Gate;
use http::{Call, Client, GoOn};
use inside::Inside;
use s3::{S3, Target};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How a run may fetch.
#[derive(Clone, Debug)]
pub struct Fetching {
    pub store: Store,
    /// Of the host's own networks (loopback, link-local, private), those that may be asked.
    pub networks: Vec<Network>,
    /// None: no bucket may be used.
    pub s3: Option<Arc<S3>>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wanted {
    Web {
        source: String,
        ignore_certificate_errors: bool,
    },
    Object(Target),
    /// An object that is a document or a settings file.
    Document(Target),
}

/// Bytes of a document.
pub const DOCUMENT: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Address(String),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("{}", store_refusal(*.status, .code, .message))]
    Store { status: u16, code: String, message: String },
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("what the server sent is not the file that was asked for: its digest is another one")]
    Other,
    #[error("another kiln is downloading it")]
    Busy,
    #[error("cannot keep the data on the host: {0}")]
    Disk(#[from] std::io::Error),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// Takes lines for the step's log.
pub type Say<'a> = dyn FnMut(&str) + Send + 'a;

/// From asking for a document of the host's own to having it.
const DOCUMENT_LIMIT: Duration = Duration::from_secs(300);

/// How long a server may say nothing to a document.
const SILENCE: Duration = Duration::from_secs(60);

/// Tries of one request.
const ATTEMPTS: u32 = 5;

/// What bounds the work on a thread.
pub struct Limits {
    deadline: Option<Instant>,
    cancel: CancellationToken,
    /// How long a server may say nothing.
    silence: Duration,
    /// The way to addresses of the guest's own.
    inside: Option<Inside>,
    /// Told how far a download is.
    watch: Option<Arc<Watch>>,
}

/// What came of asking for a file.
enum Received {
    Complete,
    Unchanged,
}

impl FetchError {
    /// Whether another try may help.
    fn passes(&self) -> bool {
        match self {
            FetchError::Connection(_) => true,
            FetchError::Status(status) | FetchError::Store { status, .. } => {
                matches!(status, 408 | 429 | 500..=599)
            }
            _ => false,
        }
    }
}

fn store_refusal(status: u16, code: &str, message: &str) -> String {
    match (code, message) {
        ("", _) => format!("the store answered with status {status}"),
        (code, "") => format!("the store answered {code} ({status})"),
        (code, message) => format!("the store answered {code} ({status}): {message}"),
    }
}

/// Tries until it succeeds, fails for good, or the tries are used up. The work is done on a thread.
async fn attempts<T: Send + 'static>(
    what: &str,
    guest: Option<&dyn Guest>,
    patience: &Patience,
    say: &mut Say<'_>,
    work: impl Fn(&Limits) -> Result<T, FetchError> + Send + Sync + 'static,
) -> Result<T, FetchError> {
    let work = Arc::new(work);
    let mut pause = Duration::from_secs(1);
    let mut attempt = 1;
    loop {
        let deadline = patience.deadline.map(tokio::time::Instant::into_std);
        let (inside, asks) = Inside::new();
        let inside = guest.map(|_| inside);
        let limits =
            Limits { deadline, cancel: patience.cancel.clone(), silence: SILENCE, inside, watch: None };
        let work = work.clone();
        let thread = tokio::task::spawn_blocking(move || work(&limits));
        let ended = async {
            match guest {
                Some(guest) => tokio::select! {
                    ended = thread => ended,
                    never = inside::serve(guest, asks, patience) => never,
                },
                None => thread.await,
            }
        };
        let ended = patience.wait(what, ended).await?;
        match ended.unwrap_or_else(|e| Err(FetchError::Connection(format!("{what} was given up: {e}")))) {
            Err(e) if attempt < ATTEMPTS && e.passes() => {
                say(&format!("attempt {attempt} of {ATTEMPTS} failed: {e}"));
                patience.wait(what, tokio::time::sleep(pause)).await?;
                pause *= 2;
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

/// A file that is complete, from the store where it is known to be the one that the server has.
pub async fn download(
    fetching: &Fetching,
    wanted: Wanted,
    guest: &dyn Guest,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<Kept, FetchError> {
    // A store of objects is where the settings say, never in the guest.
    let guest = matches!(wanted, Wanted::Web { .. }).then_some(guest);
    complete(fetching, wanted, guest, patience, say).await
}

/// A document that the host itself reads.
pub async fn document(
    fetching: &Fetching,
    target: Target,
    patience: &Patience,
) -> Result<Vec<u8>, FetchError> {
    let patience = patience.at_most(DOCUMENT_LIMIT);
    Ok(complete(fetching, Wanted::Document(target), None, &patience, &mut |_| ()).await?.read()?)
}

async fn complete(
    fetching: &Fetching,
    wanted: Wanted,
    guest: Option<&dyn Guest>,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<Kept, FetchError> {
    let (fetching, part) = (fetching.clone(), Mutex::new(None));
    let name = wanted.name(&fetching)?;
    let work = move |limits: &Limits| {
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if part.is_none() {
            let mut begun = fetching.store.part(&name)?;
            begun.limit = wanted.limit();
            *part = Some(begun);
        }
        let known = fetching.store.find(&name);
        let tag = known.as_ref().and_then(|k| k.tag.as_deref());
        let under_way = part.as_mut().expect("opened above");
        let kept = match (wanted.receive(&fetching, tag, under_way, limits)?, known) {
            (Received::Unchanged, Some(known)) => known,
            _ => fetching.store.keep(part.take().expect("opened above"), &name)?,
        };
        // What is known may have been fetched as something that may be larger.
        match kept.bytes > wanted.limit() {
            true => Err(FetchError::TooLarge { limit: wanted.limit() }),
            false => Ok(kept),
        }
    };
    attempts("a download", guest, patience, say, work).await
}

/// The objects below a prefix.
pub async fn list(
    s3: Arc<S3>,
    target: Target,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<Vec<s3::Listed>, FetchError> {
    attempts("a list of objects", None, patience, say, move |limits| s3::list(&s3, &target, limits)).await
}

impl Fetching {
    /// # Errors
    /// The settings allow no bucket at all.
    pub fn s3(&self) -> Result<&Arc<S3>, FetchError> {
        self.s3.as_ref().ok_or_else(|| {
            FetchError::Address(
                "documents may not use S3 here: name the buckets that they may use in settings.yaml in kiln's home folder, as documents: {s3: {buckets: [NAME]}}".into(),
            )
        })
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Web { source, .. } => f.write_str(source),
            Wanted::Object(target) | Wanted::Document(target) => target.object.fmt(f),
        }
    }
}

impl Wanted {
    /// Bytes beyond which nothing more is taken.
    fn limit(&self) -> u64 {
        match self {
            Wanted::Document(_) => DOCUMENT,
            Wanted::Web { .. } | Wanted::Object(_) => u64::MAX,
        }
    }

    /// What the store knows it by.
    fn name(&self, fetching: &Fetching) -> Result<String, FetchError> {
        Ok(match self {
            // What came without a look at the certificate must not pass for what came with one.
            Wanted::Web { source, ignore_certificate_errors: true } => format!("unchecked {source}"),
            Wanted::Web { source, .. } => source.clone(),
            Wanted::Object(target) | Wanted::Document(target) => {
                let endpoint = fetching.s3()?.endpoint.as_deref().unwrap_or("aws");
                format!("{endpoint} {}", target.object)
            }
        })
    }

    fn receive(
        &self,
        fetching: &Fetching,
        tag: Option<&str>,
        part: &mut Part,
        limits: &Limits,
    ) -> Result<Received, FetchError> {
        match self {
            Wanted::Object(target) | Wanted::Document(target) => {
                s3::receive(fetching.s3()?, target, tag, part, limits)
            }
            Wanted::Web { source, ignore_certificate_errors } => {
                if !["http://", "https://"].iter().any(|s| source.starts_with(s)) {
                    return Err(FetchError::Address(format!("`{source}` is no http or https address")));
                }
                let gate = Gate { networks: fetching.networks.clone(), inside: limits.inside.clone() };
                let client = Client::new(gate, 10, *ignore_certificate_errors, limits);
                match client.receive(Call::get(source), GoOn::IfRange, tag, part)? {
                    http::Received::Complete => Ok(Received::Complete),
                    http::Received::Unchanged => Ok(Received::Unchanged),
                    http::Received::Other(response) => Err(FetchError::Status(response.status().as_u16())),
                }
            }
        }
    }
}

/// The file name that an address ends with.
pub fn file_name(source: &str) -> Option<String> {
    let path = source.split(['?', '#']).next()?.split_once("://")?.1.split_once('/')?.1;
    let name = percent_decoded(path.rsplit('/').next()?);
    let sound = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    sound.then_some(name)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let hex = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_come_from_the_end_of_the_path() {
        for (source, want) in [
            ("https://x.test/a/b.tgz?token=1#top", Some("b.tgz")),
            ("http://x.test/a%20b", Some("a b")),
            ("http://x.test/100%", Some("100%")),
            ("http://x.test/a%2Fb", None),
            ("http://x.test/..", None),
            ("http://x.test/", None),
            ("http://x.test", None),
        ] {
            assert_eq!(file_name(source).as_deref(), want, "{source}");
        }
    }
}
