//! What an action has in its hands: the guest, the attempt's patience, the log.

use crate::guest::{Guest, GuestError, Sink};
use crate::support::wait::{Impatience, Patience};
use kiln_protocol::message::{Entry, EntryKind, ErrorKind, Exec, Exited, Operation, Put, Reply};
use std::time::Duration;

use super::Options;
use super::log::StepLog;
use crate::component::fetch::s3::{self, Listed, Target, UploadError};
use crate::component::fetch::{self, FetchError, Fetching, Kept, Wanted};

/// Bytes of standard output, or of a file, that can be chained. The log gets everything.
pub const CAPTURE: usize = 1 << 20;

/// One value of a step's outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Output {
    pub text: String,
    /// There was more than [`CAPTURE`]; chaining it is an error.
    pub truncated: bool,
}

/// Names and values, in the order of the action's table.
pub type Outputs = Vec<(String, Output)>;

/// What an action did.
#[derive(Debug, Default)]
pub struct Done {
    /// One per item.
    pub outputs: Vec<Outputs>,
    pub reboot: Option<RebootWish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebootWish {
    pub delay: Duration,
    /// The step is run again afterwards; otherwise it is done.
    pub again: bool,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{message}")]
    Failed { message: String, exit_code: Option<i32>, outputs: Vec<Outputs> },
    #[error("it did not end within its time")]
    TimedOut,
    /// The run cannot go on: the guest is lost, or the run was called off.
    #[error(transparent)]
    Fatal(GuestError),
}

pub struct Context<'a> {
    guest: &'a dyn Guest,
    patience: &'a Patience,
    environment: Vec<(String, String)>,
    working_directory: &'a str,
    fetching: Option<&'a Fetching>,
    log: StepLog<'a>,
}

impl Output {
    /// The text, cut at [`CAPTURE`] bytes.
    pub fn bounded(mut text: String) -> Output {
        let truncated = text.len() > CAPTURE;
        if truncated {
            let mut end = CAPTURE;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        Output { text, truncated }
    }
}

impl Done {
    pub fn with(outputs: Vec<Outputs>) -> Done {
        Done { outputs, reboot: None }
    }

    pub fn reboot_then_next(delay: Duration) -> Done {
        Done { outputs: Vec::new(), reboot: Some(RebootWish { delay, again: false }) }
    }

    pub fn reboot_then_again() -> Done {
        Done { outputs: Vec::new(), reboot: Some(RebootWish { delay: Duration::ZERO, again: true }) }
    }
}

impl StepError {
    pub fn failed(message: impl Into<String>) -> StepError {
        StepError::Failed { message: message.into(), exit_code: None, outputs: Vec::new() }
    }
}

impl From<GuestError> for StepError {
    fn from(error: GuestError) -> StepError {
        match error {
            GuestError::Refused(failed) => StepError::failed(failed.message),
            GuestError::Impatience(Impatience::TimedOut { .. }) => StepError::TimedOut,
            other => StepError::Fatal(other),
        }
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(
        guest: &'a dyn Guest,
        patience: &'a Patience,
        environment: Vec<(String, String)>,
        options: &'a Options,
        log: StepLog<'a>,
    ) -> Context<'a> {
        let working_directory = &options.working_directory;
        Context { guest, patience, environment, working_directory, fetching: options.fetching.as_ref(), log }
    }

    /// The last lines of the step, oldest first.
    pub(super) fn last_lines(&mut self) -> Vec<String> {
        self.log.last_lines()
    }

    /// A path of the document as a path of the guest; a relative one counts from the working directory.
    pub fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else if path.is_empty() {
            // What trimming has left of "/".
            "/".to_owned()
        } else {
            let relative = path.strip_prefix("./").unwrap_or(path);
            format!("{}/{relative}", self.working_directory.trim_end_matches('/'))
        }
    }

    /// A line for the step's log.
    pub fn say(&mut self, line: &str) {
        self.log.write(line.as_bytes(), false);
        self.log.write(b"\n", false);
    }

    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub async fn call(&self, operation: Operation) -> Result<Reply, StepError> {
        Ok(self.guest.call(operation, self.patience).await?)
    }

    /// Runs a program with the step's environment in the working directory; its output goes to the
    /// log, and its standard output without the last line end into the outputs.
    pub async fn exec(&mut self, argv: Vec<String>) -> Result<(Exited, Outputs), StepError> {
        let remaining =
            self.patience.deadline.map(|d| d.saturating_duration_since(tokio::time::Instant::now()));
        let command = Exec {
            argv,
            env: self.environment.clone(),
            cwd: Some(self.working_directory.to_owned()),
            timeout_ms: remaining.map(|r| u64::try_from(r.as_millis()).unwrap_or(u64::MAX)),
            ..Exec::default()
        };
        // The agent keeps the time; the host's own limit is for an agent that does not.
        let patience = Patience {
            deadline: self.patience.deadline.map(|d| d + Duration::from_secs(30)),
            cancel: self.patience.cancel.clone(),
        };
        let mut capture = Capture { log: &mut self.log, kept: Vec::new(), truncated: false };
        let exited = self.guest.exec(command, &mut capture, &patience).await?;
        let (kept, truncated) = (capture.kept, capture.truncated);
        self.log.end_line();
        let mut text = String::from_utf8_lossy(&kept).into_owned();
        if !truncated && text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        let truncated = truncated || text.len() > CAPTURE;
        Ok((exited, vec![("stdout".into(), Output { truncated, ..Output::bounded(text) })]))
    }

