//! What somebody publishes and the host itself wants: pages that are read, and files whose digest is known.
//!
//! No document asks for it, so any network may be asked. A file is gone on with after any break, also by
//! a later kiln, for as long as what comes adds up to its digest.

use super::gate::Gate;
use super::http::{Call, Client, GoOn, Received};
use super::store::{Part, Store};
use super::{ATTEMPTS, DOCUMENT_LIMIT, FetchError, Limits, Say, attempts};
use crate::support::wait::Patience;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a server may say nothing. What it has sent is kept, so asking again costs little.
const SILENCE: Duration = Duration::from_secs(30);
/// A try that brings less than this is one that failed.
const GAIN: u64 = 1 << 20;
/// Larger files are mistakes or attacks.
const LARGEST: u64 = 256 << 30;

/// How far a download is; written by its thread, read by whoever shows it.
#[derive(Debug, Default)]
pub struct Watch {
    bytes: AtomicU64,
    /// 0: the server did not say.
    total: AtomicU64,
}

impl Watch {
    pub(super) fn set(&self, bytes: u64, total: Option<u64>) {
        self.came(bytes);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that are here, and how many there will be.
    pub fn now(&self) -> (u64, Option<u64>) {
        let total = self.total.load(Ordering::Relaxed);
        (self.bytes.load(Ordering::Relaxed), (total > 0).then_some(total))
    }
}

/// All of a small file.
pub async fn page(
    address: &str,
    limit: u64,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<Vec<u8>, FetchError> {
    let call = Call::get(web(address)?);
    let work = move |limits: &Limits| {
        let client = Client::new(Gate::open(), 10, false, limits);
        let mut response = client.send(&call, None)?;
        if response.status().as_u16() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        body.take(limit + 1).read_to_end(&mut bytes).map_err(|e| FetchError::Connection(e.to_string()))?;
        match bytes.len() as u64 > limit {
            true => Err(FetchError::TooLarge { limit }),
            false => Ok(bytes),
        }
    };
    attempts("a small file", None, &patience.at_most(DOCUMENT_LIMIT), say, work).await
}

/// All of a file, as a part that is the caller's. `is_it` tells whether a file is the one that is wanted.
pub async fn file(
    store: &Store,
    address: &str,
    is_it: impl Fn(&File) -> std::io::Result<bool> + Send + Sync + 'static,
    watch: &Arc<Watch>,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<Part, FetchError> {
    const WHAT: &str = "a download";
    let mut part = store.part(web(address)?)?;
    if part.path().is_none() {
        return Err(FetchError::Busy);
    }
    part.limit = LARGEST;
    // It is written anew by the import.
    part.copies = 1;
    watch.set(part.bytes, None);
    let (part, is_it, mut highest) = (Arc::new(Mutex::new(Some(part))), Arc::new(is_it), 0);
    let (mut pause, mut failures) = (Duration::from_secs(1), 0);
    for number in 0.. {
        let limits = Limits {
            deadline: patience.deadline.map(tokio::time::Instant::into_std),
            cancel: patience.cancel.clone(),
            silence: SILENCE,
            inside: None,
            watch: Some(watch.clone()),
        };
        let (address, part, is_it) = (address.to_owned(), part.clone(), is_it.clone());
        let first = number == 0;
        let work = move || attempt(&address, &part, first, &*is_it, &limits);
        let thread = tokio::task::spawn_blocking(work);
        let ended = patience.wait(WHAT, thread).await?.expect("a download does not panic");
        let error = match ended {
            Err(e) if e.passes() => e,
            ended => return ended,
        };
        // Only what is more than there ever was counts, so that this comes to an end.
        let (bytes, _) = watch.now();
        if bytes >= highest + GAIN {
            (failures, pause) = (0, Duration::from_secs(1));
        }
        highest = highest.max(bytes);
        failures += 1;
        if failures == ATTEMPTS {
            return Err(error);
        }
        say(&format!("the download broke off after {} MiB: {error}", bytes >> 20));
        patience.wait(WHAT, tokio::time::sleep(pause)).await?;
        pause *= 2;
    }
    unreachable!("the numbers do not end")
}

fn attempt(
    address: &str,
    part: &Mutex<Option<Part>>,
    first: bool,
    is_it: &dyn Fn(&File) -> std::io::Result<bool>,
    limits: &Limits,
) -> Result<Part, FetchError> {
    let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
    let take = |part: &mut Option<Part>| part.take().expect("it ends with the first that has it");
    let under_way = part.as_mut().expect("it ends with the first that has it");
    // A kiln that died while it imported has left it complete.
    if first && under_way.bytes > 0 && is_it(&under_way.file)? {
        return Ok(take(&mut part));
    }
    let client = Client::new(Gate::open(), 10, false, limits);
    match client.receive(Call::get(address), GoOn::Dated, None, under_way)? {
        Received::Complete if is_it(&under_way.file)? => Ok(take(&mut part)),
        Received::Complete => {
            under_way.begin(None, Vec::new())?;
            Err(FetchError::Other)
        }
        Received::Unchanged => Err(FetchError::Nonsense("it is not changed, which nobody asked".into())),
        Received::Other(response) => Err(FetchError::Status(response.status().as_u16())),
    }
}

fn web(address: &str) -> Result<&str, FetchError> {
    match ["http://", "https://"].iter().any(|s| address.starts_with(s)) {
        true => Ok(address),
        false => Err(FetchError::Address(format!("`{address}` is no http or https address"))),
    }
}
