//! The tree.

use crate::support::source::Span;

#[derive(Clone, Debug)]
pub struct Node {
    pub span: Span,
    pub value: Value,
    /// An explicit tag as written, `!Sub`.
    pub tag: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Mapping),
}

#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text with YAML's quoting, escapes and folding taken away.
    pub text: String,
    pub style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// Single or double quotes.
    Quoted,
    /// `|` or `>`.
    Block,
}

/// What a scalar is by YAML's core schema. Quoted and block scalars are always texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Integer,
    Float,
    Text,
}

/// Pairs in the order written; a key given twice is reported by the parser and kept.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    pub entries: Vec<(Node, Node)>,
}

impl Node {
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(s) => Some(s),
            _ => None,
        }
    }

    pub fn sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(m) => Some(m),
            _ => None,
        }
    }

    /// The text of a scalar that is one by YAML's rules (quoted, or plain and not a number, boolean or null).
    pub fn text(&self) -> Option<&str> {
        self.scalar().filter(|s| s.kind() == Kind::Text).map(|s| s.text.as_str())
    }

    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|s| s.kind() == Kind::Null)
    }

    /// "a list", "the number `3`": for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
            Value::Scalar(s) => {
                let short: String = s.text.chars().take(40).collect();
                match s.kind() {
                    Kind::Null => "nothing".into(),
                    Kind::Boolean => format!("the boolean `{short}`"),
                    Kind::Integer | Kind::Float => format!("the number `{short}`"),
                    Kind::Text => format!("the text `{}`", short.trim_end()),
                }
            }
        }
    }
}

impl Scalar {
    pub fn kind(&self) -> Kind {
        if self.style != Style::Plain {
            return Kind::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Boolean,
            ".inf" | "-.inf" | "+.inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => Kind::Float,
            text => number(text),
        }
    }
}

impl Mapping {
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, value)| value)
    }

    pub fn entry(&self, name: &str) -> Option<&(Node, Node)> {
        self.entries.iter().find(|(k, _)| k.scalar().is_some_and(|s| s.text == name))
    }
}

fn number(text: &str) -> Kind {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = |s: &str, f: fn(&u8) -> bool| !s.is_empty() && s.as_bytes().iter().all(f);
    let hex = digits.strip_prefix("0x").is_some_and(|d| all(d, u8::is_ascii_hexdigit));
    let octal = digits.strip_prefix("0o").is_some_and(|d| all(d, |b| (b'0'..=b'7').contains(b)));
    if all(digits, u8::is_ascii_digit) || hex || octal {
        return Kind::Integer;
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let some = !(whole.is_empty() && fraction.is_empty());
    if some && plain(whole) && plain(fraction) && all(exponent, u8::is_ascii_digit) {
        Kind::Float
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        let kind = |text: &str, style| Scalar { text: text.into(), style }.kind();
        for (text, want) in [
            ("0777", Kind::Integer),
            ("-3", Kind::Integer),
            ("0x1F", Kind::Integer),
            ("1.0", Kind::Float),
            (".5", Kind::Float),
            ("1e3", Kind::Float),
            ("1.2.3", Kind::Text),
            (".", Kind::Text),
            ("e5", Kind::Text),
            ("yes", Kind::Text),
            ("True", Kind::Boolean),
            ("~", Kind::Null),
            ("", Kind::Null),
        ] {
            assert_eq!(kind(text, Style::Plain), want, "{text}");
            assert_eq!(kind(text, Style::Quoted), Kind::Text, "{text}");
        }
    }
}
