//! Bad documents, and what is said about each: `bad/*.yml` and the `.txt` beside it.
//!
//! After a change that is meant: `KILN_BLESS=1 cargo test --test it diagnostics`, then read the diff.

use kiln::component::{Document, Rules};
use kiln::support::source::Source;
use std::path::Path;

#[test]
fn every_bad_document_is_told_what_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/component/bad");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".yml"))
        .collect();
    names.sort();
    assert!(names.len() > 30);
    let bless = std::env::var_os("KILN_BLESS").is_some();
    let mut wrong = Vec::new();
    for name in names {
        let text = std::fs::read_to_string(folder.join(&name)).unwrap();
        let setting =
            |key: &str| text.lines().next().unwrap().strip_prefix(&format!("# {key}: ")).map(str::to_owned);
        let rules = Rules {
            platform: setting("platform").map(|p| p.parse().unwrap()),
            blocked: setting("blocked").into_iter().collect(),
        };
        let findings = match Document::parse(&Source::new(&*name, &*text), &rules) {
            Ok(document) => {
                assert!(name.starts_with("warnings"), "{name} was accepted");
                document.warnings
            }
            Err(findings) => findings,
        };
        let shown: String = findings.iter().map(|d| d.render() + "\n").collect();
        let golden = folder.join(name.replace(".yml", ".txt"));
        if bless {
            std::fs::write(&golden, &shown).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != shown {
            wrong.push(format!("--- {name}\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
