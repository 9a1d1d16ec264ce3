//! Installed packages, by dpkg's own records.

use super::Look;
use crate::appliance::ApplianceError;
use std::collections::BTreeMap;

/// dpkg's list of a large desktop has 10 MiB.
const STATUS_LIMIT: u64 = 64 << 20;
/// What one package's list of paths may have, and all of them together.
const LIST_LIMIT: u64 = 8 << 20;
const LISTS_LIMIT: usize = 128 << 20;

const INFO: &str = "/var/lib/dpkg/info";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    /// `amd64`, `all`.
    pub architecture: String,
    pub version: String,
}

impl Look<'_> {
    /// None where dpkg is not the package manager.
    pub(super) async fn packages(&self) -> Result<Option<Vec<Package>>, ApplianceError> {
        let status = self.text("/var/lib/dpkg/status", STATUS_LIMIT).await?;
        Ok((!status.is_empty()).then(|| installed(&status)))
    }

    /// The paths that each package has brought, by `name` or `name:architecture` as dpkg calls it.
    pub(super) async fn paths_of_packages(&self) -> Result<BTreeMap<String, Vec<String>>, ApplianceError> {
        let (mut all, mut size) = (BTreeMap::new(), 0);
        for name in self.names(INFO, "", ".list").await? {
            let text = self.text(&format!("{INFO}/{name}"), LIST_LIMIT).await?;
            size += text.len();
            if size > LISTS_LIMIT {
                break;
            }
            let package = name.trim_end_matches(".list").to_owned();
            all.insert(package, text.lines().map(str::to_owned).collect());
        }
        Ok(all)
    }
}

fn installed(status: &str) -> Vec<Package> {
    let package = |stanza: &str| {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
            line.map(|l| l.trim().chars().take(200).collect::<String>())
        };
        let is_there = field("Status")?.ends_with(" installed");
        is_there.then_some(())?;
        Some(Package {
            name: field("Package")?,
            architecture: field("Architecture").unwrap_or_default(),
            version: field("Version").unwrap_or_default(),
        })
    };
    status.split("\n\n").filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2-3\n\
                      Description: x\n Package: not a field\n\nPackage: gone\n\
                      Status: deinstall ok config-files\nVersion: 1\n\nPackage: b\n\
                      Status: hold ok installed\nArchitecture: all\nVersion: 2\n";
        let package = |name: &str, architecture: &str, version: &str| Package {
            name: name.into(),
            architecture: architecture.into(),
            version: version.into(),
        };
        assert_eq!(installed(status), [package("a", "amd64", "1.2-3"), package("b", "all", "2")]);
    }
}
