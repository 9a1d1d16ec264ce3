//! Installed packages, by dpkg's own records.

use super::Look;
use crate::appliance::ApplianceError;
use crate::model::{Inventory, Package};

/// dpkg's list of a large desktop has 10 MiB.
const STATUS_LIMIT: u64 = 64 << 20;
/// What one package's list of paths may have, and all of them together.
const LIST_LIMIT: u64 = 8 << 20;
const LISTS_LIMIT: usize = 128 << 20;

const INFO: &str = "/var/lib/dpkg/info";

/// Package managers whose records kiln does not read: most are databases of their own kinds.
const OTHERS: [(&str, &str); 7] = [
    ("rpm", "/usr/lib/sysimage/rpm/rpmdb.sqlite"),
    ("rpm", "/var/lib/rpm/rpmdb.sqlite"),
    ("rpm", "/usr/lib/sysimage/rpm/Packages.db"),
    ("rpm", "/var/lib/rpm/Packages.db"),
    ("rpm", "/var/lib/rpm/Packages"),
    ("apk", "/lib/apk/db/installed"),
    ("pacman", "/var/lib/pacman/local/ALPM_DB_VERSION"),
];

impl Look<'_> {
    pub(super) async fn inventory(&self) -> Result<Inventory, ApplianceError> {
        let status = self.text("/var/lib/dpkg/status", STATUS_LIMIT).await?;
        if !status.is_empty() {
            return Ok(Inventory::Read(installed(&status)));
        }
        for (manager, database) in OTHERS {
            if self.exists(database).await? {
                return Ok(Inventory::Unread { manager: manager.into(), database: database.into() });
            }
        }
        Ok(Inventory::Absent)
    }

    /// The paths that these packages (name, architecture) have brought, as far as dpkg knows them.
    pub(super) async fn paths_of(
        &self,
        packages: &[(String, String)],
    ) -> Result<Vec<String>, ApplianceError> {
        let (mut all, mut size) = (Vec::new(), 0);
        for (name, architecture) in packages {
            // A list is called after the architecture where more than one can be installed.
            for list in [format!("{INFO}/{name}.list"), format!("{INFO}/{name}:{architecture}.list")] {
                let text = self.text(&list, LIST_LIMIT).await?;
                size += text.len();
                if size > LISTS_LIMIT {
                    return Ok(all);
                }
                all.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(all)
    }
}

fn installed(status: &str) -> Vec<Package> {
    let package = |stanza: &str| {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
            line.map(|l| {
                l.trim().chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect::<String>()
            })
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
