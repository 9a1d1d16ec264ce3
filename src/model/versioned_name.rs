//! How people name an image or a component: `nginx`, `nginx/1.0.x`, `nginx/1.0.0`, `nginx/1.0.0/3`.

use super::{ImageVersion, VersionError, VersionPattern, slug};
use std::fmt;
use std::str::FromStr;

/// A name, and which of its versions: without a build number the newest one that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedName {
    pub name: String,
    pub version: VersionPattern,
    pub build: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionedNameError {
    #[error("`{0}` names nothing: name, name/1.0.x, name/1.0.0 or name/1.0.0/3")]
    Shape(String),
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("`{build}` in `{text}` is no build number: they count from 1")]
    Build { text: String, build: String },
    #[error("`{0}` has a build number, which belongs to one version: leave the number away, or the x")]
    BuildOfPattern(String),
}

impl VersionedName {
    /// Whether this may mean the image or component of that name and version.
    pub fn fits(&self, name: &str, version: ImageVersion) -> bool {
        slug(&self.name) == slug(name)
            && self.version.matches(version.version)
            && self.build.is_none_or(|b| b == version.build)
    }
}

impl FromStr for VersionedName {
    type Err = VersionedNameError;
    /// ARNs are understood, too.
    fn from_str(s: &str) -> Result<VersionedName, VersionedNameError> {
        let tail = |kind| s.split_once(kind).filter(|_| s.starts_with("arn:")).map(|(_, tail)| tail);
        let short = tail(":image/").or(tail(":component/")).unwrap_or(s);
        if short.starts_with("arn:") {
            return Err(VersionedNameError::Shape(s.into()));
        }
        let mut parts = short.split('/');
        let name = parts.next().unwrap_or_default();
        let version: VersionPattern = parts.next().unwrap_or("x.x.x").parse()?;
        let build = match parts.next() {
            None => None,
            Some(text) => {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                let number = text.parse().ok().filter(|n| digits && *n > 0);
                let wrong = || VersionedNameError::Build { text: s.into(), build: text.into() };
                Some(number.ok_or_else(wrong)?)
            }
        };
        if name.is_empty() || parts.next().is_some() {
            return Err(VersionedNameError::Shape(s.into()));
        }
        if build.is_some() && version.exact().is_none() {
            return Err(VersionedNameError::BuildOfPattern(s.into()));
        }
        Ok(VersionedName { name: name.into(), version, build })
    }
}

impl VersionedName {
    /// As people write it: the name alone where it stands for every version.
    pub fn short(&self) -> String {
        match self.build.is_none() && self.version == VersionPattern::ANY {
            true => self.name.to_string(),
            false => self.to_string(),
        }
    }
}

impl fmt::Display for VersionedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)?;
        self.build.map_or(Ok(()), |b| write!(f, "/{b}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_versions_are_read_and_wrong_ones_explained() {
        let read = |s: &str| s.parse::<VersionedName>().map(|n| n.to_string()).map_err(|e| e.to_string());
        assert_eq!(read("nginx").unwrap(), "nginx/x.x.x");
        assert_eq!(read("nginx/1.0.x").unwrap(), "nginx/1.0.x");
        assert_eq!(read("nginx/1.0.0/3").unwrap(), "nginx/1.0.0/3");
        assert_eq!(read("arn:aws:imagebuilder:eu-west-1:1:image/nginx/x.x.x").unwrap(), "nginx/x.x.x");
        assert_eq!(read("arn:aws:imagebuilder:eu-west-1:1:component/a/1.0.0/2").unwrap(), "a/1.0.0/2");
        for (bad, says) in [
            ("nginx/x.2.x", "right of an x every part must be x"),
            ("nginx/1.x.8", "right of an x every part must be x"),
            ("nginx/1.0", "1.0.x"),
            ("nginx/1.x.x/3", "build number, which belongs to one version"),
            ("nginx/1.0.0/+3", "no build number"),
            ("nginx/1.0.0/0", "count from 1"),
            ("nginx/1.0.0/3/4", "names nothing"),
            ("/1.0.0", "names nothing"),
            ("arn:aws:imagebuilder:eu-west-1:1:workflow/a/1.0.0", "names nothing"),
        ] {
            let said = read(bad).unwrap_err();
            assert!(said.contains(says), "{bad}: {said}");
        }
    }
}
