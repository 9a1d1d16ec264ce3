//! One step: its attempts, and the iterations of its loop.

use super::context::{Context, Output, Outputs, RebootWish, StepError};
use super::log::StepLog;
use super::resolve::{Iteration, Outside, Resolver};
use super::state::{RecordedItem, RunState, Status, StepCursor, join};
use super::{Ended, Event, Level, Reboots, Runner, place};
use crate::component::action::execute_binary;
use crate::component::action::{self, Item, Resolved, Verb};
use crate::component::condition::Condition;
use crate::component::document::{Inputs, Step};
use crate::component::loops::{self, Over};
use crate::component::plan::PlannedStep;
use crate::guest::GuestError;
use crate::support::wait::Patience;
use kiln_protocol::message::Facts;
use std::time::Duration;

/// What came of trying a step.
pub enum Attempted {
    Ended(Box<Ended>),
    /// `ended` when the step is done with this, None when it goes on afterwards.
    Reboot {
        wish: RebootWish,
        ended: Option<Box<Ended>>,
    },
}

/// What came of one attempt.
#[derive(Default)]
struct Attempt {
    inputs: Vec<RecordedItem>,
    outputs: Vec<Outputs>,
    reboot: Option<RebootWish>,
    nested: Option<Box<RunState>>,
    last_lines: Vec<String>,
    error: Option<StepError>,
}

impl Attempted {
    pub fn skipped() -> Attempted {
        Attempted::Ended(Box::new(Ended { attempts: 0, ..ended(Status::Skipped) }))
    }

    pub fn failed(message: String) -> Attempted {
        Attempted::Ended(Box::new(Ended { message, attempts: 0, ..ended(Status::Failed) }))
    }
}

fn ended(status: Status) -> Ended {
    Ended {
        status,
        message: String::new(),
        exit_code: None,
        attempts: 1,
        iterations: 0,
        inputs: Vec::new(),
        outputs: Vec::new(),
        last_lines: Vec::new(),
        nested: None,
    }
}

