//! Documents on this machine, for people and scripts that know `awstoe`:
//! the same flags, results, log folder and way of going on after a reboot.

mod config;
mod folder;
mod resume;
mod sources;

pub use config::{Config, ConfigError, parse_parameters};
pub use sources::Sources;

use super::bind::{Component, Strictness};
use super::document::{Document, Rules};
use super::fetch::Fetching;
use super::provider::Provider;
use super::records::{self, Summary};
use super::run::{self, Ending, Job, Options, RunReport};
use crate::guest::Guest;
use crate::model::{Failure, FailureKind};
use crate::support::diagnostic::Diagnostic;
use crate::support::random;
use crate::support::source::Source;
use crate::support::wait::Patience;
use folder::LogFolder;
use resume::Interrupted;
use std::path::{Path, PathBuf};

/// What is asked for; paths are this machine's.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub documents: Vec<Given>,
    /// The account that must own the buckets of documents.
    pub document_owner: Option<String>,
    /// For every document; one of the document itself wins.
    pub parameters: Vec<(String, String)>,
    /// Empty: all.
    pub phases: Vec<String>,
    pub blocked: Vec<String>,
    pub execution_id: Option<String>,
    /// Where an interrupted run is kept, and looked for.
    pub state_directory: PathBuf,
    /// In which the run's log folder is made.
    pub log_directory: PathBuf,
    /// Of scripts, and where relative paths of actions count from.
    pub working_directory: PathBuf,
    /// None: actions that fetch from the network fail.
    pub fetching: Option<Fetching>,
    /// Also tell on standard error what goes to console.log.
    pub trace: bool,
}

/// A document, with parameters of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Also an `s3://` address.
    pub path: PathBuf,
    pub parameters: Vec<(String, String)>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    pub report: RunReport,
    pub folder: PathBuf,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    #[error("{} documents are not valid", .0.iter().map(|d| d.file()).collect::<std::collections::BTreeSet<_>>().len())]
    Invalid(Vec<Diagnostic>),
    #[error("{0}")]
    Parameters(String),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} holds no state of a run: {reason}")]
    State { path: PathBuf, reason: String },
}

/// Exit code of a run that wants a reboot, after which it is to be called again.
pub const REBOOT: u8 = 194;

impl Outcome {
    pub fn exit_code(&self) -> u8 {
        match self.report.ending {
            Ending::RebootDue => REBOOT,
            _ if self.report.is_success() => 0,
            _ => 1,
        }
    }
}

/// Checks everything, then runs it; or goes on with the run that the state folder holds.
///
/// # Errors
/// Nothing was run: a document is not valid, or a folder cannot be used.
pub async fn run(
    request: &Request,
    provider: &dyn Provider,
    guest: &dyn Guest,
    patience: &Patience,
) -> Result<Outcome, StandaloneError> {
    let interrupted = Interrupted::load(&request.state_directory)?;
    let fresh = interrupted.is_none();
    let kept = match interrupted {
        Some(kept) => kept,
        None => begin(request, provider, patience).await?,
    };
    let components = kept.components(&request.blocked)?;
    let mut folder = LogFolder::open(&kept, fresh, request.trace)?;
    folder.keep_states_in(&request.state_directory, kept.clone());
    let options = Options {
        execution_id: Some(kept.execution_id.clone()),
        working_directory: kept.working_directory.clone(),
        reboots: run::Reboots::HandOver,
        fetching: request.fetching.clone(),
        ..Options::default()
    };
    let phases: Vec<&str> = kept.phases.iter().map(String::as_str).collect();
    let phases = (!phases.is_empty()).then_some(phases.as_slice());
    let job = Job { components: &components, phases, options: &options, provider };
    let report = run::run(job, kept.state.clone(), guest, &mut folder, patience).await;
    folder.end(&report)?;
    if report.ending == Ending::Ended {
        Interrupted::forget(&request.state_directory)?;
    }
    let url = kept.folder.display().to_string();
    Ok(Outcome { summary: records::summary(&report, &url), report, folder: kept.folder })
}

/// A new run, of which nothing has been done.
async fn begin(
    request: &Request,
    provider: &dyn Provider,
    patience: &Patience,
) -> Result<Interrupted, StandaloneError> {
    let execution_id = match &request.execution_id {
        Some(id) => id.clone(),
        None => random::uuid().map_err(|source| StandaloneError::Io {
            doing: "read",
            path: "/dev/urandom".into(),
            source,
        })?,
    };
    let owner = request.document_owner.as_deref();
    let sources = Sources { fetching: request.fetching.as_ref(), owner, provider, patience };
    let mut texts = Vec::new();
    let mut invalid = Vec::new();
    for given in &request.documents {
        // Read once: what is checked is what runs, and what goes on after a reboot.
        match sources.document(&given.path, &rules(&request.blocked)).await {
            Ok(document) => texts.push(document.source.text().to_owned()),
            Err(findings) => invalid.extend(findings),
        }
    }
    if !invalid.is_empty() {
        return Err(StandaloneError::Invalid(invalid));
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let documents = request.documents.iter().zip(texts).map(|(given, text)| resume::Kept {
        path: given.path.clone(),
        text,
        // The last one of a name counts: what is said for all documents stands before.
        parameters: request.parameters.iter().chain(&given.parameters).cloned().collect(),
    });
    Ok(Interrupted {
        folder: absolute(&request.log_directory).join(folder::name(&execution_id)),
        execution_id,
        documents: documents.collect(),
        phases: request.phases.clone(),
        working_directory: absolute(&request.working_directory).display().to_string(),
        state: None,
    })
}

fn rules(blocked: &[String]) -> Rules {
    Rules { platform: Some(super::document::Platform::Linux), blocked: blocked.to_vec() }
}

impl Interrupted {
    fn components(&self, blocked: &[String]) -> Result<Vec<Component>, StandaloneError> {
        let mut components = Vec::new();
        for kept in &self.documents {
            let label = kept.path.display().to_string();
            let source = Source::new(label.as_str(), kept.text.as_str());
            let document = Document::parse(&source, &rules(blocked)).map_err(StandaloneError::Invalid)?;
            let component = Component::bind(label, document, &kept.parameters, Strictness::CommandLine)
                .map_err(|all| {
                    StandaloneError::Parameters(
                        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                    )
                })?;
            components.push(component);
        }
        Ok(components)
    }
}

impl From<StandaloneError> for Failure {
    fn from(error: StandaloneError) -> Failure {
        let kind = match &error {
            StandaloneError::Io { .. } => FailureKind::Environment,
            _ => FailureKind::Input,
        };
        let failure = Failure::from_error(kind, &error);
        match error {
            StandaloneError::State { path, .. } => {
                failure.hint(format!("Remove {} to forget that run.", path.display()))
            }
            _ => failure,
        }
    }
}
