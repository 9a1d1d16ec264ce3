//! `kiln doctor` as programs and people see it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::Folder;

fn doctor(home: &Folder, arguments: &[&str], path: Option<&str>) -> Output {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.arg("--home").arg(&**home).args(arguments).arg("doctor").env_remove("KILN_ACCEL");
    if let Some(path) = path {
        kiln.env("PATH", path);
    }
    kiln.output().unwrap()
}

fn state<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|c| c["name"] == name).unwrap()["state"].as_str().unwrap()
}

#[test]
fn a_host_with_qemu_builds_in_emulation() {
    let home = Folder::new("doctor");
    let output = doctor(&home, &["--accel", "tcg", "--format", "json"], None);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["buildsCanRun"], true);
    assert_eq!((state(&report, "qemu"), state(&report, "emulation")), ("good", "good"));
    let text = String::from_utf8(doctor(&home, &["--accel", "tcg"], None).stdout).unwrap();
    assert!(text.contains("ok    emulation") && !text.contains("No build can run"), "{text}");
    // Without a choice it depends on KVM, and the exit code says how.
    let output = doctor(&home, &["--format", "json"], None);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = if state(&report, "kvm") == "good" { 0 } else { 7 };
    assert_eq!(output.status.code(), Some(expected), "{report}");
}

#[test]
fn a_host_without_qemu_is_told_what_to_install() {
    let home = Folder::new("doctor-bare");
    let output = doctor(&home, &["--accel", "tcg"], Some("/nonexistent"));
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAIL  qemu") && text.contains("apt install qemu-system-x86"), "{text}");
    assert!(text.contains("FAIL  qemu-img") && text.contains("No build can run"), "{text}");
}
