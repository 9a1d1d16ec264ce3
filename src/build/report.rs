//! The report of a build: one HTML file that works offline and attaches to a ticket.
//!
//! Pure: everything it shows is handed in. Guest text is escaped, nothing is
//! loaded from anywhere, there is no script.

use super::event::{Event, Outcome, What};
use crate::model::{Failure, ImageStatus};
use base64::Engine;
use std::fmt::Write;

/// What a report shows.
pub struct Report<'a> {
    pub image: &'a str,
    /// In the order they were sent; output lines are not needed.
    pub events: &'a [Event],
    pub failure: Option<&'a Failure>,
    /// Name and text of the steps' logs, in order. Callers bound them.
    pub logs: &'a [(String, String)],
    /// Tail of the console, oldest line first.
    pub console: &'a [String],
    /// Name and PNG bytes.
    pub screenshots: &'a [(String, Vec<u8>)],
}

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2024;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
pre{background:#f4f5f7;padding:.7rem;overflow:auto;max-height:30rem;font-size:13px;white-space:pre-wrap}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e5e8;vertical-align:top}
.bar{position:relative;height:1rem;background:#eef0f2;min-width:16rem}
.bar i{position:absolute;top:0;bottom:0;background:#4a7bd0;min-width:2px}.bad i{background:#c93a3a}
.bad td:first-child,.verdict.bad{color:#b02a2a;font-weight:600}.verdict.good{color:#1d7a3a;font-weight:600}
img{max-width:100%;border:1px solid #ccc}";

/// One line of the time line.
struct Span {
    name: String,
    from: i64,
    to: i64,
    ok: bool,
    cpu_ms: Option<u64>,
    /// Component, phase and name of a step.
    step: Option<[String; 3]>,
}

impl Report<'_> {
    pub fn html(&self) -> String {
        let mut h = String::new();
        let title = escape(self.image);
        let _ = write!(
            h,
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <style>{STYLE}</style><h1>{title}</h1>"
        );
        self.verdict(&mut h);
        self.failure(&mut h);
        self.time_line(&mut h);
        for (name, png) in self.screenshots {
            let data = base64::engine::general_purpose::STANDARD.encode(png);
            let name = escape(name);
            let _ =
                write!(h, "<h2>Screen: {name}</h2><img alt=\"{name}\" src=\"data:image/png;base64,{data}\">");
        }
        if !self.console.is_empty() {
            let _ = write!(h, "<h2>Console</h2><pre>{}</pre>", escape(&self.console.join("\n")));
        }
        if !self.logs.is_empty() {
            h.push_str("<h2>Logs of the steps</h2>");
        }
        for (name, text) in self.logs {
            let _ = write!(
                h,
                "<details><summary>{}</summary><pre>{}</pre></details>",
                escape(name),
                escape(text)
            );
        }
        h.push_str("</html>\n");
        h
    }

    fn verdict(&self, h: &mut String) {
        let end = self.events.iter().rev().find_map(|e| match &e.what {
            What::BuildEnded { status, reason, wall_ms, cpu_ms, .. } => {
                Some((status.0, reason, *wall_ms, *cpu_ms))
            }
            _ => None,
        });
        if let Some((status, reason, wall, cpu)) = end {
            let class = if status == ImageStatus::Available { "good" } else { "bad" };
            let reason = reason.as_deref().map(|r| format!(": {}", escape(r))).unwrap_or_default();
            let _ = write!(
                h,
                "<p><span class=\"verdict {class}\">{status}</span>{reason}. {:.1} s, {:.1} CPU s.</p>",
                wall as f64 / 1000.0,
                cpu as f64 / 1000.0
            );
        }
    }

    fn failure(&self, h: &mut String) {
        let Some(f) = self.failure else { return };
        h.push_str("<h2>What went wrong</h2><table>");
        let mut row = |name: &str, value: String| {
            let _ = write!(h, "<tr><th>{name}<td>{}", escape(&value));
        };
        row("What", f.message.clone());
        f.causes.iter().for_each(|c| row("because", c.clone()));
        if let Some(p) = &f.position {
            row("Where", p.to_string());
        }
        let place = [
            ("Stage", f.stage.map(|s| s.to_string())),
            ("Component", f.component.clone()),
            ("Phase", f.phase.clone()),
            ("Step", f.step.clone()),
            ("Action", f.action.clone()),
            ("Class", f.class.map(str::to_owned)),
            ("Exit code", f.exit_code.map(|c| c.to_string())),
        ];
        place.into_iter().filter_map(|(n, v)| v.map(|v| (n, v))).for_each(|(n, v)| row(n, v));
        f.hints.iter().for_each(|hint| row("Next", hint.clone()));
        h.push_str("</table>");
        if !f.last_lines.is_empty() {
            let _ =
                write!(h, "<p>Last lines of the step:</p><pre>{}</pre>", escape(&f.last_lines.join("\n")));
        }
    }

    fn time_line(&self, h: &mut String) {
        let (Some(first), Some(last)) = (self.events.first(), self.events.last()) else { return };
        let width = (last.at - first.at).max(1) as f64;
        h.push_str("<h2>Time line</h2><table>");
        for span in spans(self.events, self.failure) {
            let left = (span.from - first.at) as f64 / width * 100.0;
            let long = (span.to - span.from).max(0);
            let cpu = span.cpu_ms.map(|c| format!("{:.1} CPU s", c as f64 / 1000.0)).unwrap_or_default();
            let _ = write!(
                h,
                "<tr{}><td>{}<td>{:.1} s<td>{cpu}<td><div class=\"bar\">\
                 <i style=\"left:{left:.2}%;width:{:.2}%\"></i></div>",
                if span.ok { "" } else { " class=\"bad\"" },
                escape(&span.name),
                long as f64 / 1000.0,
                long as f64 / width * 100.0
            );
        }
        h.push_str("</table>");
    }
}

/// Stages and steps with begin and end; what never ended ends with the last event. The step that the failure
/// names has failed though it may have ended well: a Reboot has, before the guest does not come back.
fn spans(events: &[Event], failure: Option<&Failure>) -> Vec<Span> {
    let last = events.last().map_or(0, |e| e.at);
    let mut spans: Vec<Span> = Vec::new();
    let mut stage: Option<usize> = None;
    let mut step: Option<usize> = None;
    for event in events {
        match &event.what {
            What::StageStarted { stage: name } => {
                stage = Some(spans.len());
                spans.push(Span {
                    name: name.0.to_string(),
                    from: event.at,
                    to: last,
                    ok: false,
                    cpu_ms: None,
                    step: None,
                });
            }
            What::StageEnded { ok, cpu_ms, .. } => {
                if let Some(span) = stage.take().and_then(|i| spans.get_mut(i)) {
                    (span.to, span.ok, span.cpu_ms) = (event.at, *ok, Some(*cpu_ms));
                }
            }
            What::StepStarted { component, phase, step: name, action, attempt, .. } => {
                let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
                step = Some(spans.len());
                let place = [component, phase, name].map(String::clone);
                let name = format!("\u{2003}{component} {phase}/{name} ({action}{again})");
                spans.push(Span {
                    name,
                    from: event.at,
                    to: last,
                    ok: false,
                    cpu_ms: None,
                    step: Some(place),
                });
            }
            What::StepEnded { outcome, .. } => {
                if let Some(span) = step.take().and_then(|i| spans.get_mut(i)) {
                    span.to = event.at;
                    span.ok = !matches!(outcome, Outcome::Failed | Outcome::Cancelled);
                }
            }
            _ => {}
        }
    }
    let failed = failure.and_then(|f| Some([f.component.clone()?, f.phase.clone()?, f.step.clone()?]));
    if failed.is_some()
        && let Some(span) = spans.iter_mut().rev().find(|span| span.step == failed)
    {
        span.ok = false;
    }
    spans
}

/// Text as HTML text or attribute value; control characters become visible.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::event::{SCHEMA, StageName, StatusName};
    use super::*;
    use crate::model::{FailureKind, ImageStatus, Stage};

    fn report(events: &[Event], failure: Option<&Failure>) -> String {
        Report { image: "n/1.0.0/1", events, failure, logs: &[], console: &[], screenshots: &[] }.html()
    }

    #[test]
    fn only_an_available_image_has_a_good_verdict() {
        let end = |status| What::BuildEnded {
            image: "n/1.0.0/1".into(),
            status: StatusName(status),
            reason: None,
            wall_ms: 1,
            cpu_ms: 1,
        };
        for status in [ImageStatus::Available, ImageStatus::Cancelled, ImageStatus::Failed] {
            let html =
                report(&[Event { v: SCHEMA, seq: 1, at: 0, build: "b".into(), what: end(status) }], None);
            let class = if status == ImageStatus::Available { "good" } else { "bad" };
            assert!(html.contains(&format!("<span class=\"verdict {class}\">{status}<")), "{html}");
        }
    }

    #[test]
    fn a_reboot_that_the_guest_does_not_come_back_from_is_no_good_step() {
        let at = |at, what| Event { v: SCHEMA, seq: 1, at, build: "b".into(), what };
        let started = |step: &str| What::StepStarted {
            stage: StageName(Stage::Provision),
            component: "c".into(),
            phase: "build".into(),
            step: step.into(),
            action: "Reboot".into(),
            attempt: 1,
            number: 1,
            log: "log".into(),
        };
        let ended = |step: &str| What::StepEnded {
            stage: StageName(Stage::Provision),
            component: "c".into(),
            phase: "build".into(),
            step: step.into(),
            outcome: Outcome::Succeeded,
            wall_ms: 1,
            exit_code: None,
        };
        let events = [at(0, started("One")), at(1, ended("One")), at(2, started("Two")), at(3, ended("Two"))];
        let mut failure = Failure::new(FailureKind::Build, "it did not come back");
        (failure.component, failure.phase) = (Some("c".into()), Some("build".into()));
        failure.step = Some("Two".into());
        let html = report(&events, Some(&failure));
        assert!(html.contains("<tr class=\"bad\"><td>\u{2003}c build/Two"), "{html}");
        assert!(html.contains("<tr><td>\u{2003}c build/One"), "{html}");
    }

    #[test]
    fn guest_text_cannot_become_markup() {
        let at = |at, what| Event { v: SCHEMA, seq: 1, at, build: "b".into(), what };
        let stage = StageName(Stage::Provision);
        let events = [
            at(0, What::StageStarted { stage }),
            at(50, What::StageEnded { stage, ok: false, wall_ms: 50, cpu_ms: 7 }),
            at(
                100,
                What::BuildEnded {
                    image: "n/1.0.0/1".into(),
                    status: StatusName(ImageStatus::Failed),
                    reason: Some("<script>x</script>".into()),
                    wall_ms: 100,
                    cpu_ms: 9,
                },
            ),
        ];
        let mut failure = Failure::new(FailureKind::Build, "it <b>broke</b>");
        failure.last_lines.push("\u{1b}[31m<img onerror=x>".into());
        let html = Report {
            image: "n/1.0.0/1",
            events: &events,
            failure: Some(&failure),
            logs: &[("a'b".into(), "</pre><script>".into())],
            console: &["<!--".into()],
            screenshots: &[("boot".into(), vec![1, 2, 3])],
        }
        .html();
        for forbidden in ["<script", "<b>broke", "<img onerror", "\u{1b}", "<!--"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(html.contains("left:0.00%;width:50.00%"), "the stage takes the first half: {html}");
        assert!(html.contains("data:image/png;base64,AQID"));
    }
}
