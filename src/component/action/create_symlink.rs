//! CreateSymlink: makes a symbolic link.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::{EntryKind, Operation};

pub static ACTION: Action = Action {
    verb: Verb::CreateSymlink,
    name: "CreateSymlink",
    summary: "Makes a symbolic link",
    platforms: Platforms::UNIX,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The link; missing folders are made"),
        Field::required("target", Kind::Path, "What it leads to; it must exist"),
        Field::optional("force", Kind::Boolean, "true: replace a link of this name").or("false"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path").trim_end_matches('/'));
    let target = item.required("target");
    let force = item.flag("force", false);
    // A relative target counts from the link's own folder.
    let folder = path.rsplit_once('/').map_or("/", |(f, _)| if f.is_empty() { "/" } else { f }).to_owned();
    let seen = if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") };
    if step.stat(&seen, true).await?.is_none() {
        return Err(StepError::failed(format!("the target {seen} does not exist")));
    }
    match step.stat(&path, false).await? {
        Some(entry) if entry.kind != EntryKind::Symlink => {
            return Err(StepError::failed(format!("{path} exists and is no symbolic link")));
        }
        Some(_) if !force => {
            return Err(StepError::failed(format!("the link {path} exists, and force is false")));
        }
        _ => {}
    }
    step.make_parents(&path).await?;
    step.call(Operation::Symlink { path, target: target.to_owned(), replace: force }).await?;
    Ok(Outputs::new())
}
