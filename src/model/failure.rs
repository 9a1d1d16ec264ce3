//! Why something the user asked for did not work, as data.
//!
//! A failed build is a result, not a bug of kiln: everything a person needs to
//! go on is in one [`Failure`], whatever renders it.

use super::Stage;
use crate::support::diagnostic::Diagnostic;
use crate::support::wait::Impatience;
use std::fmt;
use std::path::PathBuf;

/// The documented table of exit codes hangs on this (see `cli`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A stage or step of the build failed.
    Build,
    /// What the user wrote is wrong: usage, recipe, document, settings.
    Input,
    /// A `validate` or `test` phase failed.
    Test,
    /// A policy gate said no.
    Policy,
    /// Something named does not exist.
    NotFound,
    /// Something is in use, or exists already.
    Conflict,
    /// This machine cannot do it: no KVM, no QEMU, no disk space ...
    Environment,
    /// A network or cloud partner failed.
    Transport,
    TimedOut,
    Cancelled,
    /// A defect of kiln.
    Internal,
}

impl From<&Impatience> for FailureKind {
    fn from(impatience: &Impatience) -> FailureKind {
        match impatience {
            Impatience::TimedOut { .. } => FailureKind::TimedOut,
            Impatience::Cancelled { .. } => FailureKind::Cancelled,
        }
    }
}

/// A place in a text file; line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub file: String,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: FailureKind,
    /// What happened, one sentence.
    pub message: String,
    /// What led to it, nearest cause first.
    pub causes: Vec<String>,
    /// What to do next, each a sentence or a command.
    pub hints: Vec<String>,
    pub stage: Option<Stage>,
    pub component: Option<String>,
    pub phase: Option<String>,
    pub step: Option<String>,
    pub action: Option<String>,
    /// What kept a guest from coming up, in one word for programs.
    pub class: Option<&'static str>,
    pub exit_code: Option<i32>,
    /// The last lines the step wrote, oldest first, secrets already masked.
    pub last_lines: Vec<String>,
    /// Tail of the guest's console.
    pub console: Vec<String>,
    pub position: Option<Position>,
    /// Files worth a look: logs, screenshot.
    pub files: Vec<PathBuf>,
    /// What is wrong with texts the user wrote, when it is that.
    pub findings: Vec<Diagnostic>,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            stage: None,
            component: None,
            phase: None,
            step: None,
            action: None,
            class: None,
            exit_code: None,
            last_lines: Vec::new(),
            console: Vec::new(),
            position: None,
            files: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Takes the error's text as the message and its sources as the causes.
    pub fn from_error(kind: FailureKind, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut failure = Failure::new(kind, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Wrong input: all that was found, the errors counted.
    pub fn from_findings(what: &str, findings: Vec<Diagnostic>) -> Failure {
        let errors = findings.iter().filter(|d| d.is_error()).count();
        let noun = if errors == 1 { "error" } else { "errors" };
        let mut failure = Failure::new(FailureKind::Input, format!("{what}: {errors} {noun}"));
        failure.position = findings.iter().find(|d| d.is_error()).map(|d| Position {
            file: d.file().to_owned(),
            line: d.span.line,
            column: d.span.column,
        });
        failure.findings = findings;
        failure
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    pub fn at(mut self, position: Position) -> Failure {
        self.position = Some(position);
        self
    }

    pub fn in_stage(mut self, stage: Stage) -> Failure {
        self.stage.get_or_insert(stage);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|c| write!(f, ": {c}"))
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
