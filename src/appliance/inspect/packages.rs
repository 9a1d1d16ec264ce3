//! Installed packages, by the records of the image's own package manager.

use super::Look;
use crate::appliance::ApplianceError;
use crate::disk::rpm::{self, RpmError};
use crate::guest::{Guest, GuestError, GuestFiles};
use crate::model::{Inventory, Package};
use crate::support::text::marked;
use crate::support::wait::Patience;
use kiln_protocol::message::{EntryKind, Operation};
use std::path::Path;

/// dpkg's list of a large desktop has 10 MiB.
const STATUS_LIMIT: u64 = 64 << 20;
/// What one package's list of paths may have, and all of them together.
const LIST_LIMIT: u64 = 8 << 20;
const LISTS_LIMIT: usize = 128 << 20;
/// rpm's database of a large desktop has 150 MiB.
const DATABASE_LIMIT: u64 = 256 << 20;
/// What is said of a database that is not sound.
const REASON_LIMIT: usize = 300;

const DPKG: &str = "/var/lib/dpkg/status";
const INFO: &str = "/var/lib/dpkg/info";
const APK: &str = "/lib/apk/db/installed";

/// One is often a link to the other.
const RPM: [&str; 2] = ["/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"];

/// Databases that kiln does not read: of kinds of their own.
const OTHERS: [(&str, &str); 4] = [
    ("rpm", "/usr/lib/sysimage/rpm/Packages.db"),
    ("rpm", "/var/lib/rpm/Packages.db"),
    ("rpm", "/var/lib/rpm/Packages"),
    ("pacman", "/var/lib/pacman/local/ALPM_DB_VERSION"),
];

/// Where packages are recorded.
enum Records {
    Dpkg { status: String },
    Apk { installed: String },
    Rpm { database: &'static str },
    Other { manager: &'static str, database: &'static str },
}

impl Look<'_> {
    pub(super) async fn inventory(&self) -> Result<Inventory, ApplianceError> {
        let unread = |manager: &str, database: &str, why: &str| Inventory::Unread {
            manager: manager.into(),
            database: database.into(),
            why: why.into(),
        };
        let read = |manager: &str, packages| Inventory::Read { manager: manager.into(), packages };
        Ok(match self.records().await? {
            None => Inventory::Absent,
            Some(Records::Dpkg { status }) => read("dpkg", known_to_dpkg(&status)),
            Some(Records::Apk { installed }) => read("apk", known_to_apk(&installed)),
            Some(Records::Other { manager, database }) => unread(manager, database, ""),
            Some(Records::Rpm { database }) => match self.ask_rpm(database, rpm::packages).await? {
                Ok(packages) => read("rpm", packages),
                Err(why) => unread("rpm", database, &why),
            },
        })
    }

    async fn records(&self) -> Result<Option<Records>, ApplianceError> {
        let status = self.text(DPKG, STATUS_LIMIT).await?;
        if !status.is_empty() {
            return Ok(Some(Records::Dpkg { status }));
        }
        for database in RPM {
            if self.exists(database).await? {
                return Ok(Some(Records::Rpm { database }));
            }
        }
        let installed = self.text(APK, STATUS_LIMIT).await?;
        if !installed.is_empty() {
            return Ok(Some(Records::Apk { installed }));
        }
        for (manager, database) in OTHERS {
            if self.exists(database).await? {
                return Ok(Some(Records::Other { manager, database }));
            }
        }
        Ok(None)
    }

    /// The paths that these packages (name, architecture) have brought, as far as their manager knows them.
    pub(super) async fn paths_of(
        &self,
        packages: &[(String, String)],
    ) -> Result<Vec<String>, ApplianceError> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        match self.records().await? {
            Some(Records::Dpkg { .. }) => self.lists_of_dpkg(packages).await,
            Some(Records::Apk { installed }) => Ok(paths_of_apk(&installed, packages)),
            Some(Records::Rpm { database }) => {
                let wanted = packages.to_vec();
                let read = move |path: &Path, patience: &Patience| rpm::paths(path, &wanted, patience);
                Ok(self.ask_rpm(database, read).await?.unwrap_or_default())
            }
            Some(Records::Other { .. }) | None => Ok(Vec::new()),
        }
    }

    async fn lists_of_dpkg(&self, packages: &[(String, String)]) -> Result<Vec<String>, ApplianceError> {
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

    /// Brings the database to a folder of the host's and reads it there; or tells why it cannot be read.
    async fn ask_rpm<T: Send + 'static>(
        &self,
        database: &str,
        read: impl FnOnce(&Path, &Patience) -> Result<T, RpmError> + Send + 'static,
    ) -> Result<Result<T, String>, ApplianceError> {
        let folder = tempfile::Builder::new().prefix("rpm-").tempdir_in(self.guest.machine.folder());
        let folder = match folder {
            Ok(folder) => folder,
            Err(e) => return Ok(Err(no_copy(self.guest.machine.folder(), &e))),
        };
        let path = folder.path().join("rpmdb.sqlite");
        // What rpm wrote last may still be in its log.
        for (source, target) in [
            (database.to_owned(), path.clone()),
            (format!("{database}-wal"), path.with_extension("sqlite-wal")),
        ] {
            if let Err(why) = self.bring(&source, &target).await? {
                return Ok(Err(why));
            }
        }
        let patience = self.patience.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _folder = folder;
            read(&path, &patience)
        });
        Ok(match reading.await {
            Ok(Err(RpmError::Impatience(impatience))) => return Err(impatience.into()),
            Ok(read) => read.map_err(|e| marked(&e.to_string(), REASON_LIMIT)),
            Err(e) => Err(format!("kiln gave up reading it: {e}")),
        })
    }

    /// Copies a file of the image, if there is one, to the host; or tells why not. Also a full disk of the host
    /// is no more than a reason: it says nothing of the image.
    async fn bring(&self, source: &str, target: &Path) -> Result<Result<(), String>, ApplianceError> {
        let found = self.guest.stat(source, true, self.patience).await;
        let Some(found) = self.optional(source, found)?.flatten() else { return Ok(Ok(())) };
        if found.kind != EntryKind::File {
            return Ok(Err(format!("{source} is no regular file")));
        }
        if found.size > DATABASE_LIMIT {
            return Ok(Err(format!("{source} has more than {} MiB", DATABASE_LIMIT >> 20)));
        }
        let mut file = match tokio::fs::File::create(target).await {
            Ok(file) => file,
            Err(e) => return Ok(Err(no_copy(target, &e))),
        };
        let get = Operation::Get { path: source.into(), offset: 0, length: None };
        match self.guest.get(get, DATABASE_LIMIT, &mut file, self.patience).await {
            Err(GuestError::Local(e)) => Ok(Err(no_copy(target, &e))),
            got => Ok(self.optional(source, got)?.map(drop).ok_or(format!("{source} cannot be copied"))),
        }
    }
}

