//! A component document, checked: everything in it is what the format allows.

use super::action::{Action, Input};
use super::condition::{Condition, If};
use super::expression::Template;
use super::loops::{Loop, Over};
use super::{check, decode};
use crate::model::Position;
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::source::{Source, Span};
use crate::support::yaml;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// What a document runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    Linux,
    Windows,
    MacOs,
}

#[derive(Clone, Debug)]
pub struct Document {
    pub source: Arc<Source>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub platform: Platform,
    pub constants: Vec<Constant>,
    pub parameters: Vec<Parameter>,
    pub phases: Vec<Phase>,
    pub disable_logging: bool,
    /// What works, but perhaps not as its author thinks.
    pub warnings: Vec<Diagnostic>,
}

#[derive(Clone, Debug)]
pub struct Constant {
    pub name: String,
    pub value: String,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: String,
    pub default: Option<String>,
    pub description: Option<String>,
    /// Empty: any value.
    pub allowed_values: Vec<String>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Phase {
    pub name: String,
    pub steps: Vec<Step>,
    pub disable_logging: bool,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub action: &'static Action,
    pub inputs: Inputs,
    /// Seconds per attempt; None is no limit.
    pub timeout_seconds: Option<u64>,
    pub on_failure: OnFailure,
    /// From 1.
    pub max_attempts: u32,
    pub looped: Option<Loop>,
    pub condition: Option<If>,
    pub disable_logging: bool,
    /// The step's name, or the whole step.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub enum Inputs {
    /// One for actions that take a mapping, any number for those that take a list.
    Items(Vec<Input>),
    /// Of Assert.
    Condition(Condition),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OnFailure {
    Abort,
    Continue,
    Ignore,
}

/// What a document is held against, beside the format itself.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// None: what the document's actions need, Linux where they need nothing in particular.
    pub platform: Option<Platform>,
    /// Actions that may not be used.
    pub blocked: Vec<String>,
}

/// Seconds an attempt may take where the document does not say.
pub const DEFAULT_TIMEOUT: u64 = 7200;

impl Document {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything found, warnings included, when at least one finding is an error.
    pub fn load(path: &Path) -> Result<Document, Vec<Diagnostic>> {
        Document::load_with(path, &Rules::default())
    }

    /// As [`Document::load`], held against `rules`.
    pub fn load_with(path: &Path, rules: &Rules) -> Result<Document, Vec<Diagnostic>> {
        let name = path.display().to_string();
        match read(path) {
            Ok(text) => Document::parse(&Source::new(name, text), rules),
            Err(reason) => {
                let source = Source::new(name, "");
                Err(vec![Diagnostic::error(&source, source.span(0, 0), "unreadable", reason)])
            }
        }
    }

    /// Reads and checks a text.
    pub fn parse(source: &Arc<Source>, rules: &Rules) -> Result<Document, Vec<Diagnostic>> {
        let mut findings = Findings::new(source);
        let document = yaml::parse(source, yaml::Limits::default(), &mut findings)
            .and_then(|root| decode::document(&root, rules, &mut findings));
        if let Some(document) = &document {
            check::document(document, &mut findings);
        }
        let failed = findings.has_errors();
        let list = findings.into_sorted();
        match document {
            Some(document) if !failed => Ok(Document { warnings: list, ..document }),
            _ => Err(list),
        }
    }

    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|p| p.name == name)
    }

    /// The document's name, or what its text is called.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.source.name)
    }

    pub fn position(&self, span: Span) -> Position {
        Position { file: self.source.name.clone(), line: span.line, column: span.column }
    }
}

/// A file's text, at most a little more than the parser takes (it then says so itself).
fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let limit = yaml::Limits::default().bytes as u64 + 1;
    std::fs::File::open(path)
        .and_then(|f| f.take(limit).read_to_end(&mut bytes))
        .map_err(|e| format!("the document cannot be read: {e}"))?;
    String::from_utf8(bytes)
        .map_err(|e| format!("the document is not UTF-8 (byte {} is wrong)", e.utf8_error().valid_up_to()))
}

impl Step {
    /// Every text in it that may hold references.
    pub fn templates(&self) -> Vec<&Template> {
        let mut all = Vec::new();
        match &self.inputs {
            Inputs::Items(items) => items.iter().for_each(|i| all.extend(i.templates())),
            Inputs::Condition(condition) => all.extend(condition.templates()),
        }
        if let Some(condition) = &self.condition {
            all.extend(condition.condition.templates());
        }
        match self.looped.as_ref().map(|l| &l.over) {
            Some(Over::List(items)) => all.extend(items),
            Some(Over::Delimited { list, .. }) => all.push(list),
            _ => {}
        }
        all
    }
}

impl Platform {
    pub const ALL: [Platform; 3] = [Platform::Linux, Platform::Windows, Platform::MacOs];

    pub fn as_str(self) -> &'static str {
        match self {
            Platform::Linux => "linux",
            Platform::Windows => "windows",
            Platform::MacOs => "darwin",
        }
    }
}

impl OnFailure {
    pub const ALL: [OnFailure; 3] = [OnFailure::Abort, OnFailure::Continue, OnFailure::Ignore];

    pub fn as_str(self) -> &'static str {
        match self {
            OnFailure::Abort => "Abort",
            OnFailure::Continue => "Continue",
            OnFailure::Ignore => "Ignore",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Platform {
    type Err = String;
    fn from_str(s: &str) -> Result<Platform, String> {
        match s.to_ascii_lowercase().as_str() {
            "linux" => Ok(Platform::Linux),
            "windows" => Ok(Platform::Windows),
            "darwin" | "macos" => Ok(Platform::MacOs),
            _ => Err(format!("unknown platform `{s}`: linux, windows or darwin")),
        }
    }
}
