//! Conditions of `if` and `Assert`: operators and how they compare.
//!
//! `value OP operand`: `numberLessThan: 2` with `value: 1` is true.

use super::expression::Template;
use crate::support::source::Span;
use kiln_protocol::message::Algorithm;
use std::cmp::Ordering;

#[derive(Clone, Debug)]
pub enum Condition {
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Comparison),
}

#[derive(Clone, Debug)]
pub struct Comparison {
    pub operator: &'static Operator,
    pub operand: Template,
    /// `value` or `path`, where the operator has one.
    pub companion: Option<Template>,
    pub span: Span,
}

/// What a step does about its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Verdict {
    Abort,
    Execute,
    Skip,
}

#[derive(Clone, Debug)]
pub struct If {
    pub condition: Condition,
    pub then: Verdict,
    pub otherwise: Verdict,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Empty,
    Whitespace,
    /// Texts whose comparison has one of these outcomes.
    Text(&'static [Ordering]),
    Pattern,
    Number(&'static [Ordering]),
    Binary,
    File,
    Folder,
    Digest(Algorithm),
}

#[derive(Debug)]
pub struct Operator {
    pub name: &'static str,
    pub test: Test,
    /// The companion key it needs.
    pub companion: Option<&'static str>,
    pub help: &'static str,
}

const fn op(name: &'static str, test: Test, companion: Option<&'static str>, help: &'static str) -> Operator {
    Operator { name, test, companion, help }
}

const VALUE: Option<&str> = Some("value");
const PATH: Option<&str> = Some("path");
const EQUAL: &[Ordering] = &[Ordering::Equal];
const LESS: &[Ordering] = &[Ordering::Less];
const AT_MOST: &[Ordering] = &[Ordering::Less, Ordering::Equal];
const GREATER: &[Ordering] = &[Ordering::Greater];
const AT_LEAST: &[Ordering] = &[Ordering::Greater, Ordering::Equal];

/// Every comparison operator; the checker, the schema and the runner read this one table.
pub static OPERATORS: [Operator; 20] = [
    op("stringIsEmpty", Test::Empty, None, "the text has no characters"),
    op("stringIsWhitespace", Test::Whitespace, None, "the text is not empty and holds only blanks"),
    op("stringEquals", Test::Text(EQUAL), VALUE, "value equals the text, whatever the case"),
    op("stringLessThan", Test::Text(LESS), VALUE, "value sorts before the text"),
    op("stringLessThanEquals", Test::Text(AT_MOST), VALUE, "value sorts before the text or equals it"),
    op("stringGreaterThan", Test::Text(GREATER), VALUE, "value sorts after the text"),
    op("stringGreaterThanEquals", Test::Text(AT_LEAST), VALUE, "value sorts after the text or equals it"),
    op("patternMatches", Test::Pattern, VALUE, "value matches the regular expression (RE2)"),
    op("numberEquals", Test::Number(EQUAL), VALUE, "value = number"),
    op("numberLessThan", Test::Number(LESS), VALUE, "value < number"),
    op("numberLessThanEquals", Test::Number(AT_MOST), VALUE, "value <= number"),
    op("numberGreaterThan", Test::Number(GREATER), VALUE, "value > number"),
    op("numberGreaterThanEquals", Test::Number(AT_LEAST), VALUE, "value >= number"),
    op("binaryExists", Test::Binary, None, "a program of this name is on the path"),
    op("fileExists", Test::File, None, "the path is a file"),
    op("folderExists", Test::Folder, None, "the path is a folder"),
    op("fileMD5Equals", Test::Digest(Algorithm::Md5), PATH, "the file's MD5 digest"),
    op("fileSHA1Equals", Test::Digest(Algorithm::Sha1), PATH, "the file's SHA-1 digest"),
    op("fileSHA256Equals", Test::Digest(Algorithm::Sha256), PATH, "the file's SHA-256 digest"),
    op("fileSHA512Equals", Test::Digest(Algorithm::Sha512), PATH, "the file's SHA-512 digest"),
];

pub const LOGICAL: [&str; 3] = ["and", "or", "not"];

/// Levels of conditions inside each other; a lone comparison is level 1.
pub const DEPTH: usize = 4;

impl Condition {
    /// Every text in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Condition::And(list) | Condition::Or(list) => {
                list.iter().flat_map(Condition::templates).collect()
            }
            Condition::Not(inner) => inner.templates(),
            Condition::Compare(c) => std::iter::once(&c.operand).chain(&c.companion).collect(),
        }
    }
}

/// Texts by content, case folded, nothing trimmed.
pub fn compare_texts(value: &str, operand: &str) -> Ordering {
    value.to_lowercase().cmp(&operand.to_lowercase())
}

/// None when one of them is no number.
pub fn compare_numbers(value: &str, operand: &str) -> Option<Ordering> {
    let (a, b) = (Decimal::parse(value)?, Decimal::parse(operand)?);
    Some(a.cmp(&b))
}

/// A number as the operators take it from a text: `[-+]?([0-9]+[.])?[0-9]+`.
pub fn is_number(text: &str) -> bool {
    Decimal::parse(text).is_some()
}

/// A decimal number of any size, compared digit by digit, so nothing is rounded.
#[derive(PartialEq, Eq)]
struct Decimal<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a str,
    /// Without trailing zeros.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (digits, ""),
        };
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal { negative: negative && !zero, whole, fraction })
    }

    fn cmp(&self, other: &Decimal) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => return Ordering::Greater,
            (true, false) => return Ordering::Less,
            _ => {}
        }
        let size = (self.whole.len().cmp(&other.whole.len()))
            .then_with(|| self.whole.cmp(other.whole))
            .then_with(|| self.fraction.cmp(other.fraction));
        if self.negative { size.reverse() } else { size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_compare_by_value_and_other_texts_do_not() {
        for (a, b, want) in [
            ("1", "2", Some(Ordering::Less)),
            ("10", "9", Some(Ordering::Greater)),
            ("1.50", "1.5", Some(Ordering::Equal)),
            ("-0", "+0.0", Some(Ordering::Equal)),
            ("-2", "-10", Some(Ordering::Greater)),
            ("007", "7", Some(Ordering::Equal)),
            ("99999999999999999999999", "99999999999999999999998", Some(Ordering::Greater)),
            ("1e3", "1", None),
            (".5", "1", None),
            ("1.", "1", None),
            (" 1", "1", None),
            ("", "1", None),
        ] {
            assert_eq!(compare_numbers(a, b), want, "{a} {b}");
        }
        assert_eq!(compare_texts("ABC", "abc"), Ordering::Equal);
        assert_eq!(compare_texts("1a", "a1"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn decimals_agree_with_integers(a: i64, b: i64) {
            prop_assert_eq!(compare_numbers(&a.to_string(), &b.to_string()), Some(a.cmp(&b)));
        }
    }
}
