//! ExecutePowerShell (Windows).

use super::{Action, Field, Input, Kind, Platforms, Shape, Verb};
use crate::support::diagnostic::Findings;

pub static ACTION: Action = Action {
    verb: Verb::ExecutePowerShell,
    name: "ExecutePowerShell",
    summary: "Runs commands as one PowerShell script, or a script file; exit code 3010 reboots and runs the step again",
    platforms: Platforms::WINDOWS,
    shape: Shape::Map,
    fields: &[
        Field::optional("commands", Kind::Texts, "Lines of the script, in order"),
        Field::optional("file", Kind::Path, "Path of a .ps1 file"),
    ],
    outputs: &["stdout"],
    check: Some(check),
};

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    let (commands, file) = (input.get("commands").is_some(), input.get("file").is_some());
    if commands == file {
        let what = if commands { "both `commands` and `file`" } else { "neither `commands` nor `file`" };
        findings.error(
            input.span,
            "powershell-inputs",
            format!("{owner} has {what}; it needs exactly one of them"),
        );
    }
}
