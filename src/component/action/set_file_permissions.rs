//! SetFilePermissions: changes the permissions of a file.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, mode};
use kiln_protocol::message::Operation;

pub static ACTION: Action = Action {
    verb: Verb::SetFilePermissions,
    name: "SetFilePermissions",
    summary: "Changes the permissions of a file",
    platforms: Platforms::UNIX,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file"),
        Field::required("permissions", Kind::Mode, "Octal digits"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_file(&path).await?;
    let mode = mode(item.required("permissions")).unwrap_or_default();
    step.call(Operation::Chmod { path, mode, recursive: false }).await?;
    Ok(Outputs::new())
}
