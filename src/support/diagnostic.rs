//! What is wrong with a text that people wrote, where, and what to write instead.

use super::source::{Source, Span};
use std::fmt::Write as _;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but differently from what its author is likely to expect.
    Warning,
    Error,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Short and stable, for scripts and for looking it up: `unknown-field`.
    pub code: &'static str,
    pub source: Arc<Source>,
    pub span: Span,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// A few words beside the underlined text; may be empty.
    pub label: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl Diagnostic {
    pub fn error(
        source: &Arc<Source>,
        span: Span,
        code: &'static str,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            source: source.clone(),
            span,
            message: message.into(),
            label: String::new(),
            help: None,
        }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The finding with the line it is about, the place underlined. Ends with a line feed.
    pub fn render(&self) -> String {
        let number = self.span.line.to_string();
        let margin = " ".repeat(number.len());
        let (line, before, length) = excerpt(self.source.line(self.span.line), self.span);
        let mut out = String::new();
        let _ = writeln!(out, "{}[{}]: {}", self.severity.as_str(), self.code, printable(&self.message));
        let _ =
            writeln!(out, "{margin}--> {}:{}:{}", printable(self.file()), self.span.line, self.span.column);
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {line}");
        let label = printable(&self.label);
        let marks = format!("{}{} {label}", " ".repeat(before), "^".repeat(length));
        let _ = writeln!(out, "{margin} | {}", marks.trim_end());
        if let Some(help) = &self.help {
            for (i, part) in help.lines().enumerate() {
                let lead = if i == 0 { "= help:" } else { "       " };
                let _ = writeln!(out, "{margin} {lead} {}", printable(part));
            }
        }
        out
    }

    /// The finding as one JSON object. Lines, columns count from 1, offsets in bytes from 0.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "severity": self.severity.as_str(),
            "code": self.code,
            "file": self.file(),
            "line": self.span.line,
            "column": self.span.column,
            "offset": self.span.start,
            "length": self.span.end - self.span.start,
            "message": self.message,
            "label": self.label,
            "help": self.help,
        })
    }
}

/// The findings about one text, gathered while it is read; reading goes on after an error.
#[derive(Debug)]
pub struct Findings {
    pub source: Arc<Source>,
    pub list: Vec<Diagnostic>,
}

impl Findings {
    /// Beyond this many, one more finding helps nobody.
    const LIMIT: usize = 200;

    pub fn new(source: &Arc<Source>) -> Findings {
        Findings { source: source.clone(), list: Vec::new() }
    }

    pub fn error(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        let diagnostic = Diagnostic::error(&self.source, span, code, message);
        // Past the limit the newest finding takes the last place, so that callers always have one to fill.
        if self.list.len() >= Findings::LIMIT {
            self.list.pop();
        }
        self.list.push(diagnostic);
        self.list.last_mut().expect("just pushed")
    }

    pub fn warning(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        let diagnostic = self.error(span, code, message);
        diagnostic.severity = Severity::Warning;
        diagnostic
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// In the order of the text.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|d| (d.span.start, std::cmp::Reverse(d.severity)));
        self.list
    }
}

/// How much of a line is shown; generated documents have lines of many kilobytes.
const WIDTH: usize = 160;

/// The part of the line around the span, and where in it (characters before, characters marked).
fn excerpt(line: &str, span: Span) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().collect();
    let at = (span.column as usize - 1).min(chars.len());
    let from = if at > WIDTH / 2 && chars.len() > WIDTH { at - WIDTH / 4 } else { 0 };
    let to = chars.len().min(from + WIDTH);
    let marked_bytes = span.end - span.start;
    let mut length = 0;
    let mut bytes = 0;
    while bytes < marked_bytes && at + length < to {
        bytes += chars[at + length].len_utf8();
        length += 1;
    }
    let mut shown = String::new();
    if from > 0 {
        shown.push('…');
    }
    shown.extend(chars[from..to].iter().map(|c| if c.is_control() { ' ' } else { *c }));
    if to < chars.len() {
        shown.push('…');
    }
    (shown, at - from + usize::from(from > 0), length.max(1))
}

/// Without characters that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            c.is_control()
                .then(|| c.escape_default())
                .into_iter()
                .flatten()
                .chain((!c.is_control()).then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_underlined_and_helped() {
        let source = Source::new("a.yml", "steps:\n  - acton: Réboot\n");
        let span = source.span(11, 16);
        let mut findings = Findings::new(&source);
        let d = findings.error(span, "unknown-field", "a step has no field `acton`");
        d.label = "unknown".into();
        d.help = Some("write `action`\nor leave it out".into());
        assert_eq!(
            findings.list[0].render(),
            "error[unknown-field]: a step has no field `acton`\n --> a.yml:2:5\n  |\n2 |   - acton: Réboot\n  |     ^^^^^ unknown\n  = help: write `action`\n          or leave it out\n"
        );
        assert_eq!(findings.list[0].json()["column"], 5);
    }

    #[test]
    fn long_lines_and_control_characters_stay_on_the_screen() {
        let text = format!("{}\u{1b}[31mHERE{}", "a".repeat(5000), "b".repeat(5000));
        let source = Source::new("a.yml", text);
        let at = source.text().find("HERE").unwrap();
        let shown = Diagnostic::error(&source, source.span(at, at + 4), "x", "bad \u{7}bell").render();
        assert!(shown.lines().all(|l| l.chars().count() < 200 && !l.contains('\u{1b}')), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let mark = lines[4].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[3].chars().skip(mark).take(4).collect::<String>(), "HERE");
        assert!(lines[0].contains("\\u{7}bell"));
    }
}
