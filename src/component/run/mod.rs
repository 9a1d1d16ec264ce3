//! Running documents against a guest.
//!
//! The host holds the cursor; the guest only does what it is told. The walk is
//! over the list that [`super::plan`] makes, so what was shown is what runs.

pub mod context;
mod judge;
pub mod log;
mod nested;
pub mod observer;
pub mod report;
mod resolve;
pub mod state;
mod step;

pub use judge::pattern;
pub use log::Secrets;
pub use observer::{Event, Observer, Place};
pub use report::{Ending, RunReport};
pub use state::{Counts, RunState, Status};

use super::bind::Component;
use super::condition::Verdict;
use super::document::OnFailure;
use super::fetch::Fetching;
use super::plan::{PlannedStep, plan};
use super::provider::Provider;
use crate::guest::{Guest, GuestError};
use crate::model::{Failure, FailureKind};
use crate::support::wait::{Impatience, Patience};
use crate::support::{clock, random};
use context::{Outputs, RebootWish, StepError};
use kiln_protocol::message::Facts;
use state::{DocumentReport, PhaseReport, RecordedItem, StepCursor, StepFailure, StepReport};
use step::Attempted;

/// What is to be run.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub components: &'a [Component],
    /// None: all phases.
    pub phases: Option<&'a [&'a str]>,
    pub options: &'a Options,
    pub provider: &'a dyn Provider,
}

/// How it is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// None: a new one.
    pub execution_id: Option<String>,
    /// Added to the environment of every step, over what the runner sets itself (IMAGE_* ...).
    pub environment: Vec<(String, String)>,
    /// Of scripts, and where relative paths count from.
    pub working_directory: String,
    /// Values to mask in all output.
    pub secrets: Vec<String>,
    /// Reboots of one run.
    pub reboot_limit: u32,
    pub reboots: Reboots,
    /// The run returns before this step (an index into the plan), for a caller that goes on from its state.
    pub pause_before: Option<usize>,
    /// None: actions that fetch from the network fail.
    pub fetching: Option<Fetching>,
}

/// What becomes of a step's wish to reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboots {
    /// The guest is rebooted, and the run goes on.
    Guest,
    /// The run returns before it, for a caller that reboots by itself.
    HandOver,
    /// The step fails, for this reason.
    Refuse(&'static str),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            execution_id: None,
            environment: Vec::new(),
            working_directory: "/tmp".into(),
            secrets: Vec::new(),
            reboot_limit: 15,
            reboots: Reboots::Guest,
            pause_before: None,
            fetching: None,
        }
    }
}

/// Runs documents to their end, or on from a state that was kept.
///
/// A failed step is a result, not an error: everything is in the report.
pub async fn run(
    job: Job<'_>,
    resume: Option<RunState>,
    guest: &dyn Guest,
    observer: &mut dyn Observer,
    patience: &Patience,
) -> RunReport {
    let secrets = Secrets::default();
    job.options.secrets.iter().for_each(|s| secrets.add(s));
    let mut state = match resume.map(Ok).unwrap_or_else(|| new_state(job.options)) {
        Ok(state) => state,
        Err(failure) => return RunReport::stopped(RunState::new(String::new()), failure),
    };
    let steps = plan(job.components, job.phases);
    let mut runner = Runner {
        guest,
        options: job.options,
        provider: job.provider,
        observer,
        secrets: &secrets,
        facts: None,
        patience,
    };
    let level = Level { components: job.components, steps: &steps, ancestors: &[] };
    let mut returning = state.reboots > 0;
    loop {
        if std::mem::take(&mut returning)
            && let Some(place) = runner.place_now(&level, &state)
        {
            runner.observer.event(&Event::Rebooted { place });
        }
        match runner.walk(&level, &mut state).await {
            Walked::Ended => break,
            Walked::Paused => return RunReport::paused(state),
            Walked::Stopped(failure) => return RunReport::stopped(state, *failure),
            Walked::Reboot(wish) => match runner.reboot(&level, &mut state, wish).await {
                Ok(true) => returning = true,
                Ok(false) => return RunReport::reboot_due(state),
                Err(failure) => {
                    let failure = match level.steps.get(asking(&state)) {
                        Some(planned) => at(&level, planned, &secrets, *failure),
                        None => *failure,
                    };
                    return RunReport::stopped(state, failure);
                }
            },
        }
    }
    state.ended = clock::now_ms();
    RunReport::ended(state)
}

