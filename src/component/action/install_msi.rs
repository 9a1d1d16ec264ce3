//! InstallMSI (Windows).

use super::{Action, Field, Input, Kind, Platforms, Shape, Value, Verb};
use crate::support::diagnostic::Findings;

pub static ACTION: Action = Action {
    verb: Verb::InstallMSI,
    name: "InstallMSI",
    summary: "Installs a Windows Installer package",
    platforms: Platforms::WINDOWS,
    shape: Shape::Map,
    fields: &FIELDS,
    outputs: &["logFile", "msiExitCode", "stdout"],
    check: Some(check),
};

pub static FIELDS: [Field; 7] = [
    Field::required("path", Kind::Path, "Package: path, s3:// address or URL"),
    Field::optional("reboot", Kind::Choice(&["Allow", "Force", "Skip"]), "When to reboot afterwards")
        .or("Allow"),
    Field::optional("logOptions", Kind::Text, "What msiexec logs, after /L").or("*VX"),
    Field::optional("logFile", Kind::Path, "Where msiexec logs"),
    Field::optional("properties", Kind::Map, "Properties for msiexec"),
    Field::optional(
        "ignoreAuthenticodeSignatureErrors",
        Kind::Boolean,
        "true: install whatever the signature says",
    )
    .or("false"),
    Field::optional("allowUnsignedInstaller", Kind::Boolean, "true: a package without signature will do")
        .or("false"),
];

/// Properties the action sets itself.
const RESERVED: [(&str, &str); 3] =
    [("REBOOT", "ReallySuppress"), ("REINSTALLMODE", "ecmus"), ("REINSTALL", "ALL")];

pub fn check(input: &Input, findings: &mut Findings, owner: &str) {
    if let Some(options) = input.literal("logOptions")
        && let Some(bad) = options.chars().find(|c| !"iwearucmopvx+!*".contains(c.to_ascii_lowercase()))
    {
        let message =
            format!("`logOptions` of {owner} has `{bad}`; msiexec knows i w e a r u c m o p v x + ! *");
        findings.error(input.span_of("logOptions"), "log-options", message);
    }
    let Some(Value::Pairs(pairs)) = input.get("properties") else { return };
    for (name, template) in pairs {
        let reserved = RESERVED.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        if let Some((reserved, value)) = reserved
            && template.literal().is_none_or(|v| v != *value)
        {
            let message =
                format!("the property {reserved} of {owner} may not be changed: it is always {value}");
            findings.error(template.span, "reserved-property", message);
        }
    }
}
