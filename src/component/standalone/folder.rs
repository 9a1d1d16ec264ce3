//! The log folder of a run, as awstoe lays it out.

use super::StandaloneError;
use super::resume::Interrupted;
use crate::component::records;
use crate::component::run::{Ending, Event, Observer, RunReport, RunState, Status};
use crate::support::clock;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of the first failed step's error output that the end of console.log repeats.
const ERROR_OUTPUT: usize = 1 << 20;

/// Watches a run and writes `console.log`, `application.log` and `detailedoutput.json`.
pub struct LogFolder {
    path: PathBuf,
    console: BufWriter<File>,
    /// When what was written last went to the file.
    flushed: Instant,
    application: File,
    trace: bool,
    state_directory: PathBuf,
    kept: Option<Interrupted>,
    /// Where the output so far belongs.
    document: String,
    phase: String,
    /// Error output of the running step; of the first one that failed once there is one.
    errors: String,
    failed: bool,
}

/// `TOE_2025-11-21_01-34-00_UTC-0_<id>`.
pub fn name(execution_id: &str) -> String {
    let now = clock::rfc3339(clock::now_ms()).replace('T', "_").replace(':', "-");
    format!("TOE_{}_UTC-0_{execution_id}", now.trim_end_matches('Z'))
}

impl LogFolder {
    pub fn open(kept: &Interrupted, fresh: bool, trace: bool) -> Result<LogFolder, StandaloneError> {
        let path = kept.folder.clone();
        let io = |doing| {
            let path = path.clone();
            move |source| StandaloneError::Io { doing, path, source }
        };
        std::fs::create_dir_all(&path).map_err(io("make"))?;
        if fresh {
            for (i, document) in kept.documents.iter().enumerate() {
                let base = document.path.file_name().map(|n| n.to_string_lossy().into_owned());
                let copy = path.join(format!("D{i}__{}", base.unwrap_or_else(|| "document.yaml".into())));
                std::fs::write(copy, &document.text).map_err(io("write into"))?;
            }
        }
        let open = |name: &str| File::options().create(true).append(true).open(path.join(name));
        let mut folder = LogFolder {
            console: BufWriter::new(open("console.log").map_err(io("write into"))?),
            flushed: Instant::now(),
            application: open("application.log").map_err(io("write into"))?,
            path: path.clone(),
            trace,
            state_directory: PathBuf::new(),
            kept: None,
            document: String::new(),
            phase: String::new(),
            errors: String::new(),
            failed: false,
        };
        if !fresh {
            folder.say("Executor: System has rebooted successfully");
            folder.say("Recovery completed for detailed output.");
        }
        Ok(folder)
    }

    pub fn keep_states_in(&mut self, directory: &Path, kept: Interrupted) {
        self.state_directory = directory.to_owned();
        self.kept = Some(kept);
    }

    /// A line of console.log. A log that cannot be written does not end the run; its end is checked.
    fn say(&mut self, text: &str) {
        let line = format!("{} Info {text}\n", clock::rfc3339(clock::now_ms()));
        let _ = self.console.write_all(line.as_bytes());
        // A step may print millions of lines; who follows the file sees them soon enough.
        if self.flushed.elapsed() > Duration::from_millis(200) {
            let _ = self.console.flush();
            self.flushed = Instant::now();
        }
        if self.trace {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn note(&mut self, text: &str) {
        let line = format!("{} {text}\n", clock::rfc3339(clock::now_ms()));
        let _ = self.application.write_all(line.as_bytes());
    }

    /// Writes what is written at the end, or before a reboot.
    pub fn end(&mut self, report: &RunReport) -> Result<(), StandaloneError> {
        match (report.ending, report.is_success()) {
            (Ending::RebootDue, _) => {
                self.say("Getting reboot signal");
                self.say("Rebooting the system now");
            }
            (_, true) => self.say("TOE has completed execution successfully"),
            (_, false) => {
                self.say("TOE has completed execution with failure - Execution failed!");
                self.failure_block(report);
            }
        }
        let path = self.path.join("detailedoutput.json");
        std::fs::write(&path, records::detailed_output(&report.state) + "\n")
            .map_err(|source| StandaloneError::Io { doing: "write", path, source })?;
        self.console.flush().and_then(|()| self.console.get_ref().sync_all()).map_err(|source| {
            StandaloneError::Io { doing: "write", path: self.path.join("console.log"), source }
        })
    }

    fn failure_block(&mut self, report: &RunReport) {
        let Some(failure) = &report.failure else { return };
        let value = |v: &Option<String>| v.clone().unwrap_or_default();
        let mut lines = vec![
            format!("Document: {}", value(&failure.component)),
            format!("Phase: {}", value(&failure.phase)),
            format!("Step: {}", value(&failure.step)),
            format!("Action: {}", value(&failure.action)),
            format!("ErrorMessage: {}", failure.message),
        ];
        if !self.errors.is_empty() {
            lines.push(format!("Stderr: {}", self.errors.trim_end()));
        }
        lines.iter().for_each(|l| self.say(l));
    }
}

impl Observer for LogFolder {
    fn event(&mut self, event: &Event) {
        match event {
            Event::StepStarted { place } => {
                if self.document != place.component {
                    self.document = place.component.to_owned();
                    self.phase.clear();
                    self.say(&format!("Document {}", place.component));
                }
                if self.phase != place.phase {
                    self.phase = place.phase.to_owned();
                    self.say(&format!("Phase {}", place.phase));
                }
                self.say(&format!("Step {}", place.step));
                self.note(&format!("step {} of phase {} begins: {}", place.step, place.phase, place.action));
                if !self.failed {
                    self.errors.clear();
                }
            }
            Event::Attempt { place, attempt, of } => {
                self.say(&format!("Step {}: attempt {attempt} of {of}", place.step));
            }
            Event::Output { line, error, .. } => {
                let stream = if *error { "Stderr" } else { "Stdout" };
                self.say(&format!("{stream}: {line}"));
                if *error && !self.failed && self.errors.len() < ERROR_OUTPUT {
                    self.errors.push_str(line);
                    self.errors.push('\n');
                }
            }
            Event::Rebooting { place, again } => {
                self.note(&format!("step {} wants a reboot; it runs again afterwards: {again}", place.step));
            }
            Event::Rebooted { place } => self.note(&format!("back after the reboot of step {}", place.step)),
            Event::StepEnded { place, status, message, exit_code } => {
                if let Some(code) = exit_code {
                    self.say(&format!("ExitCode {code}"));
                } else if place.action.starts_with("Execute") && *status == Status::Success {
                    self.say("ExitCode 0");
                }
                let blank = if message.is_empty() { "" } else { ": " };
                self.note(&format!("step {} ended, {}{blank}{message}", place.step, status.as_str()));
                self.failed |= status.is_failure();
                let _ = self.console.flush();
            }
            Event::StepStopped { place, why } => {
                self.note(&format!("step {} was stopped: {why}", place.step));
                self.failed = true;
                let _ = self.console.flush();
            }
        }
    }

    fn checkpoint(&mut self, state: &RunState) -> std::io::Result<()> {
        std::fs::write(self.path.join("detailedoutput.json"), records::detailed_output(state))?;
        match &mut self.kept {
            Some(kept) => {
                kept.state = Some(state.clone());
                kept.save(&self.state_directory)
            }
            None => Ok(()),
        }
    }
}
