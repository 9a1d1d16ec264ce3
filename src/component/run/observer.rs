//! What a run tells while it goes.

use super::state::{RunState, Status};
use crate::model::Failure;

/// Where a run stands, in the document's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// Index into the plan; steps of nested documents have that of the step that runs them.
    pub index: usize,
    pub component: &'a str,
    pub phase: &'a str,
    pub step: &'a str,
    pub action: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    StepStarted {
        place: Place<'a>,
    },
    /// From 1; told from the second attempt on.
    Attempt {
        place: Place<'a>,
        attempt: u32,
        of: u32,
    },
    /// A line of the step, secrets masked.
    Output {
        place: Place<'a>,
        line: &'a str,
        error: bool,
    },
    /// The guest is about to go down; `again`: the step will be run again.
    Rebooting {
        place: Place<'a>,
        again: bool,
    },
    Rebooted {
        place: Place<'a>,
    },
    StepEnded {
        place: Place<'a>,
        status: Status,
        message: &'a str,
        exit_code: Option<i32>,
    },
    /// The run ended in the middle of the step, from outside the document.
    StepStopped {
        place: Place<'a>,
        why: &'a Failure,
    },
}

/// Watches a run and keeps its state.
pub trait Observer: Send + Sync {
    fn event(&mut self, event: &Event);

    /// The state from which the run can go on if it stops now: after each step, and before a reboot.
    ///
    /// # Errors
    /// The state could not be kept; the run stops.
    fn checkpoint(&mut self, _state: &RunState) -> std::io::Result<()> {
        Ok(())
    }
}
