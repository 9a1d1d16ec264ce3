//! AppendFile: adds text to the end of a file.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb, encoding};
use kiln_protocol::message::Operation;

pub static ACTION: Action = Action {
    verb: Verb::AppendFile,
    name: "AppendFile",
    summary: "Adds text to the end of a file",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file; it must exist"),
        Field::optional("content", Kind::Text, "Text to add").or(""),
        Field::optional("encoding", Kind::Encoding, "Encoding of the text").or("utf8"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_file(&path).await?;
    let bytes = encoding(item).encode(item.text("content").unwrap_or_default());
    step.send(Operation::Append { path }, &bytes).await?;
    Ok(Outputs::new())
}
