//! What CopyFile, MoveFile, CopyFolder and MoveFolder have in common.

use super::{Context, Item, Outputs, StepError};
use kiln_protocol::message::{EntryKind, Operation};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    File,
    Folder,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Copy,
    Move,
}

/// Both `/` and `\` end a folder's name.
fn ends_with_separator(path: &str) -> bool {
    path.ends_with(['/', '\\'])
}

pub async fn transfer(
    step: &mut Context<'_>,
    item: &Item,
    what: What,
    how: How,
) -> Result<Outputs, StepError> {
    let written = item.required("destination");
    let into_folder = ends_with_separator(written);
    let source = step.absolute(item.required("source").trim_end_matches(['/', '\\']));
    let destination = step.absolute(written.trim_end_matches(['/', '\\']));
    let is_wanted = move |kind: EntryKind| (kind == EntryKind::Folder) == (what == What::Folder);
    let noun = if what == What::File { "file" } else { "folder" };
    let sources = if source.contains('*') {
        step.matching(&source, move |e| is_wanted(e.kind)).await?
    } else {
        match step.stat(&source, true).await? {
            Some(entry) if is_wanted(entry.kind) => vec![source.clone()],
            Some(_) => return Err(StepError::failed(format!("{source} is no {noun}"))),
            None => Vec::new(),
        }
    };
    if sources.is_empty() {
        return Err(StepError::failed(format!("there is no {noun} {source}")));
    }
    if sources.len() > 1 && !into_folder {
        return Err(StepError::failed(format!(
            "{} {noun}s match {source}, so the destination must be a folder: write {written}/",
            sources.len()
        )));
    }
    for source in sources {
        let name = source.rsplit('/').next().unwrap_or("");
        let target = if into_folder {
            format!("{}/{name}", destination.trim_end_matches('/'))
        } else {
            destination.clone()
        };
        one(step, item, what, how, source, target).await?;
    }
    Ok(Outputs::new())
}

async fn one(
    step: &mut Context<'_>,
    item: &Item,
    what: What,
    how: How,
    source: String,
    target: String,
) -> Result<(), StepError> {
    let overwrite = item.flag("overwrite", true);
    match step.stat(&target, true).await? {
        Some(_) if !overwrite => {
            return Err(StepError::failed(format!("{target} exists, and overwrite is false")));
        }
        Some(entry) if (entry.kind == EntryKind::Folder) != (what == What::Folder) => {
            let kind = if entry.kind == EntryKind::Folder { "a folder" } else { "no folder" };
            return Err(StepError::failed(format!("{target} exists and is {kind}")));
        }
        // A folder is merged into an existing one; what only the target has stays.
        Some(_) if what == What::Folder && how == How::Move => {
            step.call(Operation::Copy { source: source.clone(), target, recursive: true, overwrite: true })
                .await?;
            step.call(Operation::Remove { path: source, recursive: true }).await?;
            return Ok(());
        }
        _ => {}
    }
    step.make_parents(&target).await?;
    let recursive = what == What::Folder;
    step.call(match how {
        How::Copy => Operation::Copy { source, target, recursive, overwrite },
        How::Move => Operation::Rename { source, target, overwrite },
    })
    .await?;
    Ok(())
}
