//! `detailedoutput.json` and the summary, in the shape that awstoe writes them.

use super::action::{self, Shape};
use super::run::context::{Output, Outputs};
use super::run::state::{DocumentReport, PhaseReport, RecordedItem, RunState, StepReport, join};
use super::run::{Ending, RunReport, Status};
use crate::support::clock;
use serde::Serialize;

/// The result that goes to standard output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub execution_id: String,
    pub status: &'static str,
    pub failed_step_count: u32,
    pub executed_step_count: u32,
    pub ignored_failed_step_count: u32,
    pub skipped_step_count: u32,
    pub failure_message: String,
    pub log_url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    execution_id: &'a str,
    status: &'static str,
    start_time: String,
    end_time: String,
    failure_message: String,
    documents: Vec<Document<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    name: &'a str,
    file_path: &'a str,
    status: &'static str,
    description: &'a str,
    start_time: String,
    end_time: String,
    failure_message: String,
    phases: Vec<Phase<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Phase<'a> {
    name: &'a str,
    status: &'static str,
    start_time: String,
    end_time: String,
    failure_message: String,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Step<'a> {
    name: &'a str,
    status: &'static str,
    failure_message: &'a str,
    timeout_seconds: i64,
    on_failure: &'static str,
    max_attempts: u32,
    action: &'a str,
    start_time: String,
    end_time: String,
    inputs: String,
    outputs: String,
    #[serde(rename = "loop")]
    looped: Option<LoopRecord>,
    detailed_output: Option<Box<Run<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoopRecord {
    iteration_count: u64,
}

/// The tree of results, with four blanks of indentation.
pub fn detailed_output(state: &RunState) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    run(state).serialize(&mut serializer).expect("plain data serializes into memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// `log_url` is the folder of the run's logs.
pub fn summary(report: &RunReport, log_url: &str) -> Summary {
    let counts = report.counts;
    let failure_message = match (&report.failure, failure_message(&report.state)) {
        (Some(failure), text) if report.ending == Ending::Stopped || text.is_empty() => failure.to_string(),
        (_, text) => text,
    };
    Summary {
        execution_id: report.state.execution_id.clone(),
        status: match report.status {
            Status::TimedOut => "timedOut",
            Status::Failed => "failed",
            _ => "success",
        },
        failed_step_count: counts.failed,
        executed_step_count: counts.executed,
        ignored_failed_step_count: counts.ignored,
        skipped_step_count: counts.skipped,
        failure_message,
        log_url: log_url.to_owned(),
    }
}

fn failure_message(state: &RunState) -> String {
    let failed = state.documents.iter().find(|d| d.status().is_failure());
    failed.map(|d| format!("Document {} failed!", d.label)).unwrap_or_default()
}

fn run(state: &RunState) -> Run<'_> {
    Run {
        execution_id: &state.execution_id,
        status: state.status().as_str(),
        start_time: clock::rfc3339(state.started),
        end_time: clock::rfc3339(state.ended),
        failure_message: failure_message(state),
        documents: state.documents.iter().map(document).collect(),
    }
}

fn document(report: &DocumentReport) -> Document<'_> {
    let failed = report.phases.iter().find(|p| p.status().is_failure());
    Document {
        name: &report.name,
        file_path: &report.label,
        status: report.status().as_str(),
        description: &report.description,
        start_time: clock::rfc3339(report.started),
        end_time: clock::rfc3339(report.ended),
        failure_message: failed.map(|p| format!("Phase {} failed!", p.name)).unwrap_or_default(),
        phases: report.phases.iter().map(phase).collect(),
    }
}

fn phase(report: &PhaseReport) -> Phase<'_> {
    let failed = report.steps.iter().find(|s| s.status.is_failure());
    Phase {
        name: &report.name,
        status: report.status().as_str(),
        start_time: clock::rfc3339(report.started),
        end_time: clock::rfc3339(report.ended),
        failure_message: failed.map(|s| format!("Step {} failed!", s.name)).unwrap_or_default(),
        steps: report.steps.iter().map(step).collect(),
    }
}

fn step(report: &StepReport) -> Step<'_> {
    Step {
        name: &report.name,
        status: report.status.as_str(),
        failure_message: &report.message,
        timeout_seconds: report.timeout_seconds.and_then(|s| i64::try_from(s).ok()).unwrap_or(-1),
        on_failure: report.on_failure.as_str(),
        max_attempts: report.max_attempts,
        action: &report.action,
        start_time: clock::rfc3339(report.started),
        end_time: clock::rfc3339(report.ended),
        inputs: if report.silent { String::new() } else { inputs(report) },
        outputs: if report.silent { String::new() } else { outputs(&report.outputs) },
        looped: report.looped.then_some(LoopRecord { iteration_count: report.iterations }),
        detailed_output: report.nested.as_deref().map(|nested| Box::new(run(nested))),
    }
}

/// A list of objects as JSON text, each in the order of the action's table.
fn inputs(report: &StepReport) -> String {
    let action = action::find(&report.action);
    let items: Vec<Ordered> = report
        .inputs
        .iter()
        .map(|item| match action {
            Some(action) if action.shape == Shape::Map => Ordered(with_zero_values(action, item)),
            _ => Ordered(item.clone()),
        })
        .collect();
    text(&items)
}

/// A mapping is recorded with what was not written in it.
fn with_zero_values(action: &action::Action, item: &RecordedItem) -> RecordedItem {
    let zero = |kind: action::Kind| match kind {
        action::Kind::Texts | action::Kind::NamedValues | action::Kind::Map => serde_json::Value::Null,
        action::Kind::Boolean => false.into(),
        action::Kind::Integer => 0.into(),
        _ => "".into(),
    };
    let value = |field: &action::Field| {
        let given = item.iter().find(|(n, _)| n == field.name).map(|(_, v)| v.clone());
        (field.name.to_owned(), given.unwrap_or_else(|| zero(field.kind)))
    };
    action.fields.iter().map(value).collect()
}

fn outputs(all: &[Outputs]) -> String {
    let joined = join(all);
    if joined.is_empty() {
        return "[]".to_owned();
    }
    let value = |(name, output): &(String, Output)| (name.clone(), output.text.as_str().into());
    text(&[Ordered(joined.iter().map(value).collect())])
}

/// An object whose keys stay in their order.
struct Ordered(Vec<(String, serde_json::Value)>);

impl Serialize for Ordered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn text(items: &[Ordered]) -> String {
    serde_json::to_string(items).expect("plain data serializes into memory")
}
