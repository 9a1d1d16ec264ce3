//! The task that owns a build: it executes effects and feeds inputs, and decides nothing.

use super::event::{Events, StageName, StatusName, What};
use super::state::{Effect, Input, Route, State, Verdict, next};
use super::{recover, usage};
use crate::catalog::{Catalog, CatalogError};
use crate::model::{Failure, FailureKind, ImageStatus, Stage};
use crate::support::wait::Patience;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What does the stages' work. Everything it holds dies with it.
#[async_trait]
pub trait Works: Send {
    /// Does one stage. Cancelled through `patience`, it ends in an orderly way and soon.
    async fn run(&mut self, stage: Stage, patience: &Patience) -> Result<(), Failure>;

    /// Gives up what runs; nothing of it is alive on return. With `keep`, the disk is to be looked at
    /// later: what was written reaches it first.
    async fn close(&mut self, keep: bool);
}

/// A build that has its rows, its folder and its lock.
pub struct Order {
    pub catalog: Arc<Catalog>,
    pub build: String,
    pub image: i64,
    pub image_name: String,
    pub route: Route,
    /// Limit for the build as a whole.
    pub limit: Duration,
    /// How long a cancelled stage may take before it is dropped.
    pub grace: Duration,
    /// Leave the disk of a failed build where it is.
    pub keep: bool,
    /// Where a summary of the end goes to, besides the verdict.
    pub events: Events,
}

struct Task {
    stage: Stage,
    stop: CancellationToken,
    handle: JoinHandle<(Box<dyn Works>, Result<(), Failure>)>,
    begun: Instant,
    cpu_before: u64,
}

struct Driver<'a> {
    order: &'a Order,
    state: State,
    works: Option<Box<dyn Works>>,
    task: Option<Task>,
    /// Inputs that effects gave rise to.
    own: Option<Input>,
    grace_ends: Option<Instant>,
    begun: Instant,
    cpu_before: u64,
    verdict: Option<Verdict>,
    /// The status that was told last.
    told: Option<ImageStatus>,
}

/// Runs a build to its end.
///
/// # Errors
/// Only when the catalog can no longer be written; the build's row is then open, and the next
/// kiln command reconciles it.
pub async fn drive(
    order: &Order,
    works: Box<dyn Works>,
    cancel: &CancellationToken,
) -> Result<Verdict, Failure> {
    let mut driver = Driver {
        order,
        state: State::New,
        works: Some(works),
        task: None,
        own: Some(Input::Begin),
        grace_ends: None,
        begun: Instant::now(),
        cpu_before: usage::children_cpu_ms(),
        verdict: None,
        told: None,
    };
    match driver.run(cancel).await {
        Ok(verdict) => Ok(verdict),
        Err(e) => {
            driver.drop_task().await;
            Err(driver.unrecorded(e))
        }
    }
}

