//! Where a run stands and what it has done: plain data, from which it can go on.

use super::context::{Output, Outputs};
use crate::component::condition::Verdict;
use crate::component::document::OnFailure;
use crate::support::clock;
use serde::{Deserialize, Serialize};

/// Everything about a run that must outlive a reboot, or kiln itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunState {
    pub execution_id: String,
    /// Milliseconds since the epoch, here and below.
    pub started: i64,
    pub ended: i64,
    pub cursor: Cursor,
    pub reboots: u32,
    /// Those of which a step has begun.
    pub documents: Vec<DocumentReport>,
    /// The first failure that counts.
    pub failure: Option<StepFailure>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Index into the plan.
    pub next: usize,
    /// The step there has begun.
    pub step: Option<StepCursor>,
}

/// A step that has begun and not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepCursor {
    pub started: i64,
    /// Its `if` has been asked; it is not asked again.
    pub verdict: Option<Verdict>,
    /// From 1.
    pub attempt: u32,
    /// Index of the iteration to run next.
    pub iteration: u64,
    /// What a `forEach` visits, as it was when the attempt began.
    pub items: Option<Vec<String>>,
    /// Outputs of the iterations so far.
    pub gathered: Outputs,
    /// The document inside, of ExecuteDocument.
    pub nested: Option<Box<Nested>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nested {
    /// The document's text, as it was when it began.
    pub text: String,
    pub state: RunState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    Running,
    Success,
    Skipped,
    /// Failed, and the document said that this does not matter.
    IgnoredFailure,
    SuccessWithIgnoredFailure,
    Failed,
    TimedOut,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DocumentReport {
    /// Index of the component.
    pub component: usize,
    pub label: String,
    pub name: String,
    pub description: String,
    pub started: i64,
    pub ended: i64,
    pub phases: Vec<PhaseReport>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseReport {
    pub name: String,
    pub started: i64,
    pub ended: i64,
    pub steps: Vec<StepReport>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepReport {
    pub name: String,
    pub action: String,
    pub status: Status,
    pub message: String,
    pub exit_code: Option<i32>,
    /// Attempts made; 0 for a skipped step.
    pub attempts: u32,
    pub iterations: u64,
    pub timeout_seconds: Option<u64>,
    pub on_failure: OnFailure,
    pub max_attempts: u32,
    pub started: i64,
    pub ended: i64,
    /// Resolved inputs of the last iteration, one list of names and values per item.
    pub inputs: Vec<RecordedItem>,
    /// One per item; for loops one in all.
    pub outputs: Vec<Outputs>,
    pub looped: bool,
    /// Inputs and outputs are not to be shown.
    pub silent: bool,
    pub nested: Option<Box<RunState>>,
}

pub type RecordedItem = Vec<(String, serde_json::Value)>;

/// A failed step, as a report needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepFailure {
    pub component: String,
    pub phase: String,
    pub step: String,
    pub action: String,
    pub message: String,
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    pub last_lines: Vec<String>,
    pub file: String,
    pub line: u32,
    pub column: u32,
}

/// Steps, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Run, whatever came of it.
    pub executed: u32,
    pub failed: u32,
    pub ignored: u32,
    pub skipped: u32,
}

impl RunState {
    pub fn new(execution_id: String) -> RunState {
        let now = clock::now_ms();
        RunState {
            execution_id,
            started: now,
            ended: now,
            cursor: Cursor::default(),
            reboots: 0,
            documents: Vec::new(),
            failure: None,
        }
    }

    pub fn steps(&self) -> impl Iterator<Item = &StepReport> {
        self.documents.iter().flat_map(|d| &d.phases).flat_map(|p| &p.steps)
    }

    /// The worst that came of any step.
    pub fn status(&self) -> Status {
        overall(self.steps().map(|s| s.status))
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for step in self.steps() {
            match step.status {
                Status::Skipped => counts.skipped += 1,
                Status::IgnoredFailure => counts.ignored += 1,
                Status::Failed | Status::TimedOut => counts.failed += 1,
                _ => {}
            }
            counts.executed += u32::from(step.status != Status::Skipped);
        }
        counts
    }

    pub(super) fn document(&mut self, component: usize) -> Option<&mut DocumentReport> {
        self.documents.iter_mut().find(|d| d.component == component)
    }
}

impl DocumentReport {
    pub fn status(&self) -> Status {
        overall(self.phases.iter().map(PhaseReport::status))
    }

    pub(super) fn step(&self, phase: &str, step: &str) -> Option<&StepReport> {
        self.phases.iter().find(|p| p.name == phase)?.steps.iter().find(|s| s.name == step)
    }
}

impl PhaseReport {
    pub fn status(&self) -> Status {
        overall(self.steps.iter().map(|s| s.status))
    }
}

/// Failed wins over ignored, ignored over success; a skipped step is a success.
fn overall(all: impl Iterator<Item = Status>) -> Status {
    let rank = |s: &Status| match s {
        Status::TimedOut => 3,
        Status::Failed => 2,
        Status::IgnoredFailure | Status::SuccessWithIgnoredFailure => 1,
        Status::Running | Status::Success | Status::Skipped => 0,
    };
    match all.max_by_key(rank) {
        Some(s @ (Status::TimedOut | Status::Failed)) => s,
        Some(Status::IgnoredFailure | Status::SuccessWithIgnoredFailure) => Status::SuccessWithIgnoredFailure,
        _ => Status::Success,
    }
}

impl Status {
    pub fn is_failure(self) -> bool {
        matches!(self, Status::Failed | Status::TimedOut)
    }

    /// As written into result files.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Success => "success",
            Status::Skipped => "skipped",
            Status::IgnoredFailure => "ignoredFailure",
            Status::SuccessWithIgnoredFailure => "successWithIgnoredFailure",
            Status::Failed => "failed",
            Status::TimedOut => "timedOut",
        }
    }
}

/// Outputs of several items or iterations as one: values joined by line ends, lists of files by commas.
pub fn join(all: &[Outputs]) -> Outputs {
    let mut joined: Outputs = Vec::new();
    for outputs in all {
        for (name, output) in outputs {
            match joined.iter_mut().find(|(n, _)| n == name) {
                None => joined.push((name.clone(), output.clone())),
                Some((_, whole)) => {
                    if whole.truncated {
                        continue;
                    }
                    let separator = if name == "files" { "," } else { "\n" };
                    let text = format!("{}{separator}{}", whole.text, output.text);
                    let bounded = Output::bounded(text);
                    *whole = Output { truncated: bounded.truncated || output.truncated, ..bounded };
                }
            }
        }
    }
    joined
}
