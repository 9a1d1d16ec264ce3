//! The actions: one table of them with their fields, which the checker, the
//! schema, the help and the runner all read; one verb per file.

mod append_file;
mod assert;
mod copy_file;
mod copy_folder;
mod create_file;
mod create_folder;
mod create_symlink;
mod delete_file;
mod delete_folder;
mod deliver;
mod execute_bash;
pub mod execute_binary;
pub mod execute_document;
mod execute_power_shell;
pub mod field;
mod install_msi;
mod list_files;
mod move_file;
mod move_folder;
mod read_file;
mod reboot;
mod s3_download;
mod s3_upload;
mod set_file_encoding;
mod set_file_owner;
mod set_file_permissions;
mod set_folder_owner;
mod set_folder_permissions;
mod set_registry;
mod transfer;
mod uninstall_msi;
mod update_os;
mod web_download;

pub use s3_download::target_of;

pub use field::{Field, Input, Item, Kind, Platforms, Resolved, Value, mode};

use super::encoding::Encoding;
use super::run::context::{CAPTURE, Context, Done, Output, Outputs, StepError};
use crate::support::diagnostic::Findings;

/// An action of the format.
#[derive(Debug)]
pub struct Action {
    pub verb: Verb,
    pub name: &'static str,
    pub summary: &'static str,
    pub platforms: Platforms,
    pub shape: Shape,
    /// In the order in which they are recorded.
    pub fields: &'static [Field],
    pub outputs: &'static [&'static str],
    /// What the fields one by one do not tell. The text names the step.
    pub check: Option<fn(&Input, &mut Findings, &str)>,
}

/// What `inputs` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Map,
    List,
    /// A condition (Assert).
    Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    AppendFile,
    Assert,
    CopyFile,
    CopyFolder,
    CreateFile,
    CreateFolder,
    CreateSymlink,
    DeleteFile,
    DeleteFolder,
    ExecuteBash,
    ExecuteBinary,
    ExecuteDocument,
    ExecutePowerShell,
    InstallMSI,
    ListFiles,
    MoveFile,
    MoveFolder,
    ReadFile,
    Reboot,
    S3Download,
    S3Upload,
    SetFileEncoding,
    SetFileOwner,
    SetFilePermissions,
    SetFolderOwner,
    SetFolderPermissions,
    SetRegistry,
    UninstallMSI,
    UpdateOS,
    WebDownload,
}

impl Verb {
    /// Raised when kiln does something else to a disk for the same inputs: what was kept of before is not
    /// reused then.
    pub fn semantics(self) -> u32 {
        1
    }
}

/// Every action, by name.
pub static ALL: [&Action; 30] = [
    &append_file::ACTION,
    &assert::ACTION,
    &copy_file::ACTION,
    &copy_folder::ACTION,
    &create_file::ACTION,
    &create_folder::ACTION,
    &create_symlink::ACTION,
    &delete_file::ACTION,
    &delete_folder::ACTION,
    &execute_bash::ACTION,
    &execute_binary::ACTION,
    &execute_document::ACTION,
    &execute_power_shell::ACTION,
    &install_msi::ACTION,
    &list_files::ACTION,
    &move_file::ACTION,
    &move_folder::ACTION,
    &read_file::ACTION,
    &reboot::ACTION,
    &s3_download::ACTION,
    &s3_upload::ACTION,
    &set_file_encoding::ACTION,
    &set_file_owner::ACTION,
    &set_file_permissions::ACTION,
    &set_folder_owner::ACTION,
    &set_folder_permissions::ACTION,
    &set_registry::ACTION,
    &uninstall_msi::ACTION,
    &update_os::ACTION,
    &web_download::ACTION,
];

/// The action of this name, as spelled.
pub fn find(name: &str) -> Option<&'static Action> {
    ALL.iter().copied().find(|a| a.name == name)
}

