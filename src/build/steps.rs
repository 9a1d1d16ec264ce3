//! A component run as a build tells it: events, and one log file per step.

use super::event::{Events, Outcome, StageName, What};
use crate::component::run::{Event, Observer, Place, Status};
use crate::model::{FailureKind, Stage};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// Most bytes of one step's log; what comes after is not kept.
const LOG_LIMIT: u64 = 64 << 20;
/// Longest line of an event.
const LINE_LIMIT: usize = 4096;

pub struct StepObserver {
    events: Events,
    stage: Stage,
    folder: PathBuf,
    /// Steps of the build before this run.
    offset: u32,
    current: Option<Current>,
    /// The log of the newest step.
    last_log: Option<PathBuf>,
}

struct Current {
    begun: Instant,
    log: Option<File>,
    left: u64,
}

impl StepObserver {
    pub fn new(events: &Events, stage: Stage, folder: &Path, offset: u32) -> StepObserver {
        let folder = folder.to_owned();
        StepObserver { events: events.clone(), stage, folder, offset, current: None, last_log: None }
    }

    /// The log of the step that ran last.
    pub fn last_log(&self) -> Option<&Path> {
        self.last_log.as_deref()
    }

    fn number(&self, place: &Place) -> u32 {
        self.offset + place.index as u32 + 1
    }

    fn started(&mut self, place: &Place, attempt: u32) {
        let number = self.number(place);
        let name = format!("{number:03}-{}-{}-{}.log", place.component, place.phase, place.step);
        let path = self.folder.join(file_name(&name));
        if attempt == 1 {
            // Without a log the step runs all the same; its output is in the events.
            let log = File::create(&path).ok();
            self.current = Some(Current { begun: Instant::now(), log, left: LOG_LIMIT });
            self.last_log = Some(path.clone());
        }
        self.events.send(What::StepStarted {
            stage: StageName(self.stage),
            component: place.component.into(),
            phase: place.phase.into(),
            step: place.step.into(),
            action: place.action.into(),
            attempt,
            number,
            log: path,
        });
    }

    fn ended(&mut self, place: &Place, outcome: Outcome, exit_code: Option<i32>) {
        let begun = self.current.take().map(|c| c.begun);
        self.events.send(What::StepEnded {
            stage: StageName(self.stage),
            component: place.component.into(),
            phase: place.phase.into(),
            step: place.step.into(),
            outcome,
            wall_ms: begun.map_or(0, |b| b.elapsed().as_millis() as u64),
            exit_code,
        });
    }

    fn note(&self, text: String) {
        self.events.send(What::Note { stage: StageName(self.stage), text });
    }
}

impl Observer for StepObserver {
    fn event(&mut self, event: &Event) {
        match event {
            Event::StepStarted { place } => self.started(place, 1),
            Event::Attempt { place, attempt, .. } => {
                self.log_line(&format!("--- attempt {attempt}"));
                self.started(place, *attempt);
            }
            Event::Output { place, line, error } => {
                self.log_line(line);
                let line = cut(line).to_owned();
                self.events.send(What::StepOutput { step: place.step.into(), line, error: *error });
            }
            Event::Rebooting { place, again } => {
                self.log_line("--- reboot");
                let then = if *again { "; the step runs again then" } else { "" };
                self.note(format!("the guest reboots for step {}{then}", place.step));
            }
            Event::Rebooted { .. } => self.note("the guest is back".into()),
            Event::StepEnded { place, status, message, exit_code } => {
                if !message.is_empty() {
                    self.log_line(&format!("--- {message}"));
                }
                self.ended(place, outcome(*status), *exit_code);
            }
            Event::StepStopped { place, why } => {
                self.log_line(&format!("--- {why}"));
                let cancelled = why.kind == FailureKind::Cancelled;
                self.ended(place, if cancelled { Outcome::Cancelled } else { Outcome::Failed }, None);
            }
        }
    }
}

impl StepObserver {
    fn log_line(&mut self, line: &str) {
        let Some(current) = &mut self.current else { return };
        let Some(log) = &mut current.log else { return };
        let bytes = line.len() as u64 + 1;
        if current.left < bytes {
            if current.left > 0 {
                let _ = writeln!(log, "--- more than {} MiB: the rest is not kept", LOG_LIMIT >> 20);
            }
            current.left = 0;
            return;
        }
        current.left -= bytes;
        let _ = writeln!(log, "{line}");
    }
}

fn outcome(status: Status) -> Outcome {
    match status {
        Status::Skipped => Outcome::Skipped,
        Status::IgnoredFailure | Status::SuccessWithIgnoredFailure => Outcome::Ignored,
        Status::Failed | Status::TimedOut => Outcome::Failed,
        Status::Success | Status::Running => Outcome::Succeeded,
    }
}

fn cut(line: &str) -> &str {
    let mut end = line.len().min(LINE_LIMIT);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

/// Names of components and steps are the user's: nothing of them leaves the folder.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_step_has_a_log_and_events() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::new("b", None);
        let mut stream = events.subscribe();
        let mut observer = StepObserver::new(&events, Stage::Provision, folder.path(), 2);
        let place = Place {
            index: 0,
            component: "../in stall",
            phase: "build",
            step: "Install",
            action: "ExecuteBash",
        };
        observer.event(&Event::StepStarted { place });
        observer.event(&Event::Output { place, line: &"é".repeat(3000), error: false });
        observer.event(&Event::Attempt { place, attempt: 2, of: 3 });
        observer.event(&Event::Output { place, line: "two", error: true });
        observer.event(&Event::StepEnded { place, status: Status::Success, message: "", exit_code: Some(0) });
        events.close();
        drop(observer);
        let log = folder.path().join("003-.._in_stall-build-Install.log");
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["--- attempt 2", "two"]);
        let mut seen = Vec::new();
        while let Some(event) = stream.next().await {
            seen.push(match event.what {
                What::StepStarted { number, attempt, log: path, .. } => {
                    assert_eq!(path, log);
                    format!("start {number} {attempt}")
                }
                What::StepOutput { line, error, .. } => format!("{} {error}", line.len()),
                What::StepEnded { outcome, .. } => format!("{outcome:?}"),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["start 3 1", "4096 false", "start 3 2", "3 true", "Succeeded"]);
    }
}