impl Runner<'_> {
    /// What every process of a step has around it.
    fn environment(&self) -> Vec<(String, String)> {
        let own = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("WORKING_DIRECTORY", self.options.working_directory.as_str()),
        ];
        let given = &self.options.environment;
        own.into_iter()
            .filter(|(name, _)| !given.iter().any(|(n, _)| n == name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain(given.iter().cloned())
            .collect()
    }

    /// The guest's facts, asked once per boot.
    async fn facts(&mut self) -> Result<Facts, GuestError> {
        if self.facts.is_none() {
            self.facts = Some(self.guest.facts(&self.patience.at_most(Duration::from_secs(60))).await?);
        }
        Ok(self.facts.clone().unwrap_or_default())
    }

    /// The truth of a condition, of `if` or Assert.
    pub(super) async fn ask(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        condition: &Condition,
        silent: bool,
    ) -> Result<bool, StepError> {
        let (component, _, _) = planned.of(level.components);
        let facts = self.facts().await?;
        let environment = self.environment();
        let outside = Outside {
            environment: &environment,
            facts: &facts,
            provider: self.provider,
            secrets: self.secrets,
        };
        let names = (planned.phase_name.as_str(), planned.step_name.as_str());
        let resolver = Resolver::new(component, planned.component, state, names, outside);
        let place = place(planned, state.cursor.next);
        let log = StepLog::new(self.observer, place, self.secrets, silent);
        let patience = self.patience;
        let context = Context::new(self.guest, patience, environment.clone(), self.options, log);
        super::judge::judge(condition, &resolver, &context).await
    }

    /// Tries the step until it succeeds or its attempts are used up.
    pub(super) async fn attempts(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        cursor: &mut StepCursor,
        silent: bool,
    ) -> Result<Attempted, GuestError> {
        let (_, _, step) = planned.of(level.components);
        loop {
            let attempt = self.attempt(level, planned, state, cursor, silent).await;
            let status = match &attempt.error {
                None => Status::Success,
                Some(StepError::TimedOut) => Status::TimedOut,
                Some(_) => Status::Failed,
            };
            if status != Status::Success && cursor.attempt < step.max_attempts {
                let fatal = matches!(attempt.error, Some(StepError::Fatal(_)));
                if !fatal {
                    cursor.attempt += 1;
                    cursor.start_over();
                    let place = place(planned, state.cursor.next);
                    self.observer.event(&Event::Attempt {
                        place,
                        attempt: cursor.attempt,
                        of: step.max_attempts,
                    });
                    continue;
                }
            }
            if let Some(wish) = attempt.reboot
                && (wish.again || more_iterations(step, cursor))
            {
                return Ok(Attempted::Reboot { wish, ended: None });
            }
            let (message, exit_code, failed_outputs) = match attempt.error {
                None => (String::new(), None, None),
                Some(StepError::Fatal(error)) => return Err(error),
                Some(error) => {
                    let message = failure_message(step, cursor, &error);
                    match error {
                        StepError::Failed { exit_code, outputs, .. } => (message, exit_code, Some(outputs)),
                        _ => (message, None, None),
                    }
                }
            };
            let outputs = match (&step.looped, failed_outputs) {
                (Some(_), _) => vec![std::mem::take(&mut cursor.gathered)],
                (None, Some(outputs)) => outputs,
                (None, None) => attempt.outputs,
            };
            let done = Box::new(Ended {
                status,
                message,
                exit_code,
                attempts: cursor.attempt,
                iterations: cursor.iteration,
                inputs: attempt.inputs,
                outputs,
                last_lines: attempt.last_lines,
                nested: attempt.nested,
            });
            return Ok(match attempt.reboot {
                Some(wish) => Attempted::Reboot { wish, ended: Some(done) },
                None => Attempted::Ended(done),
            });
        }
    }

    /// All iterations, or what is left of them after a reboot, within one time budget.
    async fn attempt(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        cursor: &mut StepCursor,
        silent: bool,
    ) -> Attempt {
        let (_, _, step) = planned.of(level.components);
        let patience = match step.timeout_seconds {
            Some(seconds) => self.patience.at_most(Duration::from_secs(seconds)),
            None => self.patience.clone(),
        };
        let mut attempt = Attempt::default();
        loop {
            let value = match self.iteration_value(level, planned, state, cursor).await {
                Ok(Some(value)) => value,
                Ok(None) => return attempt,
                Err(error) => return Attempt { error: Some(error), ..attempt },
            };
            if patience.deadline.is_some_and(|d| d <= tokio::time::Instant::now()) {
                return Attempt { error: Some(StepError::TimedOut), ..attempt };
            }
            if patience.cancel.is_cancelled() {
                let what = format!("step `{}`", step.name);
                let error = crate::support::wait::Impatience::Cancelled { what };
                return Attempt { error: Some(StepError::Fatal(error.into())), ..attempt };
            }
            attempt = self.iteration(level, planned, state, cursor, &value, silent, &patience).await;
            self.refuse_reboot(&mut attempt);
            if attempt.error.is_some() || attempt.reboot.is_some_and(|w| w.again) {
                return attempt;
            }
            if step.looped.is_none() {
                return attempt;
            }
            let own = join(&std::mem::take(&mut attempt.outputs));
            let so_far = std::mem::take(&mut cursor.gathered);
            cursor.gathered = if so_far.is_empty() { own } else { join(&[so_far, own]) };
            cursor.iteration += 1;
            if attempt.reboot.is_some() {
                return attempt;
            }
            // An action that never waits must not keep everything else from running.
            tokio::task::yield_now().await;
        }
    }

    /// Where no reboot can be, the wish for one is a failure.
    fn refuse_reboot(&self, attempt: &mut Attempt) {
        let Reboots::Refuse(reason) = self.options.reboots else { return };
        let Some(wish) = attempt.reboot.take() else { return };
        let status = execute_binary::REBOOT;
        let (what, exit_code) = match wish.again {
            true => (format!("exit status {status} asks for a reboot"), Some(status)),
            false => ("it asks for a reboot".to_owned(), None),
        };
        let outputs = std::mem::take(&mut attempt.outputs);
        attempt.error =
            Some(StepError::Failed { message: format!("{what}, but {reason}"), exit_code, outputs });
    }

    /// The value of the iteration at the cursor; None when the loop has ended.
    async fn iteration_value(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        cursor: &mut StepCursor,
    ) -> Result<Option<String>, StepError> {
        let (component, _, step) = planned.of(level.components);
        let Some(looped) = &step.looped else { return Ok(Some(String::new())) };
        if let Over::For { start, end, update_by } = looped.over {
            return Ok(loops::value_at(start, end, update_by, cursor.iteration).map(|v| v.to_string()));
        }
        if cursor.items.is_none() {
            let facts = self.facts().await?;
            let environment = self.environment();
            let outside = Outside {
                environment: &environment,
                facts: &facts,
                provider: self.provider,
                secrets: self.secrets,
            };
            let names = (planned.phase_name.as_str(), planned.step_name.as_str());
            let resolver = Resolver::new(component, planned.component, state, names, outside);
            let mut items = Vec::new();
            match &looped.over {
                Over::List(list) => {
                    for template in list {
                        items.push(resolver.text(template).await?);
                    }
                }
                Over::Delimited { list, delimiter } => {
                    items = loops::split(&resolver.text(list).await?, *delimiter);
                }
                Over::For { .. } => {}
            }
            cursor.items = Some(items);
        }
        let index = usize::try_from(cursor.iteration).unwrap_or(usize::MAX);
        Ok(cursor.items.as_ref().and_then(|items| items.get(index)).cloned())
    }

    #[allow(clippy::too_many_arguments)]
    async fn iteration(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        state: &RunState,
        cursor: &mut StepCursor,
        value: &str,
        silent: bool,
        patience: &Patience,
    ) -> Attempt {
        let (component, _, step) = planned.of(level.components);
        let mut attempt = Attempt::default();
        let inputs = match &step.inputs {
            Inputs::Items(inputs) => inputs,
            Inputs::Condition(condition) => {
                attempt.error = match self.ask(level, planned, state, condition, silent).await {
                    Ok(true) => None,
                    Ok(false) => Some(StepError::failed("the condition does not hold")),
                    Err(error) => Some(error),
                };
                return attempt;
            }
        };
        let facts = match self.facts().await {
            Ok(facts) => facts,
            Err(error) => return Attempt { error: Some(error.into()), ..attempt },
        };
        let environment = self.environment();
        let outside = Outside {
            environment: &environment,
            facts: &facts,
            provider: self.provider,
            secrets: self.secrets,
        };
        let names = (planned.phase_name.as_str(), planned.step_name.as_str());
        let mut resolver = Resolver::new(component, planned.component, state, names, outside);
        resolver.iteration = step.looped.as_ref().map(|l| Iteration {
            loop_name: l.name.as_deref(),
            index: cursor.iteration,
            value,
        });
        let mut items = Vec::with_capacity(inputs.len());
        for input in inputs {
            match resolver.item(step.action, input).await {
                Ok(item) => items.push(item),
                Err(error) => return Attempt { error: Some(error), ..attempt },
            }
        }
        attempt.inputs = items.iter().map(record).collect();
        if step.action.verb == Verb::ExecuteDocument {
            let nothing = Item::default();
            let item = items.first().unwrap_or(&nothing);
            return self.nested(level, planned, item, cursor, attempt.inputs, patience).await;
        }
        let place = place(planned, state.cursor.next);
        let log = StepLog::new(self.observer, place, self.secrets, silent);
        let mut context = Context::new(self.guest, patience, environment, self.options, log);
        match action::perform(step.action.verb, &mut context, &items).await {
            Ok(done) => {
                attempt.outputs = done.outputs;
                attempt.reboot = done.reboot;
            }
            Err(error) => attempt.error = Some(error),
        }
        attempt.last_lines = context.last_lines();
        attempt
    }

    /// Runs the document inside a step.
    async fn nested(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        item: &Item,
        cursor: &mut StepCursor,
        inputs: Vec<RecordedItem>,
        patience: &Patience,
    ) -> Attempt {
        let attempt = Attempt { inputs, ..Attempt::default() };
        match self.document_inside(level, planned, item, cursor, patience).await {
            Ok(super::nested::Inside::Reboot(wish)) => Attempt { reboot: Some(wish), ..attempt },
            Ok(super::nested::Inside::Ended { state, failure, last_lines }) => {
                let outputs = vec![super::nested::summary(&state, &failure)];
                let error = failure.map(|message| StepError::Failed {
                    message,
                    exit_code: None,
                    outputs: outputs.clone(),
                });
                Attempt { outputs, nested: Some(state), error, last_lines, ..attempt }
            }
            Err(error) => Attempt { error: Some(error), ..attempt },
        }
    }
}

