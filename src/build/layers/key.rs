//! Keys: digests of all that goes into a layer.

use crate::catalog::artifact::digest_bytes;
use serde_json::{Value, json};

/// One thing that goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `parameter Version`, `step build/Install`.
    pub what: String,
    /// Itself where people can read it, else a digest, `sha256:...`.
    pub value: String,
    /// Where it is written, `install.yml:14`. Not part of any key.
    pub at: Option<String>,
}

impl Part {
    pub fn new(what: impl Into<String>, value: impl Into<String>) -> Part {
        Part { what: what.into(), value: value.into(), at: None }
    }

    pub fn digest(what: impl Into<String>, content: &[u8]) -> Part {
        Part::new(what, format!("sha256:{}", digest_bytes(content)))
    }

    pub fn at(mut self, place: impl Into<String>) -> Part {
        self.at = Some(place.into());
        self
    }

    pub fn json(&self) -> Value {
        json!([self.what, self.value, self.at])
    }

    /// None for what [`Part::json`] did not write.
    pub fn read(value: &Value) -> Option<Part> {
        let text = |i: usize| value[i].as_str().map(str::to_owned);
        Some(Part { what: text(0)?, value: text(1)?, at: text(2) })
    }

    /// How it changed, for people: `install.yml:14 parameter Version 1.4 -> 1.5`.
    pub fn change(before: Option<&Part>, now: Option<&Part>) -> String {
        let place = now.or(before).and_then(|p| p.at.as_ref()).map(|at| format!("{at} ")).unwrap_or_default();
        let what = now.or(before).map(|p| p.what.as_str()).unwrap_or_default();
        let readable = |p: &Part| !p.value.starts_with("sha256:") && !p.value.starts_with("keyed:");
        match (before, now) {
            (Some(old), Some(new)) if readable(old) && readable(new) => {
                format!("{place}{what} {} -> {}", short(&old.value), short(&new.value))
            }
            (Some(_), Some(_)) => format!("{place}{what} has changed"),
            (None, _) => format!("{place}{what} is new"),
            (_, None) => format!("{place}{what} is gone"),
        }
    }
}

fn short(value: &str) -> String {
    const MOST: usize = 60;
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
    if value.chars().count() > MOST { format!("{line}...") } else { line }
}

/// The key of what a build starts with, and one per component: of the disk after it.
pub fn keys(start: &[Part], components: &[Vec<Part>]) -> Vec<String> {
    let mut keys = vec![key("", start)];
    for parts in components {
        keys.push(key(keys.last().expect("one was there from the start"), parts));
    }
    keys
}

fn key(before: &str, parts: &[Part]) -> String {
    let parts: Vec<[&str; 2]> = parts.iter().map(|p| [p.what.as_str(), p.value.as_str()]).collect();
    digest_bytes(json!([before, parts]).to_string().as_bytes())
}

/// What differs between two lists, in the order of the newer: at most `most` of them.
pub fn changes(before: &[Part], now: &[Part], most: usize) -> Vec<String> {
    let same = |list: &[Part], part: &Part| list.iter().find(|p| p.what == part.what).cloned();
    let mut found: Vec<String> = now
        .iter()
        .filter_map(|part| match same(before, part) {
            Some(old) if old.value == part.value => None,
            old => Some(Part::change(old.as_ref(), Some(part))),
        })
        .collect();
    let gone = before.iter().filter(|part| same(now, part).is_none());
    found.extend(gone.map(|part| Part::change(Some(part), None)));
    if found.is_empty() && keys(before, &[]) != keys(now, &[]) {
        found.push("their order has changed".into());
    }
    found.truncate(most);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let part = ("[a-c]{1,2}", "[a-c]{0,2}", proptest::option::of("[a-z]{1,3}:[0-9]"));
        proptest::collection::vec(part.prop_map(|(what, value, at)| Part { what, value, at }), 0..4)
    }

    fn bare(parts: &[Part]) -> Vec<(&str, &str)> {
        parts.iter().map(|p| (p.what.as_str(), p.value.as_str())).collect()
    }

    proptest! {
        /// Two chains have the same key at a place exactly when everything up to there is the same.
        #[test]
        fn a_key_says_all_that_went_in_and_nothing_else(
            a in proptest::collection::vec(parts(), 0..4),
            b in proptest::collection::vec(parts(), 0..4),
            start in (parts(), parts()),
        ) {
            let (one, other) = (keys(&start.0, &a), keys(&start.1, &b));
            prop_assert_eq!(one.len(), a.len() + 1);
            for place in 0..one.len().min(other.len()) {
                let same = bare(&start.0) == bare(&start.1)
                    && a[..place].iter().zip(&b[..place]).all(|(x, y)| bare(x) == bare(y));
                prop_assert_eq!(one[place] == other[place], same);
            }
        }

        #[test]
        fn a_change_is_told_exactly_when_there_is_one(a in parts(), b in parts()) {
            prop_assert_eq!(changes(&a, &b, 9).is_empty(), bare(&a) == bare(&b)
                || (keys(&a, &[]) == keys(&b, &[])));
        }

        #[test]
        fn parts_read_back(parts in parts()) {
            for part in parts {
                prop_assert_eq!(Part::read(&part.json()), Some(part));
            }
        }
    }

    #[test]
    fn a_change_reads_as_people_would_say_it() {
        let old =
            [Part::new("parameter Version", "1.4").at("install.yml:9"), Part::digest("step build/A", b"x")];
        let new = [
            Part::new("parameter Version", "1.5").at("install.yml:14"),
            Part::digest("step build/A", b"y").at("install.yml:20"),
            Part::new("runs", "booted"),
        ];
        let told = changes(&old, &new, 9);
        assert_eq!(
            told,
            [
                "install.yml:14 parameter Version 1.4 -> 1.5",
                "install.yml:20 step build/A has changed",
                "runs is new"
            ]
        );
        assert_eq!(changes(&new, &old, 9)[2], "runs is gone");
        assert!(Part::change(Some(&Part::new("p", "a\nb")), Some(&Part::new("p", "c"))).contains("a b -> c"));
    }
}
