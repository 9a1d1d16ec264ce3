//! Reading a mapping field by field: every error is reported, none ends the reading.

use super::node::{Kind, Node, Value};
use crate::support::diagnostic::Findings;
use crate::support::similar;
use crate::support::source::Span;

/// A mapping of which fields are asked for by name. [`Fields::finish`] reports the ones nobody asked for.
#[derive(Debug)]
pub struct Fields<'n> {
    /// What the mapping is, for messages: "the recipe", "step `Install`".
    owner: String,
    span: Span,
    entries: &'n [(Node, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// None, and an error, when the node is no mapping.
    pub fn of(node: &'n Node, owner: impl Into<String>, findings: &mut Findings) -> Option<Fields<'n>> {
        let owner = owner.into();
        let Value::Mapping(mapping) = &node.value else {
            findings.error(
                node.span,
                "wrong-type",
                format!("{owner} must be a mapping of fields, not {}", node.describe()),
            );
            return None;
        };
        Some(Fields { owner, span: node.span, entries: &mapping.entries, known: Vec::new() })
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    pub fn span(&self) -> Span {
        self.span
    }

    /// The value of a field; a field that is there without a value counts as not given.
    pub fn optional(&mut self, name: &'static str) -> Option<&'n Node> {
        self.written(name).filter(|n| !n.is_null())
    }

    /// The value of a field, also when it is empty.
    pub fn written(&mut self, name: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let found = self.entries.iter().find(|(k, _)| k.scalar().is_some_and(|s| s.text == name));
        found.map(|(_, value)| value)
    }

    /// Where the field's name stands.
    pub fn key_span(&self, name: &str) -> Option<Span> {
        self.entries.iter().find(|(k, _)| k.scalar().is_some_and(|s| s.text == name)).map(|(k, _)| k.span)
    }

    pub fn required(&mut self, name: &'static str, findings: &mut Findings) -> Option<&'n Node> {
        let found = self.optional(name);
        if found.is_none() {
            let near = self.unknown_keys().find(|k| similar::nearest(k, [name]).is_some()).map(str::to_owned);
            // A misspelled name is reported once, as the unknown field that it is.
            if near.is_none() {
                let at = self.key_span(name).unwrap_or(Span { end: self.span.start + 1, ..self.span });
                findings.error(
                    at,
                    "missing-field",
                    format!("{} has no `{name}`, which it needs", self.owner),
                );
            }
        }
        found
    }

    fn unknown_keys(&self) -> impl Iterator<Item = &'n str> {
        let known = self.known.clone();
        self.entries
            .iter()
            .filter_map(|(k, _)| k.scalar())
            .map(|s| s.text.as_str())
            .filter(move |k| !known.contains(k))
    }

    /// Reports every field that was not asked for.
    pub fn finish(self, findings: &mut Findings) {
        for (key, _) in self.entries {
            let Some(name) = key.scalar().map(|s| s.text.as_str()) else {
                findings.error(
                    key.span,
                    "wrong-type",
                    format!("a field name of {} must be a text", self.owner),
                );
                continue;
            };
            if self.known.contains(&name) {
                continue;
            }
            let d =
                findings.error(key.span, "unknown-field", format!("{} has no field `{name}`", self.owner));
            d.help = Some(match similar::nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has these: {}", self.known.join(", ")),
            });
        }
    }
}

/// Typed readings of a node. `what` names it in messages: "`name` of step `Install`".
impl Findings {
    fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str) {
        let source = self.source.clone();
        let d =
            self.error(node.span, "wrong-type", format!("{what} must be {wanted}, not {}", node.describe()));
        if matches!(node.value, Value::Mapping(_)) {
            let written = source.slice(node.span).lines().next().unwrap_or("").trim_end().to_owned();
            if written.starts_with("{{") {
                d.help = Some(format!(
                    "YAML reads `{{{{` as the start of a mapping; put it in quotes: '{written}'"
                ));
            } else if written.contains(": ") && !written.starts_with('{') {
                d.label = "YAML reads this as a key and its value, because of the colon and the blank".into();
                d.help = Some(format!("put the whole text in quotes: {}", quoted(&written)));
            }
        }
    }

    /// A scalar's text; numbers and booleans count as the text they are written with.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match node.scalar() {
            Some(s) if s.kind() != Kind::Null => Some(&s.text),
            _ => {
                self.wrong_type(node, what, "a text");
                None
            }
        }
    }

    /// A text by YAML's rules: numbers and booleans must be in quotes.
    pub fn strict_text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let found = node.text();
        if found.is_none() {
            self.wrong_type(node, what, "a text");
            if let Some(s) = node.scalar().filter(|s| s.kind() != Kind::Null)
                && let Some(d) = self.list.last_mut()
            {
                d.help = Some(format!("write it in quotes: '{}'", s.text));
            }
        }
        found
    }

    pub fn integer(&mut self, node: &Node, what: &str) -> Option<i64> {
        let found = node.scalar().filter(|s| s.kind() == Kind::Integer).and_then(|s| s.text.parse().ok());
        if found.is_none() {
            self.wrong_type(node, what, "a whole number");
        }
        found
    }

    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        let text = node.scalar().filter(|s| s.kind() == Kind::Boolean).map(|s| s.text.as_str());
        if text.is_none() {
            self.wrong_type(node, what, "true or false");
        }
        text.map(|t| t.eq_ignore_ascii_case("true"))
    }

    pub fn items<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        let found = node.sequence();
        if found.is_none() {
            self.wrong_type(node, what, "a list");
        }
        found
    }

    /// One of `choices`, exactly as spelled there.
    pub fn choice<'c>(&mut self, node: &Node, what: &str, choices: &[&'c str]) -> Option<&'c str> {
        let text = self.text(node, what)?;
        let found = choices.iter().find(|c| **c == text).copied();
        if found.is_none() {
            let d = self.error(
                node.span,
                "bad-value",
                format!("{what} is `{text}`, which is none of {}", choices.join(", ")),
            );
            d.help = similar::nearest(text, choices.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        }
        found
    }
}

/// The text as a YAML scalar in quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
