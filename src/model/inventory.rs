//! The packages that are installed in an image.

/// Begins the text form; another version is another first line.
const HEADER: &str = "kiln-packages 2";
/// What kiln wrote before it read more than dpkg's records: its lists are complete, but it found fewer.
const OLD_HEADER: &str = "kiln-packages 1";

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

    /// Whether another look may find the packages: what kept kiln from reading them can have been this
    /// host's trouble, or a fault of kiln's own. Of a kind of database that kiln does not read there is
    /// nothing to hope.
    pub fn may_be_read_yet(&self) -> bool {
        matches!(self, Inventory::Unread { why, .. } if !why.is_empty())
    }

    /// Whether an older kiln wrote this text; one of those that [`Inventory::parse`] does not read says less
    /// than is known now.
    pub fn is_old(text: &str) -> bool {
        text.lines().next() == Some(OLD_HEADER)
    }

    /// Reads what [`Inventory::to_text`] writes, and the lists that an older kiln wrote; None is anything else.
    pub fn parse(text: &str) -> Option<Inventory> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let header = lines.next()?;
        let fields: Vec<&str> = lines.next()?.split('\t').collect();
        let rest: Vec<&str> = lines.collect();
        match (header, &fields[..]) {
            (HEADER, ["read", manager]) => read(manager, &rest),
            (OLD_HEADER, ["read"]) => read("dpkg", &rest),
            (HEADER, &["unread", manager, database, why]) if rest.is_empty() => Some(Inventory::Unread {
                manager: manager.into(),
                database: database.into(),
                why: why.into(),
            }),
            (HEADER, ["absent"]) if rest.is_empty() => Some(Inventory::Absent),
            _ => None,
        }
    }
}

fn read(manager: &str, lines: &[&str]) -> Option<Inventory> {
    let package = |line: &&str| match line.split('\t').collect::<Vec<_>>()[..] {
        [name, architecture, version] => {
            Some(Package { name: name.into(), architecture: architecture.into(), version: version.into() })
        }
        _ => None,
    };
    let packages = lines.iter().map(package).collect::<Option<_>>()?;
    Some(Inventory::Read { manager: manager.into(), packages })
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
        for bad in [
            "",
            "kiln-packages 3\nabsent\n",
            "kiln-packages 2\nread\n",
            "kiln-packages 2\nread\tx\na\tb\n",
            "kiln-packages 2\nabsent",
        ] {
            assert_eq!(Inventory::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_of_an_older_kiln_are_of_dpkg_and_complete() {
        let package =
            Package { name: "libc6".into(), architecture: "amd64".into(), version: "2.36-9".into() };
        let list = "kiln-packages 1\nread\nlibc6\tamd64\t2.36-9\n";
        let read = Inventory::Read { manager: "dpkg".into(), packages: vec![package] };
        assert_eq!(Inventory::parse(list), Some(read));
        for less in ["kiln-packages 1\nabsent\n", "kiln-packages 1\nunread\trpm\t/x\n"] {
            assert!(Inventory::parse(less).is_none() && Inventory::is_old(less), "{less:?}");
        }
        assert!(!Inventory::is_old("kiln-packages 2\nread\n") && !Inventory::is_old("kiln-packages 10\n"));
    }
}
