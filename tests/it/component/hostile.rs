//! Documents that mean no good: a clear error or a bounded run, never a hang.

use super::rig::{Rig, statuses, steps};
use kiln::component::{Document, Rules};
use kiln::support::source::Source;

fn codes(text: &str) -> Vec<&'static str> {
    match Document::parse(&Source::new("h.yml", text), &Rules::default()) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.iter().map(|d| d.code).collect(),
    }
}

#[test]
fn documents_beyond_every_bound_get_one_clear_error() {
    let head = "schemaVersion: 1.0\nphases: []\nname: ";
    let mut bomb = String::from("a: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    for (text, code) in [
        (format!("{head}{}", "x".repeat(64 << 20)), "too-large"),
        (format!("{head}{}", "[".repeat(10_000)), "too-deep"),
        (format!("{head}\n{}", "- ".repeat(10_000)), "too-deep"),
        (bomb, "too-large"),
        (format!("{head}a\0b"), "yaml"),
    ] {
        assert_eq!(codes(&text), [code], "{}", &text[..60.min(text.len())]);
    }
    let many = format!("schemaVersion: 1.0\nphases:\n{}", "  - {x: 1}\n".repeat(5000));
    assert!(codes(&many).len() <= 200);
}

#[test]
fn a_file_of_64_megabytes_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.yml");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let findings = Document::load(&path).unwrap_err();
    assert_eq!(findings[0].code, "too-large");
    assert_eq!(Document::load(&folder.path().join("none.yml")).unwrap_err()[0].code, "unreadable");
    assert_eq!(Document::load("/dev/zero".as_ref()).unwrap_err()[0].code, "too-large");
}

#[tokio::test]
async fn braces_without_end_and_nul_bytes_stay_text() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- {name: Text, action: CreateFile, inputs: [{path: HERE/a, content: \"{{ {{{ \\0 }\"}]}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Text success"]);
    assert_eq!(rig.read("a"), "{{ {{{ \0 }");
    let report = rig.run(&steps("- {name: Nul, action: CreateFile, inputs: [{path: \"HERE/a\\0b\"}]}")).await;
    assert_eq!(statuses(&report), ["Nul failed"]);
    let report = rig
        .run(&steps("- {name: Arg, action: ExecuteBinary, inputs: {path: echo, arguments: [\"a\\0\"]}}"))
        .await;
    assert_eq!(statuses(&report), ["Arg failed"]);
}
