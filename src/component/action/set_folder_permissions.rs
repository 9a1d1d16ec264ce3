//! SetFolderPermissions: changes the permissions of a folder.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, mode};
use kiln_protocol::message::Operation;

pub static ACTION: Action = Action {
    verb: Verb::SetFolderPermissions,
    name: "SetFolderPermissions",
    summary: "Changes the permissions of a folder",
    platforms: Platforms::UNIX,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The folder"),
        Field::required("permissions", Kind::Mode, "Octal digits"),
        Field::optional("recursive", Kind::Boolean, "true: also everything in it").or("true"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_folder(&path).await?;
    let mode = mode(item.required("permissions")).unwrap_or_default();
    step.call(Operation::Chmod { path, mode, recursive: item.flag("recursive", true) }).await?;
    Ok(Outputs::new())
}
