//! The packages that are installed in an image.

/// Begins the text form; another version is another first line.
const HEADER: &str = "kiln-packages 2";
/// What kiln wrote before it read more than dpkg's records: such a list is taken anew.
const OLD_HEADER: &str = "kiln-packages 1\n";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub name: String,
    /// `amd64`, `all`, `noarch`; empty where it has none, as the keys that rpm lists.
    pub architecture: String,
    pub version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inventory {
    /// In the order of the package manager's own records.
    Read { manager: String, packages: Vec<Package> },
    /// There are packages, and kiln cannot read which; `why` is empty where it is the kind of database.
    Unread { manager: String, database: String, why: String },
    /// No package manager that kiln knows.
    #[default]
    Absent,
}

impl Inventory {
    /// None where kiln cannot tell.
    pub fn packages(&self) -> Option<&[Package]> {
        match self {
            Inventory::Read { packages, .. } => Some(packages),
            _ => None,
        }
    }

    /// None where there is none that kiln knows.
    pub fn manager(&self) -> Option<&str> {
        match self {
            Inventory::Read { manager, .. } | Inventory::Unread { manager, .. } => Some(manager),
            Inventory::Absent => None,
        }
    }

    /// Why there is no list, for people.
    pub fn missing(&self) -> Option<String> {
        match self {
            Inventory::Read { .. } => None,
            Inventory::Unread { manager, database, why } => {
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                Some(format!(
                    "its packages are in the database {database} of {manager}, which kiln cannot read{why}"
                ))
            }
            Inventory::Absent => Some("it has no package manager that kiln knows".into()),
        }
    }

    /// Lines: version of this form, then what is known; of each package name, architecture and version,
    /// with tabs between them.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        match self {
            Inventory::Read { manager, packages } => {
                text += &format!("read\t{manager}\n");
                for p in packages {
                    text += &format!("{}\t{}\t{}\n", p.name, p.architecture, p.version);
                }
            }
            Inventory::Unread { manager, database, why } => {
                text += &format!("unread\t{manager}\t{database}\t{why}\n");
            }
            Inventory::Absent => text += "absent\n",
        }
        text
    }

    /// Whether an older kiln wrote this, in a form that says less.
    pub fn is_outdated(text: &str) -> bool {
        text.starts_with(OLD_HEADER)
    }

    /// Reads what [`Inventory::to_text`] writes; None is anything else.
    pub fn parse(text: &str) -> Option<Inventory> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != HEADER {
            return None;
        }
        let fields: Vec<&str> = lines.next()?.split('\t').collect();
        let rest: Vec<&str> = lines.collect();
        match fields[..] {
            ["read", manager] => {
                let package = |line: &&str| match line.split('\t').collect::<Vec<_>>()[..] {
                    [name, architecture, version] => Some(Package {
                        name: name.into(),
                        architecture: architecture.into(),
                        version: version.into(),
                    }),
                    _ => None,
                };
                let packages = rest.iter().map(package).collect::<Option<_>>()?;
                Some(Inventory::Read { manager: manager.into(), packages })
            }
            ["unread", manager, database, why] if rest.is_empty() => Some(Inventory::Unread {
                manager: manager.into(),
                database: database.into(),
                why: why.into(),
            }),
            ["absent"] if rest.is_empty() => Some(Inventory::Absent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_says_all_and_only_that() {
        let packages =
            vec![Package { name: "libc6".into(), architecture: "amd64".into(), version: "2.36-9".into() }];
        let read = |packages| Inventory::Read { manager: "dpkg".into(), packages };
        let unread =
            |why: &str| Inventory::Unread { manager: "rpm".into(), database: "/x".into(), why: why.into() };
        let all = [
            (read(packages), "kiln-packages 2\nread\tdpkg\nlibc6\tamd64\t2.36-9\n"),
            (read(Vec::new()), "kiln-packages 2\nread\tdpkg\n"),
            (unread(""), "kiln-packages 2\nunread\trpm\t/x\t\n"),
            (unread("it is cut off"), "kiln-packages 2\nunread\trpm\t/x\tit is cut off\n"),
            (Inventory::Absent, "kiln-packages 2\nabsent\n"),
        ];
        for (inventory, text) in all {
            assert_eq!(inventory.to_text(), text);
            assert_eq!(Inventory::parse(text), Some(inventory));
        }
        for bad in
            ["", "kiln-packages 3\nabsent\n", "kiln-packages 2\nread\tx\na\tb\n", "kiln-packages 2\nabsent"]
        {
            assert_eq!(Inventory::parse(bad), None, "{bad:?}");
        }
        assert!(Inventory::is_outdated("kiln-packages 1\nread\n") && !Inventory::is_outdated(HEADER));
    }
}