/// The step that has asked for a reboot: after a Reboot action the cursor is past it.
fn asking(state: &RunState) -> usize {
    match state.cursor.step {
        Some(_) => state.cursor.next,
        None => state.cursor.next.saturating_sub(1),
    }
}

/// The failure, with the step's place. It is written down: no secret is in it.
fn at(level: &Level<'_>, planned: &PlannedStep, secrets: &Secrets, mut failure: Failure) -> Failure {
    let (component, _, step) = planned.of(level.components);
    failure.component = Some(component.label.clone());
    failure.phase = Some(planned.phase_name.clone());
    failure.step = Some(planned.step_name.clone());
    failure.action = Some(planned.action.to_owned());
    failure.position = Some(component.document.position(step.span));
    failure.message = secrets.mask(&failure.message);
    failure.causes.iter_mut().for_each(|cause| *cause = secrets.mask(cause));
    failure
}

fn new_state(options: &Options) -> Result<RunState, Failure> {
    let id = match &options.execution_id {
        Some(id) => id.clone(),
        None => random::uuid().map_err(|e| Failure::from_error(FailureKind::Environment, &e))?,
    };
    Ok(RunState::new(id))
}

/// A set of documents that are walked together: the run's own, or the one inside a step.
struct Level<'a> {
    components: &'a [Component],
    steps: &'a [PlannedStep],
    /// Where the documents around this one come from, outermost first.
    ancestors: &'a [String],
}

struct Runner<'a> {
    guest: &'a dyn Guest,
    options: &'a Options,
    provider: &'a dyn Provider,
    observer: &'a mut dyn Observer,
    secrets: &'a Secrets,
    /// Of this boot.
    facts: Option<Facts>,
    patience: &'a Patience,
}

enum Walked {
    Ended,
    /// Before the step that the options name.
    Paused,
    Stopped(Box<Failure>),
    /// The cursor stands where the walk goes on afterwards.
    Reboot(RebootWish),
}

/// How a step ended.
struct Ended {
    status: Status,
    message: String,
    exit_code: Option<i32>,
    attempts: u32,
    iterations: u64,
    inputs: Vec<RecordedItem>,
    outputs: Vec<Outputs>,
    last_lines: Vec<String>,
    nested: Option<Box<RunState>>,
}

