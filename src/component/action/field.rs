//! Fields of actions: their kinds, what a written value must look like, and the values themselves.

use super::super::document::Platform;
use super::super::expression::Template;
use crate::support::source::Span;

/// One input of an action.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// As the format documents it; None: nothing.
    pub default: Option<&'static str>,
    pub platforms: Platforms,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A path of the guest.
    Path,
    /// A path whose last part may hold `*`.
    Pattern,
    /// A file name that may hold `*`.
    NamePattern,
    /// A list of texts.
    Texts,
    Boolean,
    /// true or false, perhaps in quotes.
    BooleanText,
    /// A whole number from 0.
    Integer,
    /// Octal digits.
    Mode,
    /// A name of a text encoding.
    Encoding,
    Choice(&'static [&'static str]),
    /// A mapping of texts to texts.
    Map,
    /// A list of `{name, value}`.
    NamedValues,
    /// A text, a number or a list of those.
    Registry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platforms {
    pub linux: bool,
    pub windows: bool,
    pub macos: bool,
}

/// The fields of one item, in the order of the table; what was not written is absent.
#[derive(Clone, Debug)]
pub struct Input {
    pub values: Vec<(&'static str, Value)>,
    pub span: Span,
}

/// A field as written.
#[derive(Clone, Debug)]
pub enum Value {
    Text(Template),
    Texts(Vec<Template>),
    Boolean(bool),
    Integer(i64),
    Pairs(Vec<(String, Template)>),
}

/// A field with its references resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    Text(String),
    Texts(Vec<String>),
    Boolean(bool),
    Integer(i64),
    Pairs(Vec<(String, String)>),
}

/// One item with its references resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    pub values: Vec<(&'static str, Resolved)>,
}

impl Field {
    pub const fn required(name: &'static str, kind: Kind, help: &'static str) -> Field {
        Field { name, kind, required: true, default: None, platforms: Platforms::ALL, help }
    }

    pub const fn optional(name: &'static str, kind: Kind, help: &'static str) -> Field {
        Field { name, kind, required: false, default: None, platforms: Platforms::ALL, help }
    }

    pub const fn or(mut self, default: &'static str) -> Field {
        self.default = Some(default);
        self
    }

    pub const fn on(mut self, platforms: Platforms) -> Field {
        self.platforms = platforms;
        self
    }
}

impl Platforms {
    pub const ALL: Platforms = Platforms { linux: true, windows: true, macos: true };
    pub const UNIX: Platforms = Platforms { linux: true, windows: false, macos: true };
    pub const WINDOWS: Platforms = Platforms { linux: false, windows: true, macos: false };
    pub const SERVERS: Platforms = Platforms { linux: true, windows: true, macos: false };

    pub fn has(self, platform: Platform) -> bool {
        match platform {
            Platform::Linux => self.linux,
            Platform::Windows => self.windows,
            Platform::MacOs => self.macos,
        }
    }

    /// "linux, darwin".
    pub fn names(self) -> String {
        let all: Vec<&str> = Platform::ALL.iter().filter(|p| self.has(**p)).map(|p| p.as_str()).collect();
        all.join(", ")
    }
}

impl Kind {
    /// What is wrong with a text of this kind. Also asked again when references have been resolved.
    pub fn fault(self, text: &str) -> Option<String> {
        let sound = match self {
            Kind::Path => !text.is_empty(),
            Kind::Pattern => {
                let name = text.rfind(['/', '\\']).map_or(0, |i| i + 1);
                if text[..name].contains('*') {
                    return Some("`*` may only stand in the last part of the path".into());
                }
                !text.is_empty()
            }
            Kind::NamePattern => !text.contains(['/', '\\']),
            Kind::Mode => mode(text).is_some(),
            Kind::Encoding => super::super::encoding::Encoding::parse(text).is_some(),
            Kind::Choice(choices) => choices.contains(&text),
            Kind::BooleanText => text == "true" || text == "false",
            _ => true,
        };
        (!sound).then(|| match self {
            Kind::Path | Kind::Pattern => "the path is empty".into(),
            Kind::NamePattern => format!("`{text}` is no file name pattern: it holds a path separator"),
            Kind::Mode => {
                format!("`{text}` are no permissions: write three or four octal digits, such as '0640'")
            }
            Kind::Encoding => {
                format!("`{text}` is no encoding: utf8, utf-16-LE, utf-16-BE, utf-32-LE or utf-32-BE")
            }
            Kind::Choice(choices) => format!("`{text}` is none of {}", choices.join(", ")),
            _ => format!("`{text}` is neither true nor false"),
        })
    }
}

/// Permissions from their octal digits: `755`, `0755` and `0o755` are the same.
pub fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten().filter(|m| *m <= 0o7777)
}

impl Input {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Where a field's value stands, or the item.
    pub fn span_of(&self, name: &str) -> Span {
        match self.get(name) {
            Some(Value::Text(template)) => template.span,
            _ => self.span,
        }
    }

    /// The text of a field that holds no reference.
    pub fn literal(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(template)) => template.literal(),
            _ => None,
        }
    }

    pub fn templates(&self) -> Vec<&Template> {
        let mut all = Vec::new();
        for (_, value) in &self.values {
            match value {
                Value::Text(t) => all.push(t),
                Value::Texts(list) => all.extend(list),
                Value::Pairs(pairs) => all.extend(pairs.iter().map(|(_, t)| t)),
                Value::Boolean(_) | Value::Integer(_) => {}
            }
        }
        all
    }
}

impl Item {
    pub fn get(&self, name: &str) -> Option<&Resolved> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Resolved::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A text that the checker has made sure of; empty in an item that was not checked.
    pub fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    pub fn texts(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(Resolved::Texts(list)) => list,
            _ => &[],
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            Some(Resolved::Boolean(flag)) => *flag,
            Some(Resolved::Text(text)) => text == "true",
            _ => default,
        }
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Resolved::Integer(n)) => Some(*n),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_refuse_what_they_are_not() {
        for (kind, good, bad) in [
            (Kind::Mode, &["0777", "755", "0o640", "4755", "0"][..], &["", "888", "rwx", "77777"][..]),
            (Kind::Pattern, &["/a/b*", "*.log", "C:\\x\\*"], &["/a*/b", "", "C:\\*\\x"]),
            (Kind::Path, &["/a*/b"], &[""]),
            (Kind::Encoding, &["UTF-16-le", "utf8"], &["latin1", ""]),
            (Kind::Choice(&["MD5"]), &["MD5"], &["md5"]),
            (Kind::NamePattern, &["*.log"], &["a/*.log"]),
        ] {
            good.iter().for_each(|g| assert_eq!(kind.fault(g), None, "{kind:?} {g}"));
            bad.iter().for_each(|b| assert!(kind.fault(b).is_some(), "{kind:?} {b}"));
        }
        assert_eq!((mode("0777"), mode("755")), (Some(0o777), Some(0o755)));
    }
}