    pub async fn put(&self, target: Put, mut bytes: &[u8]) -> Result<(), StepError> {
        self.guest.put(target, &mut bytes, self.patience).await?;
        Ok(())
    }

    /// Streams bytes into what the operation (Append) names.
    pub async fn send(&self, operation: Operation, mut bytes: &[u8]) -> Result<(), StepError> {
        self.guest.send(operation, &mut bytes, self.patience).await?;
        Ok(())
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// Also when it has more than `limit` bytes.
    pub async fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, StepError> {
        let size = self.must_be_file(path).await?.size;
        if size > limit {
            return Err(StepError::failed(format!("{path} has {size} bytes; at most {limit} are read")));
        }
        let mut bytes = std::io::Cursor::new(Vec::new());
        let operation = Operation::Get { path: path.to_owned(), offset: 0, length: Some(limit) };
        self.guest.get(operation, limit, &mut bytes, self.patience).await?;
        Ok(bytes.into_inner())
    }

    /// How the run may fetch.
    pub fn fetching(&self) -> Result<&'a Fetching, StepError> {
        self.fetching.ok_or_else(|| StepError::failed("this run may not fetch anything from the network"))
    }

    /// A file from the network, complete, on the host.
    pub async fn download(&mut self, wanted: Wanted) -> Result<Kept, StepError> {
        let fetching = self.fetching()?;
        let what = wanted.to_string();
        let mut say = line_by_line(&mut self.log);
        let fetched = fetch::download(fetching, wanted, self.guest, self.patience, &mut say).await;
        fetched.map_err(|e| not_fetched(format!("{what} cannot be fetched"), e))
    }

    /// The objects below a prefix.
    pub async fn list_objects(&mut self, target: Target) -> Result<Vec<Listed>, StepError> {
        let what = format!("{} cannot be listed", target.object);
        let s3 = match self.fetching()?.s3() {
            Ok(s3) => s3.clone(),
            Err(e) => return Err(not_fetched(what, e)),
        };
        let mut say = line_by_line(&mut self.log);
        fetch::list(s3, target, self.patience, &mut say).await.map_err(|e| not_fetched(what, e))
    }

    /// Sends a file of the guest to S3.
    pub async fn upload(&mut self, path: &str, bytes: u64, target: Target) -> Result<(), StepError> {
        let fetching = self.fetching()?;
        let what = format!("{path} cannot be sent to {}", target.object);
        let s3 = match fetching.s3() {
            Ok(s3) => s3.clone(),
            Err(e) => return Err(not_fetched(what, e)),
        };
        let spool = fetching.store.unnamed().map_err(|e| not_fetched(what.clone(), e.into()))?;
        let source = s3::Source { guest: self.guest, path, bytes };
        let mut say = line_by_line(&mut self.log);
        let sent = s3::upload(s3, target.into(), source, spool, self.patience, &mut say).await;
        sent.map_err(|e| match e {
            UploadError::Guest(e) => e.into(),
            UploadError::Fetch(e) => not_fetched(what, e),
            changed => StepError::failed(format!("{what}: {changed}")),
        })
    }

    /// Streams a file of the host into one of the guest; bytes written.
    pub async fn put_file(&self, target: Put, file: std::fs::File) -> Result<u64, StepError> {
        let mut file = tokio::fs::File::from_std(file);
        Ok(self.guest.put(target, &mut file, self.patience).await?)
    }

    pub async fn stat(&self, path: &str, follow: bool) -> Result<Option<Entry>, StepError> {
        match self.call(Operation::Stat { path: path.to_owned(), follow }).await? {
            Reply::Stat(entry) => Ok(entry),
            other => Err(unexpected("Stat", &other)),
        }
    }

    pub async fn must_be_file(&self, path: &str) -> Result<Entry, StepError> {
        match self.stat(path, true).await? {
            None => Err(StepError::failed(format!("there is no file {path}"))),
            Some(entry) if entry.kind == EntryKind::Folder => {
                Err(StepError::failed(format!("{path} is a folder, not a file")))
            }
            Some(entry) => Ok(entry),
        }
    }

    pub async fn must_be_folder(&self, path: &str) -> Result<(), StepError> {
        match self.stat(path, true).await? {
            None => Err(StepError::failed(format!("there is no folder {path}"))),
            Some(entry) if entry.kind != EntryKind::Folder => {
                Err(StepError::failed(format!("{path} is no folder")))
            }
            Some(_) => Ok(()),
        }
    }