impl Runner<'_> {
    async fn walk(&mut self, level: &Level<'_>, state: &mut RunState) -> Walked {
        while let Some(planned) = level.steps.get(state.cursor.next) {
            let here = level.ancestors.is_empty() && state.cursor.step.is_none();
            if here && self.options.pause_before == Some(state.cursor.next) {
                return Walked::Paused;
            }
            if self.patience.cancel.is_cancelled() {
                let error = Impatience::Cancelled { what: format!("step `{}`", planned.step_name) };
                return Walked::Stopped(Box::new(at(
                    level,
                    planned,
                    self.secrets,
                    GuestError::Impatience(error).failure(),
                )));
            }
            match self.step(level, planned, state).await {
                Stepped::Ended { go_on: true } => {}
                Stepped::Ended { go_on: false } => return Walked::Ended,
                Stepped::Stopped(failure) => return Walked::Stopped(failure),
                Stepped::Reboot(wish) => return Walked::Reboot(wish),
            }
            if level.ancestors.is_empty()
                && let Err(e) = self.observer.checkpoint(state)
            {
                return Walked::Stopped(Box::new(Failure::from_error(FailureKind::Environment, &e)));
            }
        }
        Walked::Ended
    }

    /// True: the guest is back. False: the caller reboots.
    async fn reboot(
        &mut self,
        level: &Level<'_>,
        state: &mut RunState,
        wish: RebootWish,
    ) -> Result<bool, Box<Failure>> {
        state.reboots += 1;
        let limit = self.options.reboot_limit;
        if state.reboots > limit {
            let failure = Failure::new(FailureKind::Build, format!("the run has rebooted {limit} times already"))
                .hint("A step that exits with 194 runs again after the reboot: it must find out that its work is done, and exit with 0 then.");
            return Err(Box::new(failure));
        }
        if let Some(place) = self.place_now(level, state) {
            self.observer.event(&Event::Rebooting { place, again: wish.again });
        }
        let io = |e: std::io::Error| Box::new(Failure::from_error(FailureKind::Environment, &e));
        self.observer.checkpoint(state).map_err(io)?;
        if self.options.reboots == Reboots::HandOver {
            return Ok(false);
        }
        let pause = self.patience.wait("the reboot's delay", tokio::time::sleep(wish.delay)).await;
        let rebooted = match pause {
            Ok(()) => self.guest.reboot(self.patience).await,
            Err(e) => Err(e.into()),
        };
        self.facts = None;
        rebooted.map(|()| true).map_err(|e| Box::new(e.failure()))
    }

    fn place_now<'l>(&self, level: &Level<'l>, state: &RunState) -> Option<Place<'l>> {
        let index = asking(state);
        level.steps.get(index).map(|planned| place(planned, index))
    }

    /// Runs the step at the cursor, and moves the cursor.
    async fn step(&mut self, level: &Level<'_>, planned: &PlannedStep, state: &mut RunState) -> Stepped {
        let (component, phase, step) = planned.of(level.components);
        open_reports(component, planned, state);
        let index = state.cursor.next;
        let place = place(planned, index);
        let mut cursor = match state.cursor.step.take() {
            Some(cursor) => cursor,
            None => {
                self.observer.event(&Event::StepStarted { place });
                StepCursor::new()
            }
        };
        let silent = component.document.disable_logging || phase.disable_logging || step.disable_logging;
        let outcome = self.outcome(level, planned, state, &mut cursor, silent).await;
        let (ended, reboot) = match outcome {
            Ok(Attempted::Ended(ended)) => (*ended, None),
            Ok(Attempted::Reboot { wish, ended: Some(ended) }) => (*ended, Some(wish)),
            Ok(Attempted::Reboot { wish, ended: None }) => {
                state.cursor.step = Some(cursor);
                return Stepped::Reboot(wish);
            }
            Err(error) => {
                state.cursor.step = Some(cursor);
                let failure = Box::new(at(level, planned, self.secrets, error.failure()));
                self.observer.event(&Event::StepStopped { place, why: &failure });
                return Stepped::Stopped(failure);
            }
        };
        let go_on = self.record(planned, level, state, cursor.started, silent, ended);
        state.cursor.next = index + 1;
        match reboot {
            Some(wish) => Stepped::Reboot(wish),
            None => Stepped::Ended { go_on },
        }
    }

    /// The step's condition and attempts.
    async fn outcome(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        cursor: &mut StepCursor,
        silent: bool,
    ) -> Result<Attempted, GuestError> {
        let (_, _, step) = planned.of(level.components);
        if let (Some(condition), None) = (&step.condition, cursor.verdict) {
            let asked = self.ask(level, planned, state, &condition.condition, silent).await;
            match asked {
                Ok(truth) => cursor.verdict = Some(if truth { condition.then } else { condition.otherwise }),
                Err(StepError::Fatal(error)) => return Err(error),
                Err(error) => {
                    return Ok(Attempted::failed(format!("`if` could not be decided: {error}")));
                }
            }
        }
        match cursor.verdict {
            Some(Verdict::Skip) => Ok(Attempted::skipped()),
            Some(Verdict::Abort) => Ok(Attempted::failed("its `if` says Abort".into())),
            Some(Verdict::Execute) | None => self.attempts(level, planned, state, cursor, silent).await,
        }
    }

    /// Writes a step's end down. False: nothing more is to be run.
    fn record(
        &mut self,
        planned: &PlannedStep,
        level: &Level<'_>,
        state: &mut RunState,
        started: i64,
        silent: bool,
        mut ended: Ended,
    ) -> bool {
        let (component, _, step) = planned.of(level.components);
        let failed = ended.status.is_failure();
        if failed && step.on_failure == OnFailure::Ignore {
            ended.status = Status::IgnoredFailure;
        }
        ended.message = self.secrets.mask(&ended.message);
        // Chaining needs the values as they are; what is written down for people must not show them.
        let silent = silent || mentions_secret(&ended, self.secrets);
        let place = place(planned, state.cursor.next);
        self.observer.event(&Event::StepEnded {
            place,
            status: ended.status,
            message: &ended.message,
            exit_code: ended.exit_code,
        });
        if failed && step.on_failure != OnFailure::Ignore && state.failure.is_none() {
            let position = component.document.position(step.span);
            state.failure = Some(StepFailure {
                component: component.label.clone(),
                phase: planned.phase_name.clone(),
                step: step.name.clone(),
                action: step.action.name.to_owned(),
                message: ended.message.clone(),
                exit_code: ended.exit_code,
                timed_out: ended.status == Status::TimedOut,
                last_lines: ended.last_lines,
                file: position.file,
                line: position.line,
                column: position.column,
            });
        }
        let report = StepReport {
            name: step.name.clone(),
            action: step.action.name.to_owned(),
            status: ended.status,
            message: ended.message,
            exit_code: ended.exit_code,
            attempts: ended.attempts,
            iterations: ended.iterations,
            timeout_seconds: step.timeout_seconds,
            on_failure: step.on_failure,
            max_attempts: step.max_attempts,
            started,
            ended: clock::now_ms(),
            inputs: ended.inputs,
            outputs: ended.outputs,
            looped: step.looped.is_some(),
            silent,
            nested: ended.nested,
        };
        let now = report.ended;
        state.ended = now;
        if let Some(document) = state.document(planned.component) {
            document.ended = now;
            if let Some(phase) = document.phases.iter_mut().find(|p| p.name == planned.phase_name) {
                phase.ended = now;
                phase.steps.push(report);
            }
        }
        !(failed && step.on_failure == OnFailure::Abort)
    }
}

