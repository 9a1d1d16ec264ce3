//! The build's stage machine, pure: `next(state, input) -> (state, effects)`.
//!
//! The driver executes effects and feeds inputs; every decision is here. What holds,
//! whatever comes in (see the tests): a build ends; it gets one verdict, ends once, undoes
//! once; an image is AVAILABLE only through capture and, where there are tests, through them.

use crate::model::{Failure, FailureKind, ImageStatus, Stage};

/// Which stages a build has, in order. Capture is always among them, but for builds that go on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route(Vec<Stage>);

impl Route {
    pub fn new(test: bool, distribute: bool) -> Route {
        let wanted = |s: &Stage| match s {
            Stage::Test => test,
            Stage::Distribute => distribute,
            _ => true,
        };
        Route(Stage::ALL.into_iter().filter(wanted).collect())
    }

    /// Without the stages before this one: they were done by a build before.
    pub fn from(self, first: Stage) -> Route {
        Route(self.0.into_iter().filter(|stage| *stage >= first).collect())
    }

    pub fn stages(&self) -> &[Stage] {
        &self.0
    }

    fn after(&self, stage: Stage) -> Option<Stage> {
        self.0.iter().copied().find(|s| *s > stage)
    }
}

/// How a build ends.
#[derive(Clone, Debug)]
pub enum Verdict {
    Available,
    Failed(Box<Failure>),
    Cancelled,
}

#[derive(Clone, Debug)]
pub enum State {
    /// Nothing has been done yet.
    New,
    /// The stage's task is at work.
    Running(Stage),
    /// The verdict is in; the stage's task has been told to stop and has not ended yet.
    Stopping {
        stage: Stage,
        verdict: Verdict,
        at_once: bool,
    },
    /// No task is at work; what the build acquired is being given back.
    Undoing(Verdict),
    Ended(Verdict),
}

#[derive(Clone, Debug)]
pub enum Input {
    Begin,
    /// The stage's task has ended well.
    Done(Stage),
    /// The stage's task has ended badly (a lost machine is such an end), or because it was told to.
    Failed(Stage, Box<Failure>),
    /// End cleanly.
    Cancel,
    /// End at once.
    CancelNow,
    /// The build as a whole has run out of time (its limit, in s).
    TimedOut(u64),
    /// Every undo row has been dealt with, or could not be.
    Undone,
}

/// What the driver has to do, in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write the image's status, with a reason when it did not work.
    SetStatus(ImageStatus, Option<String>),
    Start(Stage),
    /// Ask the running stage to stop; it may take the time of an orderly end.
    Stop,
    /// Kill the machines and drop the running stage.
    Abort,
    /// Give back what the undo rows name.
    Undo,
    /// Report and end. The last effect of a build.
    Finish(Verdict),
}

/// The image's status while a stage is at work.
pub fn status_of(stage: Stage) -> ImageStatus {
    match stage {
        Stage::Prepare | Stage::Boot => ImageStatus::Creating,
        Stage::Provision | Stage::Seal | Stage::Capture => ImageStatus::Building,
        Stage::Test => ImageStatus::Testing,
        Stage::Distribute => ImageStatus::Distributing,
    }
}

/// The move that an input makes. An input that means nothing in a state changes nothing.
pub fn next(route: &Route, state: State, input: Input) -> (State, Vec<Effect>) {
    match (state, input) {
        (State::New, Input::Begin) => match route.0.first() {
            Some(first) => start(*first),
            None => undo(Verdict::Available),
        },
        (State::New, Input::Cancel | Input::CancelNow) => undo(Verdict::Cancelled),
        (State::New, Input::TimedOut(limit)) => undo(timed_out(limit)),

        (State::Running(stage), Input::Done(done)) if done == stage => match route.after(stage) {
            Some(following) => start(following),
            None => undo(Verdict::Available),
        },
        (State::Running(stage), Input::Failed(failed, failure)) if failed == stage => {
            undo(Verdict::Failed(Box::new(failure.in_stage(stage))))
        }
        (State::Running(stage), Input::Cancel) => stop(stage, Verdict::Cancelled),
        (State::Running(stage), Input::CancelNow) => abort(stage, Verdict::Cancelled),
        (State::Running(stage), Input::TimedOut(limit)) => stop(stage, in_stage(timed_out(limit), stage)),

        // The verdict stands: how the told task ends does not change it.
        (State::Stopping { stage, verdict, .. }, Input::Done(s) | Input::Failed(s, _)) if s == stage => {
            undo(verdict)
        }
        (State::Stopping { stage, verdict, at_once: false }, Input::CancelNow) => abort(stage, verdict),

        (State::Undoing(verdict), Input::Undone) => finish(verdict),
        // Undo rows that are left are dealt with by the next kiln.
        (State::Undoing(verdict), Input::CancelNow) => finish(verdict),

        (state, _) => (state, Vec::new()),
    }
}

fn start(stage: Stage) -> (State, Vec<Effect>) {
    (State::Running(stage), vec![Effect::SetStatus(status_of(stage), None), Effect::Start(stage)])
}

fn stop(stage: Stage, verdict: Verdict) -> (State, Vec<Effect>) {
    (State::Stopping { stage, verdict, at_once: false }, vec![Effect::Stop])
}

fn abort(stage: Stage, verdict: Verdict) -> (State, Vec<Effect>) {
    (State::Stopping { stage, verdict, at_once: true }, vec![Effect::Abort])
}

fn undo(verdict: Verdict) -> (State, Vec<Effect>) {
    let (status, reason) = match &verdict {
        Verdict::Available => (ImageStatus::Available, None),
        Verdict::Failed(failure) => (ImageStatus::Failed, Some(reason(failure))),
        Verdict::Cancelled => (ImageStatus::Cancelled, None),
    };
    (State::Undoing(verdict), vec![Effect::SetStatus(status, reason), Effect::Undo])
}

fn finish(verdict: Verdict) -> (State, Vec<Effect>) {
    (State::Ended(verdict.clone()), vec![Effect::Finish(verdict)])
}

fn timed_out(limit: u64) -> Verdict {
    let message = format!("the build did not end within its limit of {limit} s");
    let hint = "Raise `kiln: timeouts: build` in the recipe (seconds).";
    Verdict::Failed(Box::new(Failure::new(FailureKind::TimedOut, message).hint(hint)))
}

fn in_stage(verdict: Verdict, stage: Stage) -> Verdict {
    match verdict {
        Verdict::Failed(failure) => Verdict::Failed(Box::new(failure.in_stage(stage))),
        other => other,
    }
}

/// One line for the image's row.
fn reason(failure: &Failure) -> String {
    let mut text = String::new();
    for (name, value) in
        [("component", &failure.component), ("phase", &failure.phase), ("step", &failure.step)]
    {
        if let Some(value) = value {
            text.push_str(&format!("{name} {value}, "));
        }
    }
    match failure.stage {
        Some(stage) => format!("stage {stage}: {text}{failure}"),
        None => format!("{text}{failure}"),
    }
}

impl State {
    /// What the catalog keeps of it.
    pub fn describe(&self) -> String {
        match self {
            State::New => "new".into(),
            State::Running(stage) => format!("running {stage}"),
            State::Stopping { stage, verdict, .. } => format!("stopping {stage}, {}", verdict.as_str()),
            State::Undoing(verdict) => format!("undoing, {}", verdict.as_str()),
            State::Ended(verdict) => format!("ended, {}", verdict.as_str()),
        }
    }
}

impl Verdict {
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Available => "available",
            Verdict::Failed(_) => "failed",
            Verdict::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests;