    /// Where writing to a path ends up: symbolic links at its end followed.
    pub async fn through_links(&self, path: &str) -> Result<String, StepError> {
        let mut path = path.to_owned();
        for _ in 0..16 {
            let Some(target) = self.stat(&path, false).await?.and_then(|e| e.target) else { return Ok(path) };
            path = match path.rsplit_once('/') {
                Some((folder, _)) if !target.starts_with('/') => format!("{folder}/{target}"),
                _ => target,
            };
        }
        Err(StepError::failed(format!("{path} is behind too many symbolic links")))
    }

    pub async fn make_parents(&self, path: &str) -> Result<(), StepError> {
        let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) else {
            return Ok(());
        };
        if self.stat(folder, true).await?.is_some_and(|e| e.kind == EntryKind::Folder) {
            return Ok(());
        }
        self.call(Operation::MakeFolder {
            path: folder.to_owned(),
            mode: 0o755,
            parents: true,
            owner: None,
            group: None,
        })
        .await?;
        Ok(())
    }

    /// Entries of a folder, page by page.
    pub async fn each_entry(
        &self,
        path: &str,
        recursive: bool,
        mut take: impl FnMut(Entry) + Send,
    ) -> Result<(), StepError> {
        let mut after = None;
        loop {
            let operation = Operation::List { path: path.to_owned(), recursive, after, limit: 500 };
            let (entries, more) = match self.call(operation).await? {
                Reply::List { entries, more } => (entries, more),
                other => return Err(unexpected("List", &other)),
            };
            after = entries.last().map(|e| e.path.clone());
            entries.into_iter().for_each(&mut take);
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Paths that match a pattern with `*` in its last part, sorted.
    pub async fn matching(
        &self,
        pattern: &str,
        wanted: impl Fn(&Entry) -> bool + Send + Sync,
    ) -> Result<Vec<String>, StepError> {
        let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        let folder = if folder.is_empty() { "/" } else { folder };
        if self.stat(folder, true).await?.is_none_or(|e| e.kind != EntryKind::Folder) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        self.each_entry(folder, false, |entry| {
            let own = entry.path.rsplit('/').next().unwrap_or("");
            if wanted(&entry) && super::super::action::matches(name, own) {
                found.push(entry.path);
            }
        })
        .await?;
        found.sort();
        Ok(found)
    }

    /// Whether a program of this name is on the step's path, or is the path of one.
    pub async fn binary_exists(&self, name: &str) -> Result<bool, StepError> {
        let candidates: Vec<String> = if name.contains('/') {
            vec![self.absolute(name)]
        } else {
            let path = self.environment.iter().find(|(n, _)| n == "PATH").map_or("", |(_, v)| v);
            path.split(':').filter(|d| !d.is_empty()).map(|d| format!("{d}/{name}")).collect()
        };
        for candidate in candidates {
            let entry = self.stat(&candidate, true).await?;
            if entry.is_some_and(|e| e.kind == EntryKind::File && e.mode & 0o111 != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a tree that may be gone already.
    pub async fn remove_quietly(&self, path: &str) -> Result<(), StepError> {
        match self
            .guest
            .call(Operation::Remove { path: path.to_owned(), recursive: true }, self.patience)
            .await
        {
            Err(GuestError::Refused(failed)) if failed.kind == ErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()).map_err(StepError::from),
        }
    }

    /// A name that nobody in the guest can have guessed.
    pub fn random_name(&self) -> Result<String, StepError> {
        crate::support::random::hexadecimal(8).map_err(|e| StepError::Fatal(GuestError::Local(e)))
    }
}

fn unexpected(asked: &str, reply: &Reply) -> StepError {
    StepError::Fatal(GuestError::Protocol(format!("{asked} was answered with {reply:?}")))
}

fn not_fetched(what: String, error: FetchError) -> StepError {
    match error {
        FetchError::Impatience(impatience) => GuestError::Impatience(impatience).into(),
        other => StepError::failed(format!("{what}: {other}")),
    }
}

/// Writes lines to the log.
fn line_by_line(log: &mut StepLog<'_>) -> impl FnMut(&str) + Send {
    |line| {
        log.write(line.as_bytes(), false);
        log.write(b"\n", false);
    }
}

/// Passes output on and keeps the first part of standard output.
struct Capture<'a, 'b> {
    log: &'a mut StepLog<'b>,
    kept: Vec<u8>,
    truncated: bool,
}

impl Sink for Capture<'_, '_> {
    fn write(&mut self, bytes: &[u8], error: bool) {
        self.log.write(bytes, error);
        if !error {
            // One byte more: the line end that is taken off at last.
            let room = (CAPTURE + 1).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.truncated |= bytes.len() > room;
        }
    }
}
