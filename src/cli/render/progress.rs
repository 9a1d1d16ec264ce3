//! Renderers of a build's event stream, all on stderr: lines, bars, NDJSON, nothing.

use super::Progress;
use crate::build::event::{Event, Outcome, Subscription, What};
use crate::support::size::count;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A renderer at work.
pub struct Following {
    task: JoinHandle<()>,
    bars: Option<MultiProgress>,
}

impl Following {
    /// Returns when the stream has ended and its last lines are out.
    pub async fn end(self) {
        let _ = self.task.await;
    }

    /// What can take the terminal for itself for a while.
    pub fn curtain(&self) -> Curtain {
        Curtain(self.bars.clone())
    }
}

/// Hides the bars while somebody else writes to the terminal.
#[derive(Clone)]
pub struct Curtain(Option<MultiProgress>);

impl Curtain {
    pub fn down(&self) {
        if let Some(bars) = &self.0 {
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    pub fn up(&self) {
        if let Some(bars) = &self.0 {
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// Renders until the stream ends.
pub fn follow(mut events: Subscription, progress: Progress) -> Following {
    let mut bars = None;
    let mut with_bars = || {
        let all = MultiProgress::new();
        bars = Some(all.clone());
        Box::new(Bars::new(all))
    };
    let mut renderer: Box<dyn Renderer> = match progress {
        Progress::None => Box::new(Nothing),
        Progress::Json => Box::new(Json),
        Progress::Tty => with_bars(),
        Progress::Auto if std::io::stderr().is_terminal() => with_bars(),
        Progress::Auto | Progress::Plain => {
            Box::new(Plain { lines: Lines::default(), waits: Seldom::default() })
        }
    };
    let task = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            renderer.event(&event);
        }
        renderer.end();
    });
    Following { task, bars }
}

trait Renderer: Send {
    fn event(&mut self, event: &Event);
    fn end(&mut self) {}
}

struct Nothing;

impl Renderer for Nothing {
    fn event(&mut self, _: &Event) {}
}

struct Json;

impl Renderer for Json {
    fn event(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        // Nobody reads any more: the build goes on.
        let _ = std::io::stderr().write_all(&line);
    }
}

/// What every event looks like as a line of text; state is what lines refer back to.
#[derive(Default)]
struct Lines {
    begun: Option<i64>,
    steps: u32,
    number: u32,
}

impl Lines {
    /// None for events that need no line.
    fn line(&mut self, event: &Event) -> Option<String> {
        let begun = *self.begun.get_or_insert(event.at);
        let clock = format!("[{:>6.1}s]", (event.at - begun).max(0) as f64 / 1000.0);
        let text = match &event.what {
            What::BuildStarted { image, steps, folder, .. } => {
                self.steps = *steps;
                format!("building {image}: {}, logs in {}", count(*steps as usize, "step"), folder.display())
            }
            What::Status { status, reason } => match reason {
                Some(reason) => format!("status {}: {}", status.0, printable(reason)),
                None => format!("status {}", status.0),
            },
            What::StageStarted { stage } => format!("{}", stage.0),
            What::StageEnded { stage, ok, wall_ms, cpu_ms } => {
                let word = if *ok { "done" } else { "ended" };
                format!("{} {word} in {} ({} CPU)", stage.0, seconds(*wall_ms), seconds(*cpu_ms))
            }
            What::Note { stage, text } => format!("{}: {text}", stage.0),
            What::Waiting { stage, text, since_ms } => {
                format!("{}: waiting for {text}, {}", stage.0, seconds(*since_ms))
            }
            What::StepStarted { component, phase, step, action, attempt, number, .. } => {
                self.number = *number;
                let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
                format!("step {number}/{} {component} {phase}/{step} ({action}{again})", self.steps)
            }
            What::StepOutput { line, error, .. } => {
                return Some(format!("           {} {}", if *error { "!" } else { "|" }, printable(line)));
            }
            What::StepEnded { component, phase, step, outcome, wall_ms, exit_code, .. } => {
                let code =
                    exit_code.filter(|c| *c != 0).map(|c| format!(", exit code {c}")).unwrap_or_default();
                let n = self.number;
                let word = word(*outcome);
                format!(
                    "step {n}/{} {component} {phase}/{step} {word} in {}{code}",
                    self.steps,
                    seconds(*wall_ms)
                )
            }
            What::Layer { component, bytes, held_ms, wall_ms } => format!(
                "layer kept after {component}: {} MiB in {} (writes held for {held_ms} ms)",
                bytes >> 20,
                seconds(*wall_ms)
            ),
            What::Warning { text } => format!("warning: {text}"),
            What::OutputLost { lines } => {
                format!("({} of output not shown; the step's log has it all)", count(*lines as usize, "line"))
            }
            What::BuildEnded { image, status, wall_ms, cpu_ms, .. } => {
                format!("{image} is {} after {} ({} CPU)", status.0, seconds(*wall_ms), seconds(*cpu_ms))
            }
        };
        Some(format!("{clock} {text}"))
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Ignored => "failed, which its document ignores,",
        Outcome::Skipped => "skipped",
        Outcome::Rebooting => "reboots the guest",
        Outcome::Cancelled => "cancelled",
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

/// The guest's text without what could steer a terminal: colours and cursor movements go, other
/// control characters are shown as U+FFFD.
pub fn printable(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = sequence.find(|c: char| ('@'..='~').contains(&c)).map_or(sequence.len(), |at| at + 1);
        rest = &sequence[end..];
    }
    plain.push_str(rest);
    plain.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Which moments of a wait are worth a line where lines stay: 5 s, 10 s, 20 s and so on.
#[derive(Default)]
pub struct Seldom {
    told_ms: u64,
}

impl Seldom {
    pub fn worth_a_line(&mut self, since_ms: u64) -> bool {
        let new = since_ms < self.told_ms;
        let worth = new || since_ms >= 2 * self.told_ms;
        if worth {
            self.told_ms = since_ms;
        }
        worth
    }
}

struct Plain {
    lines: Lines,
    waits: Seldom,
}

impl Renderer for Plain {
    fn event(&mut self, event: &Event) {
        if let What::Waiting { since_ms, .. } = event.what
            && !self.waits.worth_a_line(since_ms)
        {
            return;
        }
        if let Some(line) = self.lines.line(event) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// Finished things scroll by; at the bottom a bar of the steps and what goes on now.
struct Bars {
    lines: Lines,
    all: MultiProgress,
    bar: ProgressBar,
    now: ProgressBar,
}

impl Bars {
    fn new(all: MultiProgress) -> Bars {
        let style = |template| ProgressStyle::with_template(template).expect("a fixed template");
        let bar =
            all.add(ProgressBar::new(0).with_style(style("{bar:24} {pos}/{len} steps  {elapsed}  {msg}")));
        let now = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {wide_msg}")));
        now.enable_steady_tick(Duration::from_millis(200));
        Bars { lines: Lines::default(), all, bar, now }
    }
}

impl Renderer for Bars {
    fn event(&mut self, event: &Event) {
        let Some(line) = self.lines.line(event) else { return };
        match &event.what {
            What::BuildStarted { steps, .. } => {
                self.bar.set_length(u64::from(*steps));
                let _ = self.all.println(line);
            }
            What::StageStarted { stage } => self.bar.set_message(stage.0.to_string()),
            What::Note { .. } | What::Waiting { .. } | What::StepStarted { .. } => self.now.set_message(line),
            What::StepOutput { line, .. } => self.now.set_message(printable(line)),
            What::StepEnded { .. } => {
                self.bar.set_position(u64::from(self.lines.number));
                let _ = self.all.println(line);
            }
            What::Status { .. } => {}
            What::StageEnded { .. }
            | What::Layer { .. }
            | What::Warning { .. }
            | What::OutputLost { .. }
            | What::BuildEnded { .. } => {
                let _ = self.all.println(line);
            }
        }
    }

    fn end(&mut self) {
        self.now.finish_and_clear();
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::event::{SCHEMA, StageName};
    use crate::model::Stage;

    #[test]
    fn a_long_wait_is_told_ever_more_seldom() {
        let mut seldom = Seldom::default();
        let told: Vec<u64> = (1..=20).map(|n| n * 5000).filter(|ms| seldom.worth_a_line(*ms)).collect();
        assert_eq!(told, [5000, 10_000, 20_000, 40_000, 80_000]);
        assert!(seldom.worth_a_line(3000), "another wait begins");
    }

    #[test]
    fn lines_name_step_wait_and_time() {
        let mut lines = Lines::default();
        let mut line =
            |at, what| lines.line(&Event { v: SCHEMA, seq: 1, at, build: "b".into(), what }).unwrap();
        let stage = StageName(Stage::Boot);
        assert_eq!(line(1000, What::StageStarted { stage }), "[   0.0s] boot");
        let waiting = What::Waiting { stage, text: "systemd: 2 jobs".into(), since_ms: 4000 };
        assert_eq!(line(5000, waiting), "[   4.0s] boot: waiting for systemd: 2 jobs, 4.0 s");
        let output = What::StepOutput { step: "S".into(), line: "\u{1b}[2Jboo".into(), error: true };
        assert_eq!(line(6000, output), "           ! boo");
    }
}
