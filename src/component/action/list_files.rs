//! ListFiles: lists the files of a folder.

use super::{
    Action, Context, Field, Item, Kind, Output, Outputs, Platforms, Shape, StepError, Verb, matches,
};
use kiln_protocol::message::EntryKind;

pub static ACTION: Action = Action {
    verb: Verb::ListFiles,
    name: "ListFiles",
    summary: "Lists the files of a folder",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The folder"),
        Field::optional("fileNamePattern", Kind::NamePattern, "File names to take, with `*`"),
        Field::optional("recursive", Kind::Boolean, "true: also what lies in folders below").or("false"),
    ],
    outputs: &["files"],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_folder(&path).await?;
    let pattern = item.text("fileNamePattern").unwrap_or("*").to_owned();
    let mut files: Vec<String> = Vec::new();
    step.each_entry(&path, item.flag("recursive", false), |entry| {
        let name = entry.path.rsplit('/').next().unwrap_or("");
        if entry.kind != EntryKind::Folder && matches(&pattern, name) {
            files.push(entry.path);
        }
    })
    .await?;
    files.sort();
    Ok(vec![("files".into(), Output::bounded(files.join(",")))])
}
