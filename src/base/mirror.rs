//! Where Debian's packages come from: the mirrors that the host's own apt uses.
//!
//! Another suite than the host's comes from the same mirrors. No host name is
//! written in kiln.

use super::deb822;
use std::fmt;

/// One `deb` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptSource {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("the host's apt names no Debian mirror (`apt-get indextargets` shows none)")]
    None,
    #[error("the host's apt takes Debian's packages from the list {path}, which cannot be used: {reason}")]
    List { path: String, reason: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Release,
    Updates,
    Security,
}

impl fmt::Display for AptSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deb {} {} {}", self.uri, self.suite, self.components.join(" "))
    }
}

impl AptSource {
    /// The line for a build on this host, checked against the archive's keys in `keyring`.
    pub fn signed_by(&self, keyring: &str) -> String {
        let plain = self.to_string();
        plain.replacen("deb ", &format!("deb [signed-by={keyring}] "), 1)
    }
}

/// The sources for `suite`, from what `apt-get indextargets` printed on a host of release `codename`.
pub fn sources(
    targets: &str,
    codename: &str,
    suite: &str,
    components: &[String],
) -> Result<Vec<AptSource>, MirrorError> {
    let stanzas = deb822::parse(targets);
    let mut found = Vec::new();
    for role in [Role::Release, Role::Updates, Role::Security] {
        let target = stanzas.iter().find(|t| {
            t.get("Created-By") == "Packages"
                && !t.get("Repo-URI").starts_with("cdrom:")
                && is_debian(t.get("Origin"), t.get("Release"), codename)
                && role_of(t.get("Release")) == Some(role)
        });
        if let Some(target) = target {
            found.push(AptSource {
                uri: usable_inside(target.get("Repo-URI"))?,
                suite: match role {
                    Role::Release => suite.to_owned(),
                    Role::Updates => format!("{suite}-updates"),
                    Role::Security => format!("{suite}-security"),
                },
                components: components.to_vec(),
            });
        } else if role == Role::Release {
            return Err(MirrorError::None);
        }
    }
    Ok(found)
}

/// Before the first `apt-get update` apt knows no origins; then the host's own release name has to do.
fn is_debian(origin: &str, release: &str, codename: &str) -> bool {
    match origin {
        "Debian" => true,
        "" => release == codename || release.strip_prefix(codename).is_some_and(|rest| rest.starts_with('-')),
        _ => false,
    }
}

fn role_of(release: &str) -> Option<Role> {
    match release.split_once('-') {
        None => Some(Role::Release),
        Some((_, "updates")) => Some(Role::Updates),
        Some((_, "security")) => Some(Role::Security),
        // Backports, proposed updates and the like are nobody's base.
        Some(_) => None,
    }
}

/// A mirror list lives on the host only: its first mirror is what a guest can use.
fn usable_inside(uri: &str) -> Result<String, MirrorError> {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return Ok(uri.to_owned()) };
    let path = path.trim_end_matches('/');
    let error = |reason: String| MirrorError::List { path: path.into(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    let first = text
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .find_map(|l| l.split_whitespace().next())
        .ok_or_else(|| error("it names no mirror".into()))?;
    Ok(first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(origin: &str, release: &str, uri: &str) -> String {
        format!("Created-By: Packages\nOrigin: {origin}\nRelease: {release}\nRepo-URI: {uri}\n\n")
    }

    fn lines(targets: &str, suite: &str) -> Result<Vec<String>, MirrorError> {
        let all = sources(targets, "bookworm", suite, &["main".into()])?;
        Ok(all.iter().map(AptSource::to_string).collect())
    }

    #[test]
    fn another_suite_comes_from_the_same_mirrors() {
        let host = [
            target("Somebody", "bookworm", "http://other.test/"),
            target("Debian", "bookworm-backports", "http://m.test/debian/"),
            target("Debian", "bookworm", "http://m.test/debian/"),
            target("Debian", "bookworm-security", "http://m.test/security/"),
        ]
        .concat();
        assert_eq!(
            lines(&host, "trixie").unwrap(),
            ["deb http://m.test/debian/ trixie main", "deb http://m.test/security/ trixie-security main"]
        );
        let line = sources(&host, "bookworm", "trixie", &["main".into()]).unwrap()[0].signed_by("/k");
        assert_eq!(line, "deb [signed-by=/k] http://m.test/debian/ trixie main");
    }

    #[test]
    fn before_the_first_update_the_release_name_decides() {
        let host = target("", "tools", "http://x.test/") + &target("", "bookworm", "http://m.test/");
        assert_eq!(lines(&host, "bookworm").unwrap(), ["deb http://m.test/ bookworm main"]);
        assert!(matches!(lines(&target("Ubuntu", "jammy", "http://u/"), "bookworm"), Err(MirrorError::None)));
    }

    #[test]
    fn a_mirror_list_of_the_host_gives_its_first_mirror() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("debian.list");
        std::fs::write(&list, "# near\nhttp://near.test/debian\tpriority:1\nhttp://far.test/debian\n")
            .unwrap();
        let host = target("Debian", "bookworm", &format!("mirror+file:{}/", list.display()));
        assert_eq!(lines(&host, "bookworm").unwrap(), ["deb http://near.test/debian bookworm main"]);
    }
}
