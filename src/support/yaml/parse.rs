//! From the parser's events to the tree, within limits.

use super::node::{Mapping, Node, Scalar, Style, Value};
use crate::support::diagnostic::Findings;
use crate::support::source::{Source, Span};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a text may cost. A document of the service has at most 64 KB.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Nodes, those that aliases repeat included.
    pub nodes: usize,
    /// Bytes of scalars, those that aliases repeat included.
    pub scalars: usize,
    /// Lists and mappings inside each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 1 << 20, nodes: 100_000, scalars: 8 << 20, depth: 64 }
    }
}

/// The one document of a text. Errors are added to `findings`; None when there is no tree at all.
///
/// A key that is given twice is an error, and both pairs are in the tree, so
/// that everything else can still be checked.
pub fn parse(source: &Arc<Source>, limits: Limits, findings: &mut Findings) -> Option<Node> {
    let text = source.text();
    if text.len() > limits.bytes {
        findings.error(
            source.span(0, 0),
            "too-large",
            format!("the text has {} bytes; at most {} are read", text.len(), limits.bytes),
        );
        return None;
    }
    let mut builder = Builder {
        source,
        offsets: (!text.is_ascii()).then(|| text.char_indices().map(|(i, _)| i).collect()),
        limits,
        nodes: 0,
        scalars: 0,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        findings,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(pair) => pair,
            Err(e) => {
                builder.scan_error(&e);
                return None;
            }
        };
        let span = builder.span(span);
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                let d = builder.findings.error(span, "yaml", "a second YAML document begins here");
                d.help = Some("put each document into a file of its own".into());
                return None;
            }
        }
        builder.take(event, span)?;
    }
    if builder.root.is_none() {
        findings.error(source.span(0, 0), "empty", "the text is empty");
        return None;
    }
    builder.root
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    /// Byte offset of each character, where they differ: the parser counts characters.
    offsets: Option<Vec<usize>>,
    limits: Limits,
    nodes: usize,
    scalars: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchor>,
    root: Option<Node>,
    findings: &'a mut Findings,
}

struct Open {
    node: Node,
    anchor: usize,
    /// A mapping's key that waits for its value.
    key: Option<Node>,
    seen: HashSet<String>,
    nodes_before: usize,
    scalars_before: usize,
}

struct Anchor {
    node: Node,
    nodes: usize,
    scalars: usize,
}

impl Builder<'_> {
    fn offset(&self, index: usize) -> usize {
        match &self.offsets {
            Some(table) => table.get(index).copied().unwrap_or(self.source.text().len()),
            None => index,
        }
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        self.source.span(self.offset(span.start.index()), self.offset(span.end.index()))
    }

    fn take(&mut self, event: Event, span: Span) -> Option<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let node = Node {
                    span: self.trimmed(span, style),
                    value: Value::Scalar(Scalar { text: text.into_owned(), style }),
                    tag: tag.map(|t| t.to_string()),
                };
                let bytes = node.scalar().map_or(0, |s| s.text.len());
                self.count(1, bytes, span)?;
                self.remember(anchor, &node, 1, bytes);
                self.place(node);
            }
            Event::SequenceStart(anchor, tag) => {
                self.enter(Value::Sequence(Vec::new()), anchor, tag.map(|t| t.to_string()), span)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.enter(Value::Mapping(Mapping::default()), anchor, tag.map(|t| t.to_string()), span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(span),
            Event::Alias(id) => {
                // The parser has refused an unknown name already; what is missing here is still open.
                let Some(anchor) = self.anchors.get(&id) else {
                    self.findings.error(span, "yaml", "an alias stands inside the node that it repeats");
                    return None;
                };
                let mut node = anchor.node.clone();
                let (nodes, scalars) = (anchor.nodes, anchor.scalars);
                self.count(nodes, scalars, span)?;
                node.span = span;
                self.place(node);
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Some(())
    }

    /// A block scalar's span ends with its text, not with the next token.
    fn trimmed(&self, span: Span, style: Style) -> Span {
        if style != Style::Block {
            return span;
        }
        let text = self.source.slice(span);
        Span { end: span.start + text.trim_end().len(), ..span }
    }

    fn count(&mut self, nodes: usize, scalars: usize, span: Span) -> Option<()> {
        self.nodes += nodes;
        self.scalars += scalars;
        if self.nodes > self.limits.nodes || self.scalars > self.limits.scalars {
            let message = format!(
                "the text is larger than kiln reads: more than {} nodes or {} bytes of values, counting what aliases repeat",
                self.limits.nodes, self.limits.scalars
            );
            self.findings.error(span, "too-large", message);
            return None;
        }
        Some(())
    }

    fn enter(&mut self, value: Value, anchor: usize, tag: Option<String>, span: Span) -> Option<()> {
        if self.open.len() >= self.limits.depth {
            let message =
                format!("lists and mappings lie more than {} deep in each other", self.limits.depth);
            self.findings.error(span, "too-deep", message);
            return None;
        }
        let (nodes_before, scalars_before) = (self.nodes, self.scalars);
        self.count(1, 0, span)?;
        self.open.push(Open {
            node: Node { span, value, tag },
            anchor,
            key: None,
            seen: HashSet::new(),
            nodes_before,
            scalars_before,
        });
        Some(())
    }

    fn leave(&mut self, span: Span) {
        let Some(mut open) = self.open.pop() else { return };
        // Block collections end with an empty span at the next token; their last child knows better.
        let last = match &open.node.value {
            Value::Sequence(items) => items.last().map(|n| n.span),
            Value::Mapping(m) => m.entries.last().map(|(k, v)| k.span.to(v.span)),
            Value::Scalar(_) => None,
        };
        let end = if span.end > span.start { span } else { last.unwrap_or(open.node.span) };
        open.node.span = open.node.span.to(end);
        let (nodes, scalars) = (self.nodes - open.nodes_before, self.scalars - open.scalars_before);
        self.remember(open.anchor, &open.node, nodes, scalars);
        self.place(open.node);
    }

    fn remember(&mut self, anchor: usize, node: &Node, nodes: usize, scalars: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchor { node: node.clone(), nodes, scalars });
        }
    }

    fn place(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.node.value {
            Value::Sequence(items) => items.push(node),
            Value::Mapping(mapping) => match open.key.take() {
                Some(key) => mapping.entries.push((key, node)),
                None => {
                    if let Some(s) = node.scalar()
                        && !open.seen.insert(s.text.clone())
                    {
                        let d = self.findings.error(
                            node.span,
                            "duplicate-key",
                            format!("`{}` is given twice in the same mapping", s.text),
                        );
                        d.help = Some("keep one of the two; YAML does not say which one counts".into());
                    }
                    open.key = Some(node);
                }
            },
            Value::Scalar(_) => {}
        }
    }

    fn scan_error(&mut self, error: &ScanError) {
        let at = self.offset(error.marker().index());
        let span = self.source.span(at, at);
        let line = self.source.line(span.line);
        let code = if error.info().contains("recursion limit") { "too-deep" } else { "yaml" };
        let d = self.findings.error(span, code, format!("this is no valid YAML: {}", error.info()));
        d.help = trap(self.source, span, line, error.info());
    }
}

