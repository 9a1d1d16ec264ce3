//! ExecuteDocument: a document inside a step, with a run of its own.

use super::context::{Context, Outputs, RebootWish, StepError};
use super::log::StepLog;
use super::state::{Nested, RunState, Status, StepCursor};
use super::step::output;
use super::{Level, Runner, Walked, place};
use crate::component::action::execute_document::DEPTH;
use crate::component::action::target_of;
use crate::component::action::{Item, Resolved};
use crate::component::bind::{Component, Strictness};
use crate::component::document::{Document, Rules};
use crate::component::fetch::{DOCUMENT, Wanted};
use crate::component::plan::{PlannedStep, plan};
use crate::guest::GuestError;
use crate::support::source::Source;
use crate::support::wait::Patience;
use crate::support::{clock, random};

/// What came of it.
pub enum Inside {
    Ended {
        state: Box<RunState>,
        failure: Option<String>,
        last_lines: Vec<String>,
    },
    /// The state is in the step's cursor.
    Reboot(RebootWish),
}

impl Runner<'_> {
    pub(super) async fn document_inside(
        &mut self,
        level: &Level<'_>,
        planned: &PlannedStep,
        item: &Item,
        cursor: &mut StepCursor,
        patience: &Patience,
    ) -> Result<Inside, StepError> {
        let address = self.address(item.required("document"));
        let mut ancestors = level.ancestors.to_vec();
        if ancestors.contains(&address) {
            return Err(StepError::failed(format!("{address} runs itself, over {}", ancestors.join(", "))));
        }
        if ancestors.len() >= DEPTH {
            return Err(StepError::failed(format!("documents lie more than {DEPTH} deep in each other")));
        }
        ancestors.push(address.clone());
        let nested = match cursor.nested.take() {
            Some(nested) => *nested,
            None => {
                let owner = item.text("document-s3-bucket-owner");
                let text = self.fetch(planned, &address, owner, patience).await?;
                let id = random::uuid().map_err(|e| StepError::Fatal(GuestError::Local(e)))?;
                Nested { text, state: RunState::new(id) }
            }
        };
        let Nested { text, mut state } = nested;
        let components = [bind(&address, &text, item)?];
        let phases: Vec<&str> = item
            .text("phases")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .collect();
        let steps = plan(&components, (!phases.is_empty()).then_some(phases.as_slice()));
        let inner = Level { components: &components, steps: &steps, ancestors: &ancestors };
        match Box::pin(self.walk(&inner, &mut state)).await {
            Walked::Paused => unreachable!("pauses are between the run's own steps"),
            Walked::Reboot(wish) => {
                cursor.nested = Some(Box::new(Nested { text, state }));
                // For the step outside it is always the same step that goes on.
                Ok(Inside::Reboot(RebootWish { again: true, ..wish }))
            }
            Walked::Stopped(mut failure) => {
                // The run ends, and this is why. The place will be that of the step outside.
                if let (Some(step), Some(phase)) = (&failure.step, &failure.phase) {
                    failure
                        .causes
                        .push(format!("that was in document {address}: step `{step}` of phase `{phase}`"));
                }
                Err(StepError::Fatal(GuestError::Ended(failure)))
            }
            Walked::Ended => {
                state.ended = clock::now_ms();
                let last_lines = state.failure.as_ref().map(|f| f.last_lines.clone()).unwrap_or_default();
                let failure = state.status().is_failure().then(|| match &state.failure {
                    Some(f) => format!(
                        "document {address} failed: step `{}` of phase `{}`: {}",
                        f.step, f.phase, f.message
                    ),
                    None => format!("document {address} failed"),
                });
                Ok(Inside::Ended { state: Box::new(state), failure, last_lines })
            }
        }
    }

    /// A relative path counts from the working directory.
    fn address(&self, written: &str) -> String {
        let foreign = written.starts_with("s3://") || written.starts_with("arn:");
        if foreign || written.starts_with('/') {
            return written.to_owned();
        }
        let relative = written.strip_prefix("./").unwrap_or(written);
        format!("{}/{relative}", self.options.working_directory.trim_end_matches('/'))
    }

    async fn fetch(
        &mut self,
        planned: &PlannedStep,
        address: &str,
        owner: Option<&str>,
        patience: &Patience,
    ) -> Result<String, StepError> {
        if address.starts_with("arn:") {
            return self.provider.document(address).await.map_err(StepError::failed);
        }
        let log = StepLog::new(self.observer, place(planned, 0), self.secrets, true);
        let mut context = Context::new(self.guest, patience, Vec::new(), self.options, log);
        let bytes = match address.starts_with("s3://") {
            true => {
                let kept = context.download(Wanted::Document(target_of(address, owner)?)).await?;
                kept.read().map_err(|e| StepError::failed(format!("{address}: {e}")))?
            }
            false => context.read(address, DOCUMENT).await?,
        };
        String::from_utf8(bytes).map_err(|_| StepError::failed(format!("{address} is no UTF-8 text")))
    }
}

fn bind(address: &str, text: &str, item: &Item) -> Result<Component, StepError> {
    let source = Source::new(address, text);
    let document = Document::parse(&source, &Rules::default()).map_err(|findings| {
        let shown: Vec<String> = findings
            .iter()
            .filter(|d| d.is_error())
            .take(5)
            .map(|d| format!("{}:{}: {}", d.span.line, d.span.column, d.message))
            .collect();
        StepError::failed(format!("the document {address} is not valid: {}", shown.join("; ")))
    })?;
    let given = match item.get("parameters") {
        Some(Resolved::Pairs(pairs)) => pairs.as_slice(),
        _ => &[],
    };
    Component::bind(address, document, given, Strictness::CommandLine).map_err(|errors| {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        StepError::failed(all.join("; "))
    })
}

/// The outputs of the step.
pub fn summary(state: &RunState, failure: &Option<String>) -> Outputs {
    let counts = state.counts();
    let status = match state.status() {
        Status::SuccessWithIgnoredFailure => Status::Success,
        other => other,
    };
    vec![
        output("executionId", state.execution_id.as_str()),
        output("status", status.as_str()),
        output("executedStepCount", counts.executed.to_string()),
        output("failedStepCount", counts.failed.to_string()),
        output("ignoredFailedStepCount", counts.ignored.to_string()),
        output("failureMessage", failure.as_deref().unwrap_or("")),
        output("logUrl", ""),
    ]
}