impl Action {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    /// Whether a step without `inputs` is an error.
    pub fn needs_inputs(&self) -> bool {
        self.shape == Shape::Condition
            || self.verb == Verb::ExecutePowerShell
            || self.fields.iter().any(|f| f.required)
    }
}

/// Runs an action's items, in order. ExecuteDocument and Assert are the runner's own.
pub(super) async fn perform(verb: Verb, step: &mut Context<'_>, items: &[Item]) -> Result<Done, StepError> {
    let nothing = Item::default();
    let first = items.first().unwrap_or(&nothing);
    match verb {
        Verb::ExecuteBash => return execute_bash::run(step, first).await,
        Verb::ExecuteBinary => return execute_binary::run(step, first).await,
        Verb::UpdateOS => return update_os::run(step, first).await,
        Verb::Reboot => return Ok(reboot::run(first)),
        _ => {}
    }
    let mut outputs = Vec::new();
    for item in items {
        outputs.push(match verb {
            Verb::AppendFile => append_file::run(step, item).await?,
            Verb::CopyFile => copy_file::run(step, item).await?,
            Verb::CopyFolder => copy_folder::run(step, item).await?,
            Verb::CreateFile => create_file::run(step, item).await?,
            Verb::CreateFolder => create_folder::run(step, item).await?,
            Verb::CreateSymlink => create_symlink::run(step, item).await?,
            Verb::DeleteFile => delete_file::run(step, item).await?,
            Verb::DeleteFolder => delete_folder::run(step, item).await?,
            Verb::ListFiles => list_files::run(step, item).await?,
            Verb::MoveFile => move_file::run(step, item).await?,
            Verb::MoveFolder => move_folder::run(step, item).await?,
            Verb::ReadFile => read_file::run(step, item).await?,
            Verb::SetFileEncoding => set_file_encoding::run(step, item).await?,
            Verb::SetFileOwner => set_file_owner::run(step, item).await?,
            Verb::SetFilePermissions => set_file_permissions::run(step, item).await?,
            Verb::SetFolderOwner => set_folder_owner::run(step, item).await?,
            Verb::SetFolderPermissions => set_folder_permissions::run(step, item).await?,
            Verb::ExecutePowerShell | Verb::InstallMSI | Verb::UninstallMSI | Verb::SetRegistry => {
                let message = format!("{verb:?} needs a Windows guest, which this kiln cannot drive yet");
                return Err(StepError::failed(message));
            }
            Verb::WebDownload => web_download::run(step, item).await?,
            Verb::S3Download => s3_download::run(step, item).await?,
            Verb::S3Upload => s3_upload::run(step, item).await?,
            Verb::Assert
            | Verb::ExecuteBash
            | Verb::ExecuteBinary
            | Verb::ExecuteDocument
            | Verb::Reboot
            | Verb::UpdateOS => unreachable!("run above, or by the runner itself"),
        });
    }
    Ok(Done::with(outputs))
}

/// The `encoding` of an item; the checker has made sure that it is one.
fn encoding(item: &Item) -> Encoding {
    item.text("encoding").and_then(Encoding::parse).unwrap_or(Encoding::Utf8)
}

/// The `permissions` of an item, or the documented default, without what umask 022 takes off.
fn mode_with_umask(item: &Item, default: u32) -> u32 {
    item.text("permissions").and_then(mode).unwrap_or(default) & !0o022
}

/// Whether a name matches a pattern in which `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_sorted() {
        assert!(ALL.windows(2).all(|w| w[0].name < w[1].name));
        for action in ALL {
            assert_eq!(format!("{:?}", action.verb), action.name);
            for field in action.fields {
                if let Some(default) = field.default {
                    assert_eq!(field.kind.fault(default), None, "{}.{}", action.name, field.name);
                }
            }
        }
        assert!(!find("Reboot").unwrap().needs_inputs() && !find("UpdateOS").unwrap().needs_inputs());
        assert!(find("executebash").is_none());
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*b", "ab", true),
            ("a*ba", "aba", true),
            ("ab*ba", "aba", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*.log", "x.log.gz", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
