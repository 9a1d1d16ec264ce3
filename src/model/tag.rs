//! Tags of images, by the service's rules.

/// Most tags of one image.
pub const MOST_TAGS: usize = 50;
const KEY_LIMIT: usize = 128;
const VALUE_LIMIT: usize = 256;

/// `team=web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("`{0}` is no tag: KEY=VALUE")]
    Shape(String),
    #[error("the tag's key `{0}` has {1} characters: 1 to {KEY_LIMIT} are allowed")]
    KeyLength(String, usize),
    #[error("the tag's key `{0}` begins with `aws:`, which is reserved")]
    Reserved(String),
    #[error("the tag's key `{0}` holds {1:?}: letters, digits, blanks and _ . : / = + - @ are allowed")]
    Character(String, char),
    #[error("the value of the tag `{0}` has {1} characters: {VALUE_LIMIT} are allowed")]
    ValueLength(String, usize),
    #[error("the value of the tag `{0}` holds a control character")]
    Value(String),
}

impl Tag {
    pub fn new(key: &str, value: &str) -> Result<Tag, TagError> {
        let (keys, values) = (key.chars().count(), value.chars().count());
        let allowed = |c: char| c.is_ascii_alphanumeric() || " \t_.:/=+-@".contains(c);
        if !(1..=KEY_LIMIT).contains(&keys) {
            return Err(TagError::KeyLength(key.into(), keys));
        }
        if key.starts_with("aws:") {
            return Err(TagError::Reserved(key.into()));
        }
        if let Some(c) = key.chars().find(|c| !allowed(*c)) {
            return Err(TagError::Character(key.into(), c));
        }
        if values > VALUE_LIMIT {
            return Err(TagError::ValueLength(key.into(), values));
        }
        if value.chars().any(char::is_control) {
            return Err(TagError::Value(key.into()));
        }
        Ok(Tag { key: key.into(), value: value.into() })
    }
}

impl std::str::FromStr for Tag {
    type Err = TagError;
    /// The first `=` ends the key.
    fn from_str(s: &str) -> Result<Tag, TagError> {
        let (key, value) = s.split_once('=').ok_or_else(|| TagError::Shape(s.into()))?;
        Tag::new(key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_bounded_as_the_service_bounds_them() {
        let tag: Tag = "cost center=a=b".parse().unwrap();
        assert_eq!((tag.key.as_str(), tag.value.as_str()), ("cost center", "a=b"));
        assert!(Tag::new(&"k".repeat(128), &"v".repeat(256)).is_ok());
        assert!(Tag::new("k", "").is_ok());
        let long = "k".repeat(129);
        for (key, value) in
            [(long.as_str(), ""), ("", "v"), ("aws:x", "v"), ("a\nb", "v"), ("ü", "v"), ("k", "a\u{1b}")]
        {
            assert!(Tag::new(key, value).is_err(), "{key:?}={value:?}");
        }
        assert!(Tag::new("k", &"v".repeat(257)).is_err());
        assert!("team".parse::<Tag>().is_err());
    }
}