fn no_copy(target: &Path, why: &std::io::Error) -> String {
    // The path comes last: it may be cut off.
    marked(&format!("its copy cannot be written: {why}: {}", target.display()), REASON_LIMIT)
}

/// One of the stanzas that dpkg and apk keep of each package.
struct Stanza<'a>(&'a str);

impl Stanza<'_> {
    fn all(text: &str) -> impl Iterator<Item = Stanza<'_>> {
        text.split("\n\n").map(Stanza)
    }

    /// What follows `name`, which ends with a colon.
    fn field(&self, name: &str) -> Option<String> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name))?;
        Some(marked(line.trim(), 200))
    }

    fn package(&self, [name, architecture, version]: [&str; 3]) -> Option<Package> {
        Some(Package {
            name: self.field(name)?,
            architecture: self.field(architecture).unwrap_or_default(),
            version: self.field(version).unwrap_or_default(),
        })
    }
}

fn known_to_dpkg(status: &str) -> Vec<Package> {
    let is_there = |s: &Stanza| s.field("Status:").is_some_and(|status| status.ends_with(" installed"));
    let installed = Stanza::all(status).filter(is_there);
    installed.filter_map(|s| s.package(["Package:", "Architecture:", "Version:"])).collect()
}

fn apk_package(stanza: &Stanza) -> Option<Package> {
    stanza.package(["P:", "A:", "V:"])
}

fn known_to_apk(installed: &str) -> Vec<Package> {
    Stanza::all(installed).filter_map(|s| apk_package(&s)).collect()
}

fn paths_of_apk(installed: &str, packages: &[(String, String)]) -> Vec<String> {
    let (mut paths, mut size) = (Vec::new(), 0);
    for stanza in Stanza::all(installed) {
        let is_wanted = |p: Package| packages.iter().any(|(n, a)| *n == p.name && *a == p.architecture);
        if !apk_package(&stanza).is_some_and(is_wanted) {
            continue;
        }
        let mut folder = "";
        for line in stanza.0.lines() {
            let name = match line.split_at_checked(2) {
                Some(("F:", path)) => {
                    folder = path;
                    ""
                }
                Some(("R:", name)) => name,
                _ => continue,
            };
            // A folder's name is told once, and repeated for each of its files.
            size += folder.len() + name.len() + 2;
            if size > LISTS_LIMIT {
                return paths;
            }
            let parts = [folder, name].into_iter().filter(|part| !part.is_empty());
            paths.push(format!("/{}", parts.collect::<Vec<_>>().join("/")));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, architecture: &str, version: &str) -> Package {
        Package { name: name.into(), architecture: architecture.into(), version: version.into() }
    }

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2-3\n\
                      Description: x\n Package: not a field\n\nPackage: gone\n\
                      Status: deinstall ok config-files\nVersion: 1\n\nPackage: b\n\
                      Status: hold ok installed\nArchitecture: all\nVersion: 2\n";
        assert_eq!(known_to_dpkg(status), [package("a", "amd64", "1.2-3"), package("b", "all", "2")]);
    }

    /// As Alpine's apk writes it.
    #[test]
    fn what_apk_has_installed_is_known_with_its_paths() {
        let installed = "C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\nP:alpine-baselayout\nV:3.4.3-r2\nA:x86_64\nS:8911\n\
                         T:Alpine base\nF:\nR:.keep\nF:dev\nF:etc\nM:0:0:755\nR:motd\na:0:0:644\n\
                         Z:Q1SLkS9hBidUbPwwrw+XR0Whv3ww8=\n\nC:Q1l\nP:musl\nV:1.2.4-r2\nA:x86_64\n\
                         F:lib\nR:ld-musl-x86_64.so.1\n\n";
        let layout = package("alpine-baselayout", "x86_64", "3.4.3-r2");
        assert_eq!(known_to_apk(installed), [layout, package("musl", "x86_64", "1.2.4-r2")]);
        let of = |name: &str| paths_of_apk(installed, &[(name.into(), "x86_64".into())]);
        assert_eq!(of("alpine-baselayout"), ["/", "/.keep", "/dev", "/etc", "/etc/motd"]);
        assert_eq!(of("musl"), ["/lib", "/lib/ld-musl-x86_64.so.1"]);
    }
}
