//! Files of the guest on their way to S3, in parts that are each sent until they have arrived.

use super::{Ask, S3, Talk, Target, answer};
use crate::component::fetch::http::{header, text};
use crate::component::fetch::store::{hexadecimal, sum_of};
use crate::component::fetch::{FetchError, Say, attempts};
use crate::guest::{Guest, GuestError};
use crate::support::wait::Patience;
use kiln_protocol::message::Operation;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a part, unless [`PARTS`] of them would not be enough.
const PART: u64 = 64 << 20;
/// Parts that an upload may have.
const PARTS: u64 = 10_000;

/// Why a file was not uploaded.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("it changed while it was read: it had {told} bytes, of which {found} came")]
    Changed { told: u64, found: u64 },
}

/// A file of the guest.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub guest: &'a dyn Guest,
    pub path: &'a str,
    pub bytes: u64,
}

/// Sends a file. One part of it at a time lies on the host, in `spool`, until the store has it: so disk
/// and memory stay small, and what breaks is sent again.
pub async fn upload(
    s3: Arc<S3>,
    target: Arc<Target>,
    source: Source<'_>,
    spool: File,
    patience: &Patience,
    say: &mut Say<'_>,
) -> Result<(), UploadError> {
    s3.check(&target.object)?;
    let line = Line { s3, target, spool: Arc::new(spool), patience };
    let part = PART.max(source.bytes.div_ceil(PARTS));
    if source.bytes <= part {
        line.put(source, 0..source.bytes, Vec::new(), say).await?;
        return Ok(());
    }
    let id = line
        .talk(say, |talk, _| {
            let ask = Ask { method: "POST", query: &[("uploads", "")], ..Ask::default() };
            answer::upload_id(&text(&mut talk.ask(&ask, None)?)?).map_err(FetchError::Nonsense)
        })
        .await?;
    let sent = line.parts(source, part, &id, say).await;
    if sent.is_err() {
        // What has arrived would be paid for and never be seen. The first error is the one to tell.
        let give_up = move |talk: &mut Talk, _: &File| {
            let ask = Ask { method: "DELETE", query: &[("uploadId", &id)], ..Ask::default() };
            talk.ask(&ask, None).map(drop)
        };
        let _ = line.talk(say, give_up).await;
    }
    sent
}

/// The way of one file to the store.
struct Line<'a> {
    s3: Arc<S3>,
    target: Arc<Target>,
    spool: Arc<File>,
    patience: &'a Patience,
}

impl Line<'_> {
    /// Talks to the store until that succeeds, or cannot.
    async fn talk<T: Send + 'static>(
        &self,
        say: &mut Say<'_>,
        talk: impl Fn(&mut Talk, &File) -> Result<T, FetchError> + Send + Sync + 'static,
    ) -> Result<T, FetchError> {
        let (s3, target, spool) = (self.s3.clone(), self.target.clone(), self.spool.clone());
        attempts("an upload", None, self.patience, say, move |limits| {
            talk(&mut Talk::new(&s3, &target, limits)?, &spool)
        })
        .await
    }

    /// Sends a piece, and returns the tag that the store gives it.
    async fn put(
        &self,
        source: Source<'_>,
        range: Range<u64>,
        query: Vec<(&'static str, String)>,
        say: &mut Say<'_>,
    ) -> Result<String, UploadError> {
        let bytes = range.end - range.start;
        let digest = self.fill(source, range).await?;
        let sent = self.talk(say, move |talk, spool| {
            let query: Vec<(&str, &str)> = query.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let ask = Ask { method: "PUT", query: &query, ..Ask::default() };
            let response = talk.ask(&ask, Some((spool, bytes, &digest)))?;
            Ok(header(&response, "etag").unwrap_or_default())
        });
        Ok(sent.await?)
    }

    async fn parts(
        &self,
        source: Source<'_>,
        part: u64,
        id: &str,
        say: &mut Say<'_>,
    ) -> Result<(), UploadError> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, start) in (1..).zip((0..source.bytes).step_by(part as usize)) {
            let range = start..source.bytes.min(start + part);
            let query = vec![("partNumber", number.to_string()), ("uploadId", id.to_owned())];
            let tag = self.put(source, range, query, say).await?;
            let tag = tag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        list += "</CompleteMultipartUpload>";
        write_all(&self.spool, list.as_bytes()).map_err(FetchError::Disk)?;
        let digest = hexadecimal(&sum_of(&self.spool).map_err(FetchError::Disk)?.0);
        let (id, bytes) = (id.to_owned(), list.len() as u64);
        self.talk(say, move |talk, spool| {
            let ask = Ask { method: "POST", query: &[("uploadId", &id)], ..Ask::default() };
            let mut response = talk.ask(&ask, Some((spool, bytes, &digest)))?;
            // The store begins its answer before it knows how the work ends.
            match answer::error(&text(&mut response)?) {
                Some((code, message)) => Err(FetchError::Store { status: 500, code, message }),
                None => Ok(()),
            }
        })
        .await?;
        Ok(())
    }

    /// Reads a piece of the guest's file into the spool; its digest.
    async fn fill(&self, source: Source<'_>, range: Range<u64>) -> Result<String, UploadError> {
        let told = range.end - range.start;
        write_all(&self.spool, &[]).map_err(FetchError::Disk)?;
        let own = self.spool.try_clone().map_err(FetchError::Disk)?;
        let mut sink = tokio::fs::File::from_std(own);
        let path = source.path.to_owned();
        let operation = Operation::Get { path, offset: range.start, length: Some(told) };
        let found = source.guest.get(operation, told, &mut sink, self.patience).await?;
        if found != told {
            return Err(UploadError::Changed { told: source.bytes, found: range.start + found });
        }
        let spool = self.spool.clone();
        let work = tokio::task::spawn_blocking(move || sum_of(&spool));
        let summed = work.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        Ok(hexadecimal(&summed.map_err(FetchError::Disk)?.0))
    }
}

/// Makes this the whole content of the file.
fn write_all(mut file: &File, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(bytes)
}
