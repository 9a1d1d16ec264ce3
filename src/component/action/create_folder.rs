//! CreateFolder: makes a folder.

use super::{
    Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, mode_with_umask,
};
use kiln_protocol::message::{EntryKind, Operation};

pub static ACTION: Action = Action {
    verb: Verb::CreateFolder,
    name: "CreateFolder",
    summary: "Makes a folder",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The folder; missing parents are made"),
        Field::optional("owner", Kind::Text, "User, by name or number").on(Platforms::UNIX),
        Field::optional("group", Kind::Text, "Group, by name or number").on(Platforms::UNIX),
        Field::optional("permissions", Kind::Mode, "Octal digits; the umask 022 is taken off")
            .or("0777")
            .on(Platforms::UNIX),
        Field::optional(
            "overwrite",
            Kind::Boolean,
            "false: fail when the folder exists; true keeps what is in it",
        )
        .or("true"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    let (owner, group) = (item.text("owner"), item.text("group"));
    match step.stat(&path, true).await? {
        Some(entry) if entry.kind != EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} exists and is no folder")));
        }
        Some(_) if !item.flag("overwrite", true) => {
            return Err(StepError::failed(format!("{path} exists, and overwrite is false")));
        }
        // What is in an existing folder stays; what the document says about the folder itself holds.
        Some(entry) => {
            if item.text("permissions").is_some() {
                let mode = mode_with_umask(item, 0o777);
                step.call(Operation::Chmod { path: path.clone(), mode, recursive: false }).await?;
            }
            if owner.is_some() || group.is_some() {
                let owner = owner.map_or(entry.uid.to_string(), str::to_owned);
                let group = Some(group.map_or(entry.gid.to_string(), str::to_owned));
                step.call(Operation::Chown { path, owner, group, recursive: false }).await?;
            }
        }
        None => {
            let [owner, group] = [owner, group].map(|o| o.map(str::to_owned));
            let mode = mode_with_umask(item, 0o777);
            step.call(Operation::MakeFolder { path, mode, parents: true, owner, group }).await?;
        }
    }
    Ok(Outputs::new())
}
