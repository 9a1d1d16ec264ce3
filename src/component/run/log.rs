//! A step's output on its way to whoever watches: cut into lines, secrets masked, the last lines kept.

use super::observer::{Event, Observer, Place};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values that may not be seen in logs, outputs that are shown, or messages.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Longest first: a secret that holds another must be masked before it.
    values: Mutex<Vec<String>>,
}

/// What stands where a secret was.
const MASK: &str = "******";

/// A line longer than this is shown in pieces.
const LINE: usize = 16 * 1024;

/// Lines kept for a failure's report.
const LAST: usize = 20;

impl Secrets {
    /// Adds a value; one shorter than four characters would mask half of any log.
    pub fn add(&self, value: &str) {
        let value = value.trim();
        let mut values = self.values();
        if value.len() >= 4 && !values.iter().any(|v| v == value) {
            values.push(value.to_owned());
            values.sort_by_key(|v| std::cmp::Reverse(v.len()));
        }
    }

    pub fn mask(&self, text: &str) -> String {
        self.values().iter().fold(text.to_owned(), |t, s| t.replace(s.as_str(), MASK))
    }

    /// Whether a secret is in the text.
    pub fn are_in(&self, text: &str) -> bool {
        self.values().iter().any(|s| text.contains(s.as_str()))
    }

    fn longest(&self) -> usize {
        self.values().first().map_or(0, String::len)
    }

    fn values(&self) -> MutexGuard<'_, Vec<String>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of one step.
pub struct StepLog<'a> {
    observer: &'a mut dyn Observer,
    place: Place<'a>,
    secrets: &'a Secrets,
    /// The document asked for silence.
    silent: bool,
    /// Output and error output, each with the line that has not ended yet.
    pending: [Vec<u8>; 2],
    last: VecDeque<String>,
}

impl<'a> StepLog<'a> {
    pub fn new(
        observer: &'a mut dyn Observer,
        place: Place<'a>,
        secrets: &'a Secrets,
        silent: bool,
    ) -> StepLog<'a> {
        StepLog { observer, place, secrets, silent, pending: [Vec::new(), Vec::new()], last: VecDeque::new() }
    }

    pub fn write(&mut self, bytes: &[u8], error: bool) {
        let mut pending = std::mem::take(&mut self.pending[usize::from(error)]);
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            pending.extend_from_slice(&rest[..at]);
            self.line(&pending, error);
            pending.clear();
            rest = &rest[at + 1..];
        }
        pending.extend_from_slice(rest);
        if pending.len() > LINE {
            // What may be the beginning of a secret waits for the rest of it.
            let masked = self.secrets.mask(&String::from_utf8_lossy(&pending)).into_bytes();
            let keep = self.secrets.longest().min(masked.len());
            let (now, later) = masked.split_at(masked.len() - keep);
            self.line(now, error);
            pending = later.to_vec();
        }
        self.pending[usize::from(error)] = pending;
    }

    /// Shows what has no line end.
    pub fn end_line(&mut self) {
        for error in [false, true] {
            let pending = std::mem::take(&mut self.pending[usize::from(error)]);
            if !pending.is_empty() {
                self.line(&pending, error);
            }
        }
    }

    fn line(&mut self, bytes: &[u8], error: bool) {
        if self.silent {
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        let line = self.secrets.mask(text.trim_end_matches('\r'));
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.chars().take(2000).collect());
        self.observer.event(&Event::Output { place: self.place, line: &line, error });
    }

    /// The last lines, oldest first.
    pub fn last_lines(&mut self) -> Vec<String> {
        self.end_line();
        self.last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Vec<String>);
    impl Observer for Lines {
        fn event(&mut self, event: &Event) {
            if let Event::Output { line, error, .. } = event {
                self.0.push(format!("{}{line}", if *error { "!" } else { "" }));
            }
        }
    }

    #[test]
    fn lines_are_cut_masked_and_kept() {
        let secrets = Secrets::default();
        secrets.add("hunter22");
        secrets.add("ab");
        let mut lines = Lines::default();
        let mut log = StepLog::new(&mut lines, Place::default(), &secrets, false);
        log.write(b"one\ntw", false);
        log.write(b"oops\n", true);
        log.write(b"o hun", false);
        log.write(b"ter22 ab\r\n", false);
        let long = format!("{}hunter22{}", "x".repeat(LINE - 4), "y".repeat(100));
        long.as_bytes().chunks(1000).for_each(|c| log.write(c, false));
        log.write(b"\xff", true);
        let last = log.last_lines();
        assert_eq!(&last[..3], ["one", "oops", "two ****** ab"]);
        assert_eq!(&lines.0[..3], ["one", "!oops", "two ****** ab"]);
        assert!(!lines.0.concat().contains("hunter"), "{:?}", lines.0);
        assert_eq!(lines.0.last().unwrap(), "!\u{fffd}");
    }
}
