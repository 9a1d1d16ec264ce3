//! Names of resources, by Image Builder's rules.

use std::fmt;
use std::str::FromStr;

/// 3 to 128 of letters, digits, blank, `-` and `_`, no blank at either end.
///
/// Shown as written. Two names with the same [`slug`](ResourceName::slug) are one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name `{0}` has {1} characters: 3 to 128 are allowed")]
    Length(String, usize),
    #[error("the name `{0}` holds {1:?}: letters, digits, blanks, `-` and `_` are allowed")]
    Character(String, char),
    #[error("the name `{0}` begins or ends with a blank")]
    Blank(String),
}

impl ResourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Lower case, blanks and underscores as `-`: what tells names apart, and what paths are made of.
    pub fn slug(&self) -> String {
        slug(&self.0)
    }
}

/// The slug of any text; meaningful for names only.
pub fn slug(name: &str) -> String {
    name.chars().map(|c| if matches!(c, ' ' | '_') { '-' } else { c.to_ascii_lowercase() }).collect()
}

impl FromStr for ResourceName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<ResourceName, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ' ');
        if let Some(c) = s.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character(s.into(), c));
        }
        if !(3..=128).contains(&s.len()) {
            return Err(NameError::Length(s.into(), s.len()));
        }
        if s.starts_with(' ') || s.ends_with(' ') {
            return Err(NameError::Blank(s.into()));
        }
        Ok(ResourceName(s.into()))
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_collide_by_slug() {
        let slug = |s: &str| s.parse::<ResourceName>().unwrap().slug();
        assert_eq!(slug("My Web_app"), "my-web-app");
        assert_eq!(slug("my-web-app"), slug("MY_WEB APP"));
        for bad in ["ab", "", " abc", "abc ", "a/b/c", "ünï", "a.b.c", "abc\n", &"x".repeat(129)] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad:?}");
        }
    }
}
