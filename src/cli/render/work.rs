//! Progress of work on base images, all on stderr: a bar, lines, NDJSON, nothing.

use super::{Progress, Seldom, printable};
use crate::base::Doing;
use crate::support::clock;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a machine is told of bytes.
const EVERY: Duration = Duration::from_secs(1);

pub struct Work {
    begun: Instant,
    way: Way,
}

enum Way {
    Nothing,
    Json { told: Option<Instant> },
    Plain { since: Instant, waits: Seldom },
    Bar { bar: ProgressBar },
}

impl Work {
    pub fn new(progress: Progress) -> Work {
        let begun = Instant::now();
        let bar = || {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            Way::Bar { bar }
        };
        let way = match progress {
            Progress::None => Way::Nothing,
            Progress::Json => Way::Json { told: None },
            Progress::Tty => bar(),
            Progress::Auto if std::io::stderr().is_terminal() => bar(),
            Progress::Auto | Progress::Plain => Way::Plain { since: begun, waits: Seldom::default() },
        };
        Work { begun, way }
    }

    pub fn tell(&mut self, doing: Doing<'_>) {
        let line = |text: &str| format!("[{:>4} s] {}", self.begun.elapsed().as_secs(), printable(text));
        // Nobody reads any more: the work goes on.
        let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
        match &mut self.way {
            Way::Nothing => {}
            Way::Json { told } => {
                let is_step = matches!(doing, Doing::Step(_));
                if is_step || told.is_none_or(|t| t.elapsed() >= EVERY) {
                    say(record(doing).to_string());
                    // What follows a step at once says nothing new.
                    *told = Some(Instant::now());
                }
            }
            Way::Plain { since, waits } => match doing {
                Doing::Step(text) => {
                    say(line(text));
                    (*since, *waits) = (Instant::now(), Seldom::default());
                }
                Doing::Bytes { done, total } => {
                    let passed = since.elapsed().as_millis() as u64;
                    if passed >= 5000 && waits.worth_a_line(passed) {
                        say(line(&of(done, total)));
                    }
                }
                Doing::Part(_) => {}
            },
            Way::Bar { bar } => match doing {
                Doing::Step(text) => {
                    bar.set_style(ProgressStyle::default_spinner());
                    bar.println(line(text));
                    bar.set_message(printable(text));
                }
                Doing::Bytes { done, total: Some(total) } => {
                    bar.set_style(style("{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"));
                    bar.set_length(total);
                    bar.set_position(done);
                }
                Doing::Bytes { done, total: None } => {
                    bar.set_style(style("{spinner} {bytes}, {bytes_per_sec}"));
                    bar.set_position(done);
                }
                Doing::Part(part) => {
                    bar.set_style(style("{bar:32} {percent} %"));
                    bar.set_length(1000);
                    bar.set_position((part * 1000.0) as u64);
                }
            },
        }
    }

    /// Takes the bar away.
    pub fn end(self) {
        if let Way::Bar { bar } = self.way {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a fixed template")
}

fn of(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{} of {} MiB", done >> 20, total >> 20),
        None => format!("{} MiB", done >> 20),
    }
}

fn record(doing: Doing<'_>) -> Value {
    let at = clock::now_ms();
    match doing {
        Doing::Step(text) => json!({"v": 1, "at": at, "type": "note", "text": text}),
        Doing::Bytes { done, total } => {
            json!({"v": 1, "at": at, "type": "bytes", "done": done, "total": total})
        }
        Doing::Part(part) => json!({"v": 1, "at": at, "type": "part", "part": part}),
    }
}
