//! CreateFile: writes a file.

use super::{
    Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, encoding, mode_with_umask,
};
use kiln_protocol::message::{EntryKind, Put};

pub static ACTION: Action = Action {
    verb: Verb::CreateFile,
    name: "CreateFile",
    summary: "Writes a file",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file; missing folders are made"),
        Field::optional("content", Kind::Text, "Its text").or(""),
        Field::optional("encoding", Kind::Encoding, "Encoding of the text").or("utf8"),
        Field::optional("owner", Kind::Text, "User, by name or number").on(Platforms::UNIX),
        Field::optional("group", Kind::Text, "Group, by name or number").on(Platforms::UNIX),
        Field::optional("permissions", Kind::Mode, "Octal digits; the umask 022 is taken off")
            .or("0666")
            .on(Platforms::UNIX),
        Field::optional("overwrite", Kind::Boolean, "false: fail when the file exists").or("true"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    let bytes = encoding(item).encode(item.text("content").unwrap_or_default());
    let overwrite = item.flag("overwrite", true);
    // A link is written through, as open(2) would: replacing it would cut off whoever made it.
    let path = match step.stat(&path, true).await? {
        Some(entry) if entry.kind == EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} is a folder")));
        }
        Some(_) if !overwrite => {
            return Err(StepError::failed(format!("{path} exists, and overwrite is false")));
        }
        _ => step.through_links(&path).await?,
    };
    let target = Put {
        path,
        mode: mode_with_umask(item, 0o666),
        owner: item.text("owner").map(str::to_owned),
        group: item.text("group").map(str::to_owned),
        overwrite,
        parents: true,
    };
    step.put(target, &bytes).await?;
    Ok(Outputs::new())
}
