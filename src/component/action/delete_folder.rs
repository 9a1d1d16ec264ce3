//! DeleteFolder: removes a folder.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::{EntryKind, Operation};

pub static ACTION: Action = Action {
    verb: Verb::DeleteFolder,
    name: "DeleteFolder",
    summary: "Removes a folder",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The folder"),
        Field::optional("force", Kind::Boolean, "true: also when there is something in it").or("false"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    match step.stat(&path, false).await? {
        None => step.say(&format!("nothing to remove: there is no {path}")),
        Some(entry) if entry.kind != EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} is no folder")));
        }
        Some(_) => {
            step.call(Operation::Remove { path, recursive: item.flag("force", false) }).await?;
        }
    }
    Ok(Outputs::new())
}
