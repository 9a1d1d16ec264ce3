//! What came of a run.

use super::state::{Counts, RunState, Status, StepFailure};
use crate::model::{Failure, FailureKind, Position};

/// The result of [`super::run`].
#[derive(Debug)]
pub struct RunReport {
    pub state: RunState,
    pub status: Status,
    pub counts: Counts,
    pub ending: Ending,
    /// The first failure that counts; None for a success.
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that was to run has run, or a failure ended it.
    Ended,
    /// The caller has to reboot and to go on from the state.
    RebootDue,
    /// The step to pause before has come.
    Paused,
    /// The guest was lost, or the run was called off; `failure` says why.
    Stopped,
}

impl RunReport {
    pub(super) fn ended(state: RunState) -> RunReport {
        let failure = state.failure.as_ref().map(step_failure);
        RunReport { status: state.status(), counts: state.counts(), ending: Ending::Ended, failure, state }
    }

    pub(super) fn reboot_due(state: RunState) -> RunReport {
        RunReport {
            status: Status::Running,
            counts: state.counts(),
            ending: Ending::RebootDue,
            failure: None,
            state,
        }
    }

    pub(super) fn paused(state: RunState) -> RunReport {
        RunReport { ending: Ending::Paused, ..RunReport::reboot_due(state) }
    }

    pub(super) fn stopped(state: RunState, failure: Failure) -> RunReport {
        RunReport {
            status: Status::Failed,
            counts: state.counts(),
            ending: Ending::Stopped,
            failure: Some(failure),
            state,
        }
    }

    pub fn is_success(&self) -> bool {
        self.ending == Ending::Ended && !self.status.is_failure()
    }
}

/// A failed step as the failure that people see.
fn step_failure(step: &StepFailure) -> Failure {
    let kind = match step.phase.as_str() {
        _ if step.timed_out => FailureKind::TimedOut,
        "validate" | "test" | "container-host-test" => FailureKind::Test,
        _ => FailureKind::Build,
    };
    let mut failure = Failure::new(kind, format!("step `{}` failed: {}", step.step, step.message));
    failure.component = Some(step.component.clone());
    failure.phase = Some(step.phase.clone());
    failure.step = Some(step.step.clone());
    failure.action = Some(step.action.clone());
    failure.exit_code = step.exit_code;
    failure.last_lines = step.last_lines.clone();
    failure.position = Some(Position { file: step.file.clone(), line: step.line, column: step.column });
    match step.exit_code {
        Some(127) => failure.hint("Exit code 127 mostly means that a program was not found."),
        Some(126) => failure.hint("Exit code 126 mostly means that a file is not executable."),
        _ if step.timed_out => failure.hint("Give the step more time with timeoutSeconds (-1: no limit)."),
        _ => failure,
    }
}
