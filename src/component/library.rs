//! Components that come with kiln.

use super::document::{Document, Rules};
use crate::model::Version;
use crate::support::source::Source;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        [$(Builtin {
            name: $name,
            text: include_str!(concat!("../../examples/components/", $name, ".yml")),
        }),*]
    };
}

/// What a recipe may call them by, beside `x.x.x`.
pub const VERSION: Version = Version { major: 1, minor: 0, patch: 0 };

/// All, by name.
pub static ALL: [Builtin; 7] = builtin![
    "hello-world-linux",
    "install-package-linux",
    "reboot-linux",
    "reboot-test-linux",
    "simple-boot-test-linux",
    "update-linux",
    "validate-ssh-host-key-generation-linux",
];

pub fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|b| b.name == name)
}

impl Builtin {
    /// The document, which is valid (a test sees to it).
    pub fn document(&self) -> Document {
        let source = Source::new(format!("builtin:{}", self.name), self.text);
        Document::parse(&source, &Rules::default()).expect("built-in components are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_built_in_valid_and_without_warnings() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/components");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".yml")?.to_owned()))
            .collect();
        files.sort();
        assert_eq!(files, ALL.map(|b| b.name));
        for builtin in ALL {
            let document = builtin.document();
            assert_eq!(document.name.as_deref(), Some(builtin.name));
            let shown: String = document.warnings.iter().map(|w| w.render()).collect();
            assert!(shown.is_empty(), "{shown}");
        }
    }
}
