//! Fetching for a guest: the host asks the network, the guest gets a file.
//!
//! What is fetched lies in an unnamed file of the host until all of it is there,
//! so the guest never sees a part, and a connection that breaks is taken up
//! where it broke.

mod address;
mod http;

use crate::support::random;
use crate::support::wait::{Impatience, Patience};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a run may fetch.
#[derive(Clone, Debug)]
pub struct Fetching {
    /// Where downloads lie on the host until the guest has them.
    pub folder: PathBuf,
    /// Also from loopback, link-local and private addresses: the host's own network.
    pub private_networks: bool,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: String,
    pub ignore_certificate_errors: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Address(String),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("cannot keep the download on the host: {0}")]
    Disk(#[from] std::io::Error),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// Tries of one download.
const ATTEMPTS: u32 = 5;

impl FetchError {
    /// Whether another try may help.
    fn passes(&self) -> bool {
        matches!(self, FetchError::Connection(_) | FetchError::Status(408 | 429 | 500..=599))
    }
}

/// A download that is complete: an unnamed file, read from its start.
pub async fn download(
    settings: &Fetching,
    wanted: &Wanted,
    patience: &Patience,
    mut say: impl FnMut(&str) + Send,
) -> Result<File, FetchError> {
    let mut file = unnamed(&settings.folder)?;
    let mut progress = http::Progress::default();
    let mut pause = Duration::from_secs(1);
    for attempt in 1.. {
        let (wanted, private) = (wanted.clone(), settings.private_networks);
        let deadline = patience.deadline.map(tokio::time::Instant::into_std);
        let cancel = patience.cancel.clone();
        let work = move || {
            let result = http::receive(&wanted, private, deadline, &cancel, &mut file, &mut progress);
            (result, file, progress)
        };
        let ended = patience.wait("a download", tokio::task::spawn_blocking(work)).await?;
        let (result, returned, so_far) =
            ended.map_err(|e| FetchError::Connection(format!("the download was given up: {e}")))?;
        (file, progress) = (returned, so_far);
        match result {
            Ok(()) => break,
            Err(e) if attempt < ATTEMPTS && e.passes() => {
                say(&format!("attempt {attempt} of {ATTEMPTS} failed: {e}"));
                patience.wait("the next attempt of a download", tokio::time::sleep(pause)).await?;
                pause *= 2;
            }
            Err(e) => return Err(e),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A file without a name: it goes away with its handle, however kiln ends.
fn unnamed(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("download-{}", random::hexadecimal(8)?));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
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
