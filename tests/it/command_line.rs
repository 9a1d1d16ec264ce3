//! The command line as such.

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_has_seen_enough_is_no_defect() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["--format", "json", "base", "list", "--home"])
        .arg(home.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
}
