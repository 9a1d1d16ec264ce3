//! UninstallMSI (Windows).

use super::{Action, Platforms, Shape, Verb};

pub static ACTION: Action = Action {
    verb: Verb::UninstallMSI,
    name: "UninstallMSI",
    summary: "Removes a Windows Installer package",
    platforms: Platforms::WINDOWS,
    shape: Shape::Map,
    fields: &super::install_msi::FIELDS,
    outputs: &["logFile", "msiExitCode", "stdout"],
    check: Some(super::install_msi::check),
};