impl Driver<'_> {
    async fn run(&mut self, cancel: &CancellationToken) -> Result<Verdict, CatalogError> {
        let deadline = self.begun + self.order.limit;
        let (mut cancelled, mut timed_out) = (false, false);
        loop {
            let input = match self.own.take() {
                Some(input) => input,
                None => tokio::select! {
                    biased;
                    input = ended(&mut self.task, &mut self.works, &self.order.events) => input,
                    () = cancel.cancelled(), if !cancelled => {
                        cancelled = true;
                        Input::Cancel
                    }
                    () = until(self.grace_ends) => {
                        self.grace_ends = None;
                        Input::CancelNow
                    }
                    () = tokio::time::sleep_until(deadline), if !timed_out => {
                        timed_out = true;
                        Input::TimedOut(self.order.limit.as_secs())
                    }
                },
            };
            let said = describe(&input);
            let before = std::mem::replace(&mut self.state, State::New);
            let (state, effects) = next(&self.order.route, before, input);
            self.state = state;
            if let Err(e) = self.record(&said, &effects) {
                self.make_room(e, &effects).await?;
                self.record(&said, &effects)?;
            }
            for effect in effects {
                self.execute(effect).await?;
            }
            if let Some(verdict) = self.verdict.take() {
                return Ok(verdict);
            }
        }
    }

    /// The move, the build's state and the image's status: one write.
    fn record(&self, input: &str, effects: &[Effect]) -> Result<(), CatalogError> {
        let Order { build, image, .. } = self.order;
        let state = self.state.describe();
        self.order.catalog.write(|t| {
            t.journal(build, "moved", &format!("{input} -> {state}"))?;
            t.set_build_state(build, &state)?;
            effects.iter().try_for_each(|effect| match effect {
                Effect::SetStatus(status, reason) => t.set_status(*image, *status, reason.as_deref()),
                _ => Ok(()),
            })
        })
    }

    /// A build that has filled the disk of its home ends with giving its own files back; then there is
    /// room to write that down.
    ///
    /// # Errors
    /// The error that came in, where that is not the case.
    async fn make_room(&mut self, error: CatalogError, effects: &[Effect]) -> Result<(), CatalogError> {
        let gives_back = !self.order.keep && effects.iter().any(|e| matches!(e, Effect::Undo));
        if !gives_back || !error.is_disk_full() {
            return Err(error);
        }
        if let Some(works) = &mut self.works {
            works.close(false).await;
        }
        recover::make_room(&self.order.catalog, &self.order.build)
    }

    /// What is told of a build whose end could not be written down: its own failure comes first.
    fn unrecorded(self, error: CatalogError) -> Failure {
        let unwritten = Failure::from(error);
        let failure = match self.state {
            State::Undoing(Verdict::Failed(failure)) | State::Ended(Verdict::Failed(failure)) => {
                let mut failure = *failure;
                failure.causes.push(format!("and that could not be written down: {unwritten}"));
                failure.hints.extend(unwritten.hints);
                failure
            }
            _ => unwritten,
        };
        failure.hint(
            "What the build left is cleaned up by the next kiln command, once the catalog can be written.",
        )
    }

    async fn execute(&mut self, effect: Effect) -> Result<(), CatalogError> {
        let events = &self.order.events;
        match effect {
            Effect::SetStatus(status, _) if self.told == Some(status) => {}
            Effect::SetStatus(status, reason) => {
                self.told = Some(status);
                events.send(What::Status { status: StatusName(status), reason });
            }
            Effect::Start(stage) => self.start(stage),
            Effect::Stop => {
                if let Some(task) = &self.task {
                    task.stop.cancel();
                }
                self.grace_ends = Some(Instant::now() + self.order.grace);
            }
            Effect::Abort => {
                self.grace_ends = None;
                if let Some(stage) = self.drop_task().await {
                    let failure = Failure::new(FailureKind::Cancelled, "the stage was dropped");
                    self.own = Some(Input::Failed(stage, Box::new(failure)));
                }
            }
            Effect::Undo => {
                self.grace_ends = None;
                let keep = self.order.keep && matches!(self.state, State::Undoing(Verdict::Failed(_)));
                if let Some(mut works) = self.works.take() {
                    works.close(keep).await;
                }
                for problem in recover::undo(&self.order.catalog, &self.order.build, keep)? {
                    events.send(What::Warning { text: problem });
                }
                self.own = Some(Input::Undone);
            }
            Effect::Finish(verdict) => self.finish(verdict)?,
        }
        Ok(())
    }

    fn start(&mut self, stage: Stage) {
        self.order.events.send(What::StageStarted { stage: StageName(stage) });
        let mut works = self.works.take().expect("one stage at a time");
        let stop = CancellationToken::new();
        let patience = Patience::unlimited(&stop);
        let handle = tokio::spawn(async move {
            let result = works.run(stage, &patience).await;
            (works, result)
        });
        let (begun, cpu_before) = (Instant::now(), usage::children_cpu_ms());
        self.task = Some(Task { stage, stop, handle, begun, cpu_before });
    }

    /// Ends a stage's task without its consent; what it held is dropped. Returns its stage.
    async fn drop_task(&mut self) -> Option<Stage> {
        let task = self.task.take()?;
        task.handle.abort();
        // A task that was just about to end hands its works over all the same.
        if let Ok((mut works, _)) = task.handle.await {
            works.close(false).await;
        }
        Some(task.stage)
    }

    fn finish(&mut self, verdict: Verdict) -> Result<(), CatalogError> {
        let Order { build, image, catalog, events, .. } = self.order;
        let wall_ms = self.begun.elapsed().as_millis() as u64;
        let cpu_ms = usage::children_cpu_ms().saturating_sub(self.cpu_before);
        let image = catalog.write(|t| {
            let (stage, component) = match &verdict {
                Verdict::Failed(failure) => (failure.stage.map(|s| s.as_str()), failure.component.as_deref()),
                _ => (None, None),
            };
            let summary = serde_json::json!({
                "verdict": verdict.as_str(), "stage": stage, "component": component,
                "wallMs": wall_ms, "cpuMs": cpu_ms,
            });
            t.end_build(build, &summary.to_string())?;
            t.image(*image)
        })?;
        events.send(What::BuildEnded {
            image: self.order.image_name.clone(),
            status: StatusName(image.status),
            reason: image.reason,
            wall_ms,
            cpu_ms,
        });
        self.verdict = Some(verdict);
        Ok(())
    }
}

/// The end of the running stage as an input. Never ready when no stage runs.
async fn ended(task: &mut Option<Task>, works: &mut Option<Box<dyn Works>>, events: &Events) -> Input {
    let Some(running) = task else { return std::future::pending().await };
    let stage = running.stage;
    let outcome = (&mut running.handle).await;
    events.send(What::StageEnded {
        stage: StageName(stage),
        ok: matches!(outcome, Ok((_, Ok(())))),
        wall_ms: running.begun.elapsed().as_millis() as u64,
        cpu_ms: usage::children_cpu_ms().saturating_sub(running.cpu_before),
    });
    *task = None;
    match outcome {
        Ok((returned, result)) => {
            *works = Some(returned);
            match result {
                Ok(()) => Input::Done(stage),
                Err(failure) => Input::Failed(stage, Box::new(failure)),
            }
        }
        Err(e) => {
            let message = format!("the {stage} stage of kiln came to an unexpected end: {e}");
            let hint = "This is a defect of kiln: please report it with the lines above.";
            Input::Failed(stage, Box::new(Failure::new(FailureKind::Internal, message).hint(hint)))
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn describe(input: &Input) -> String {
    match input {
        Input::Begin => "begin".into(),
        Input::Done(stage) => format!("{stage} done"),
        Input::Failed(stage, failure) => format!("{stage} failed ({failure})"),
        Input::Cancel => "cancel".into(),
        Input::CancelNow => "cancel now".into(),
        Input::TimedOut(limit) => format!("over {limit} s"),
        Input::Undone => "undone".into(),
    }
}

#[cfg(test)]
mod tests;
