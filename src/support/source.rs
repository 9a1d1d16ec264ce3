//! A text that people wrote, and places in it.

use std::sync::Arc;

/// A named text with its line starts. Shared: every diagnostic holds on to the text it talks about.
#[derive(Debug)]
pub struct Source {
    /// What people call it: mostly a path as they gave it.
    pub name: String,
    text: String,
    line_starts: Vec<usize>,
}

/// A stretch of a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: u32,
    /// Column of the first byte in characters, from 1.
    pub column: u32,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        let text = text.into();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Arc::new(Source { name: name.into(), text, line_starts })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty where the span does not lie on characters of this source.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// A span by its byte offsets, clamped to the text.
    pub fn span(&self, start: usize, end: usize) -> Span {
        let start = floor_char(&self.text, start);
        let end = floor_char(&self.text, end).max(start);
        let line = self.line_starts.partition_point(|s| *s <= start);
        let column = self.text[self.line_starts[line - 1]..start].chars().count() + 1;
        Span { start, end, line: clamp(line), column: clamp(column) }
    }

    /// A line by its number (from 1), without its end.
    pub fn line(&self, number: u32) -> &str {
        let n = number as usize;
        let Some(start) = n.checked_sub(1).and_then(|i| self.line_starts.get(i)) else { return "" };
        let end = self.line_starts.get(n).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }

    /// The `nth` (from 0) occurrence of `needle` inside `within`, or all of `within`.
    pub fn find(&self, within: Span, needle: &str, nth: usize) -> Span {
        match self.slice(within).match_indices(needle).nth(nth) {
            Some((at, found)) => self.span(within.start + at, within.start + at + found.len()),
            None => within,
        }
    }
}

impl Span {
    /// From the start of this one to the end of the other.
    pub fn to(self, other: Span) -> Span {
        Span { end: other.end.max(self.end), ..self }
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_survive_any_offset() {
        let s = Source::new("x", "äb\nc\r\n\nlast");
        assert_eq!(s.span(2, 3), Span { start: 2, end: 3, line: 1, column: 2 });
        assert_eq!((s.span(1, 1).column, s.span(4, 5).line, s.span(999, 2).line), (1, 2, 4));
        assert_eq!([s.line(1), s.line(2), s.line(3), s.line(4), s.line(5)], ["äb", "c", "", "last", ""]);
        let all = s.span(0, 99);
        assert_eq!(s.find(all, "b", 0).column, 2);
        assert_eq!(s.find(all, "zz", 0), all);
    }
}
