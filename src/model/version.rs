//! Versions by Image Builder's rules: `major.minor.patch[/build]`, each node 0..2^30-1.

use std::fmt;
use std::str::FromStr;

const NODE_LIMIT: u32 = (1 << 30) - 1;

/// `1.0.2`. Written nodes may have leading zeros (`2021.01.01`); they compare as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

/// `1.0.2/7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageVersion {
    pub version: Version,
    pub build: u32,
}

/// `x.x.x`, `1.x.x`, `1.0.x` or a full version. Right of an `x` there are only `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VersionPattern {
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub patch: Option<u32>,
}

impl VersionPattern {
    /// `x.x.x`.
    pub const ANY: VersionPattern = VersionPattern { major: None, minor: None, patch: None };
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("`{0}` is no version: three numbers with dots between them, such as 1.0.0")]
    Shape(String),
    #[error("`{0}` is no version: three numbers such as 1.0.0, or with x for the newest such as 1.0.x")]
    PatternShape(String),
    #[error("`{node}` in version `{text}` is no whole number from 0 to {NODE_LIMIT}")]
    Node { text: String, node: String },
    #[error("`{0}`: right of an x every part must be x (1.x.x, not 1.x.2)")]
    AfterWildcard(String),
}

fn node(text: &str, part: &str) -> Result<u32, VersionError> {
    let wrong = || VersionError::Node { text: text.into(), node: part.into() };
    if part.is_empty() || part.len() > 10 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    part.parse().ok().filter(|n| *n <= NODE_LIMIT).ok_or_else(wrong)
}

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(s: &str) -> Result<Version, VersionError> {
        let parts: Vec<&str> = s.split('.').collect();
        let [major, minor, patch] = parts[..] else {
            return Err(VersionError::Shape(s.into()));
        };
        Ok(Version { major: node(s, major)?, minor: node(s, minor)?, patch: node(s, patch)? })
    }
}

impl FromStr for ImageVersion {
    type Err = VersionError;
    fn from_str(s: &str) -> Result<ImageVersion, VersionError> {
        let (version, build) = s.split_once('/').ok_or_else(|| VersionError::Shape(s.into()))?;
        Ok(ImageVersion { version: version.parse()?, build: node(s, build)? })
    }
}

impl FromStr for VersionPattern {
    type Err = VersionError;
    fn from_str(s: &str) -> Result<VersionPattern, VersionError> {
        let parts: Vec<&str> = s.split('.').collect();
        if parts.len() != 3 {
            return Err(VersionError::PatternShape(s.into()));
        }
        let mut nodes = [None; 3];
        let mut open = false;
        for (slot, part) in nodes.iter_mut().zip(parts) {
            match part {
                "x" => open = true,
                _ if open => return Err(VersionError::AfterWildcard(s.into())),
                _ => *slot = Some(node(s, part)?),
            }
        }
        let [major, minor, patch] = nodes;
        Ok(VersionPattern { major, minor, patch })
    }
}

impl VersionPattern {
    pub fn matches(&self, v: Version) -> bool {
        let fits = |p: Option<u32>, n| p.is_none_or(|p| p == n);
        fits(self.major, v.major) && fits(self.minor, v.minor) && fits(self.patch, v.patch)
    }

    /// The version after `newest`, where only the last number is open; None when there is no number left.
    pub fn next_patch(&self, newest: Option<Version>) -> Option<Version> {
        let patch = match newest {
            Some(newest) => newest.patch.checked_add(1)?,
            None => 0,
        };
        let version = Version { major: self.major?, minor: self.minor?, patch };
        (patch <= NODE_LIMIT).then_some(version)
    }

    /// The version, when nothing in it is open.
    pub fn exact(&self) -> Option<Version> {
        Some(Version { major: self.major?, minor: self.minor?, patch: self.patch? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.build)
    }
}

impl fmt::Display for VersionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |n: Option<u32>| n.map_or("x".to_owned(), |n| n.to_string());
        write!(f, "{}.{}.{}", part(self.major), part(self.minor), part(self.patch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_resolve_as_the_service_does() {
        let all: Vec<Version> = ["2.2.4", "1.7.8", "1.6.8"].iter().map(|s| s.parse().unwrap()).collect();
        let newest = |p: &str| {
            let p: VersionPattern = p.parse().unwrap();
            all.iter().filter(|v| p.matches(**v)).max().unwrap().to_string()
        };
        assert_eq!(newest("x.x.x"), "2.2.4");
        assert_eq!(newest("1.x.x"), "1.7.8");
        assert_eq!(newest("1.6.x"), "1.6.8");
        assert!(matches!("x.2.x".parse::<VersionPattern>(), Err(VersionError::AfterWildcard(_))));
        assert!(matches!("1.x.8".parse::<VersionPattern>(), Err(VersionError::AfterWildcard(_))));
    }

    #[test]
    fn nodes_are_bounded_numbers() {
        assert_eq!("2021.01.01".parse::<Version>().unwrap(), "2021.1.1".parse().unwrap());
        assert!("1.0.1073741823".parse::<Version>().is_ok());
        for bad in ["1.0", "1.0.1073741824", "1.0.-1", "1.0.+1", "1..0", "1.0.0.0", "", "1.0.99999999999"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert_eq!("1.0.0/3".parse::<ImageVersion>().unwrap().build, 3);
    }
}