/// What people mostly did when YAML stops with this.
fn trap(source: &Source, span: Span, line: &str, info: &str) -> Option<String> {
    let before: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    if before.contains('\t') || info.contains("tab") {
        return Some("indent with spaces: YAML does not allow tabs there".into());
    }
    let value = line.trim_start().trim_start_matches("- ");
    let value = value.split_once(": ").map_or(value, |(_, v)| v).trim_start();
    if value.starts_with("{{") {
        return Some(format!("a value that begins with `{{{{` must be in quotes: '{}'", value.trim_end()));
    }
    if value.starts_with(['{', '[']) || source.text().trim_start().starts_with('{') {
        return Some("within { } and [ ]: before this place something is missing, or a bracket, a comma or a quote is too many".into());
    }
    if value.starts_with('*') || value.starts_with('&') {
        return Some(format!(
            "a value that begins with `*` or `&` must be in quotes: '{}'",
            value.trim_end()
        ));
    }
    if value.starts_with(['@', '`', '%']) {
        return Some(format!(
            "a value that begins with `@`, a back quote or `%` must be in quotes: '{}'",
            value.trim_end()
        ));
    }
    if info.contains("mapping values are not allowed") && steps_in(source, span.line) {
        return Some(format!(
            "line {} begins further right than line {} above it, which has its value already: keys that belong together begin in the same column",
            span.line,
            span.line - 1
        ));
    }
    if line.matches(": ").count() > 1 || info.contains("mapping values are not allowed") {
        return Some("put the whole value in quotes, or write it as a block after `|`: a plain value may not hold a colon and a blank".into());
    }
    if value.starts_with(['"', '\'']) {
        return Some(
            "what follows the closing quote belongs inside it, or the closing quote is missing".into(),
        );
    }
    let Some(fallen) = fallen_out_of_block(source, span.line) else {
        let what = "look at how this line is indented: it fits neither the entry above it nor a new one of the same list or mapping";
        return info.contains("did not find expected").then(|| what.into());
    };
    Some(format!(
        "line {fallen} is indented less than the block that begins with `|` above it, so the block ends before it; indent it (and the end mark of a heredoc) like the rest of the script"
    ))
}

/// Whether a line begins further right than the one above it, which is a key with its value.
fn steps_in(source: &Source, line: u32) -> bool {
    let indent = |text: &str| text.len() - text.trim_start().len();
    let Some(above) = line.checked_sub(1).filter(|n| *n > 0).map(|n| source.line(n)) else { return false };
    indent(source.line(line)) > indent(above) && above.contains(": ") && !above.trim_end().ends_with(':')
}

/// The first line at or before `line` that stands left of the block scalar above it.
fn fallen_out_of_block(source: &Source, line: u32) -> Option<u32> {
    let indent = |n: u32| source.line(n).chars().take_while(|c| *c == ' ').count();
    let mut header = (1..line).rev().find(|n| {
        let text = source.line(*n).trim_end();
        [": |", "- |", ": >", "- >"].iter().any(|m| {
            text.rsplit_once(m).is_some_and(|(_, rest)| rest.chars().all(|c| "-+123456789".contains(c)))
        })
    })?;
    let base = indent(header);
    header += 1;
    let inner = (header..=line).find(|n| !source.line(*n).trim().is_empty()).map(indent)?;
    let fallen = (header..=line).find(|n| !source.line(*n).trim().is_empty() && indent(*n) < inner)?;
    (inner > base).then_some(fallen)
}

#[cfg(test)]
mod tests;