enum Stepped {
    Ended { go_on: bool },
    Stopped(Box<Failure>),
    Reboot(RebootWish),
}

fn mentions_secret(ended: &Ended, secrets: &Secrets) -> bool {
    fn within(value: &serde_json::Value, secrets: &Secrets) -> bool {
        match value {
            serde_json::Value::String(text) => secrets.are_in(text),
            serde_json::Value::Array(items) => items.iter().any(|v| within(v, secrets)),
            serde_json::Value::Object(fields) => fields.values().any(|v| within(v, secrets)),
            _ => false,
        }
    }
    ended.inputs.iter().flatten().any(|(_, v)| within(v, secrets))
        || ended.outputs.iter().flatten().any(|(_, o)| secrets.are_in(&o.text))
}

fn place(planned: &PlannedStep, index: usize) -> Place<'_> {
    Place {
        index,
        component: &planned.component_name,
        phase: &planned.phase_name,
        step: &planned.step_name,
        action: planned.action,
    }
}

/// Makes the entries of the document and the phase, when this is their first step.
fn open_reports(component: &Component, planned: &PlannedStep, state: &mut RunState) {
    let now = clock::now_ms();
    if state.document(planned.component).is_none() {
        state.documents.push(DocumentReport {
            component: planned.component,
            label: component.label.clone(),
            name: component.document.name.clone().unwrap_or_default(),
            description: component.document.description.clone().unwrap_or_default(),
            started: now,
            ended: now,
            phases: Vec::new(),
        });
    }
    let Some(document) = state.document(planned.component) else { return };
    if !document.phases.iter().any(|p| p.name == planned.phase_name) {
        let name = planned.phase_name.clone();
        document.phases.push(PhaseReport { name, started: now, ended: now, steps: Vec::new() });
    }
}

impl StepCursor {
    fn new() -> StepCursor {
        StepCursor {
            started: clock::now_ms(),
            verdict: None,
            attempt: 1,
            iteration: 0,
            items: None,
            gathered: Vec::new(),
            nested: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers put a run into a task of its own.
    #[allow(dead_code)]
    fn a_run_can_move_between_threads<'a>(
        job: Job<'a>,
        guest: &'a dyn Guest,
        observer: &'a mut dyn Observer,
        patience: &'a Patience,
    ) -> impl Future<Output = RunReport> + Send + 'a {
        run(job, None, guest, observer, patience)
    }
}
