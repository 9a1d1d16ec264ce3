//! DeleteFile: removes files.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::{EntryKind, Operation};

pub static ACTION: Action = Action {
    verb: Verb::DeleteFile,
    name: "DeleteFile",
    summary: "Removes files",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[Field::required("path", Kind::Pattern, "The file; the last part may hold `*`")],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    let found = if path.contains('*') {
        step.matching(&path, |e| e.kind != EntryKind::Folder).await?
    } else {
        match step.stat(&path, false).await? {
            Some(entry) if entry.kind == EntryKind::Folder => {
                return Err(StepError::failed(format!("{path} is a folder; DeleteFolder removes those")));
            }
            entry => entry.into_iter().map(|e| e.path).collect(),
        }
    };
    if found.is_empty() {
        step.say(&format!("nothing to remove: there is no {path}"));
    }
    for path in found {
        step.call(Operation::Remove { path, recursive: false }).await?;
    }
    Ok(Outputs::new())
}
