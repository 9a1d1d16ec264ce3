//! SetFileEncoding: converts a text file from UTF-8 to another encoding.

use super::super::encoding::Encoding;
use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, encoding};
use kiln_protocol::message::Put;

pub static ACTION: Action = Action {
    verb: Verb::SetFileEncoding,
    name: "SetFileEncoding",
    summary: "Converts a text file from UTF-8 to another encoding",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file"),
        Field::optional("encoding", Kind::Encoding, "Encoding to convert to").or("utf8"),
    ],
    outputs: &[],
    check: None,
};

/// Bytes of a file that is converted; it passes through the host's memory.
const LIMIT: u64 = 32 << 20;

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    let entry = step.must_be_file(&path).await?;
    let text = Encoding::Utf8
        .decode(&step.read(&path, LIMIT).await?)
        .ok_or_else(|| StepError::failed(format!("{path} is no UTF-8 text")))?;
    let target = Put {
        path: step.through_links(&path).await?,
        mode: entry.mode & 0o7777,
        owner: Some(entry.uid.to_string()),
        group: Some(entry.gid.to_string()),
        overwrite: true,
        parents: false,
    };
    step.put(target, &encoding(item).encode(&text)).await?;
    Ok(Outputs::new())
}
