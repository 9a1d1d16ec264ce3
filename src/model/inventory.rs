//! The packages that are installed in an image.

/// Begins the text form; another version is another first line.
const HEADER: &str = "kiln-packages 1";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub name: String,
    /// `amd64`, `all`.
    pub architecture: String,
    pub version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inventory {
    /// By name.
    Read(Vec<Package>),
    /// There are packages, and kiln cannot read which.
    Unread { manager: String, database: String },
    /// No package manager that kiln knows.
    #[default]
    Absent,
}

impl Inventory {
    /// None where kiln cannot tell.
    pub fn packages(&self) -> Option<&[Package]> {
        match self {
            Inventory::Read(packages) => Some(packages),
            _ => None,
        }
    }

    /// Why there is no list, for people.
    pub fn missing(&self) -> Option<String> {
        match self {
            Inventory::Read(_) => None,
            Inventory::Unread { manager, database } => Some(format!(
                "its packages are in the database {database} of {manager}, which kiln cannot read"
            )),
            Inventory::Absent => Some("it has no package manager that kiln knows".into()),
        }
    }

    /// Lines: version of this form, then what is known; of each package name, architecture and version,
    /// with tabs between them.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        match self {
            Inventory::Read(packages) => {
                text += "read\n";
                for p in packages {
                    text += &format!("{}\t{}\t{}\n", p.name, p.architecture, p.version);
                }
            }
            Inventory::Unread { manager, database } => text += &format!("unread\t{manager}\t{database}\n"),
            Inventory::Absent => text += "absent\n",
        }
        text
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
            ["read"] => {
                let package = |line: &&str| match line.split('\t').collect::<Vec<_>>()[..] {
                    [name, architecture, version] => Some(Package {
                        name: name.into(),
                        architecture: architecture.into(),
                        version: version.into(),
                    }),
                    _ => None,
                };
                rest.iter().map(package).collect::<Option<_>>().map(Inventory::Read)
            }
            ["unread", manager, database] if rest.is_empty() => {
                Some(Inventory::Unread { manager: manager.into(), database: database.into() })
            }
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
        let package =
            Package { name: "libc6".into(), architecture: "amd64".into(), version: "2.36-9".into() };
        let all = [
            (Inventory::Read(vec![package]), "kiln-packages 1\nread\nlibc6\tamd64\t2.36-9\n"),
            (Inventory::Read(Vec::new()), "kiln-packages 1\nread\n"),
            (
                Inventory::Unread { manager: "rpm".into(), database: "/x".into() },
                "kiln-packages 1\nunread\trpm\t/x\n",
            ),
            (Inventory::Absent, "kiln-packages 1\nabsent\n"),
        ];
        for (inventory, text) in all {
            assert_eq!(inventory.to_text(), text);
            assert_eq!(Inventory::parse(text), Some(inventory));
        }
        for bad in
            ["", "kiln-packages 2\nabsent\n", "kiln-packages 1\nread\na\tb\n", "kiln-packages 1\nabsent"]
        {
            assert_eq!(Inventory::parse(bad), None, "{bad:?}");
        }
    }
}