impl StepCursor {
    /// A new attempt begins with the first iteration.
    fn start_over(&mut self) {
        self.iteration = 0;
        self.items = None;
        self.gathered = Vec::new();
        self.nested = None;
    }
}

fn more_iterations(step: &Step, cursor: &StepCursor) -> bool {
    match step.looped.as_ref().map(|l| &l.over) {
        None => false,
        Some(Over::For { start, end, update_by }) => {
            loops::value_at(*start, *end, *update_by, cursor.iteration).is_some()
        }
        Some(_) => cursor.items.as_ref().is_some_and(|items| (items.len() as u64) > cursor.iteration),
    }
}

fn failure_message(step: &Step, cursor: &StepCursor, error: &StepError) -> String {
    let seconds = step.timeout_seconds.unwrap_or_default();
    match (error, &step.looped) {
        (StepError::TimedOut, Some(_)) => {
            format!("the loop timed out after {seconds} s, in iteration {}", cursor.iteration)
        }
        (StepError::TimedOut, None) => format!("it timed out after {seconds} s"),
        (error, Some(_)) => format!("iteration {} of the loop failed: {error}", cursor.iteration),
        (error, None) => error.to_string(),
    }
}

/// An item as it is kept for chaining and for reports.
fn record(item: &Item) -> RecordedItem {
    let value = |resolved: &Resolved| match resolved {
        Resolved::Text(text) => serde_json::Value::from(text.as_str()),
        Resolved::Texts(list) => serde_json::Value::from(list.as_slice()),
        Resolved::Boolean(flag) => serde_json::Value::from(*flag),
        Resolved::Integer(number) => serde_json::Value::from(*number),
        Resolved::Pairs(pairs) => {
            pairs.iter().map(|(n, v)| serde_json::json!({"name": n, "value": v})).collect()
        }
    };
    item.values.iter().map(|(name, resolved)| ((*name).to_owned(), value(resolved))).collect()
}

/// A text output.
pub fn output(name: &str, text: impl Into<String>) -> (String, Output) {
    (name.to_owned(), Output::bounded(text.into()))
}
