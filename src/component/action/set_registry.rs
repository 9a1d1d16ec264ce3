//! SetRegistry (Windows).

use super::{Action, Field, Input, Kind, Platforms, Shape, Verb};
use crate::support::diagnostic::Findings;

pub static ACTION: Action = Action {
    verb: Verb::SetRegistry,
    name: "SetRegistry",
    summary: "Sets values of the registry",
    platforms: Platforms::WINDOWS,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "Key, such as HKLM:\\SOFTWARE\\Example"),
        Field::required("name", Kind::Text, "Name of the value"),
        Field::required("value", Kind::Registry, "Text, number or list"),
        Field::required(
            "type",
            Kind::Choice(&["BINARY", "DWORD", "QWORD", "SZ", "EXPAND_SZ", "MULTI_SZ"]),
            "Type of the value",
        ),
    ],
    outputs: &[],
    check: Some(check),
};

const HIVES: [&str; 10] = [
    "HKEY_CLASSES_ROOT",
    "HKCR:",
    "HKEY_USERS",
    "HKU:",
    "HKEY_LOCAL_MACHINE",
    "HKLM:",
    "HKEY_CURRENT_CONFIG",
    "HKCC:",
    "HKEY_CURRENT_USER",
    "HKCU:",
];

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    let Some(path) = input.literal("path") else { return };
    let hive = path.split(['\\', '/']).next().unwrap_or("");
    if !HIVES.contains(&hive) {
        let message = format!("`path` of {owner} begins with `{hive}`, which is no root of the registry");
        findings.error(input.span_of("path"), "registry-path", message).help =
            Some(format!("one of {}", HIVES.join(", ")));
    }
}
