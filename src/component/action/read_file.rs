//! ReadFile: reads a text file.

use super::{
    Action, CAPTURE, Context, Field, Item, Kind, Output, Outputs, Platforms, Shape, StepError, Verb, encoding,
};

pub static ACTION: Action = Action {
    verb: Verb::ReadFile,
    name: "ReadFile",
    summary: "Reads a text file",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file"),
        Field::optional("encoding", Kind::Encoding, "Encoding of the text").or("utf8"),
        Field::optional("printFileContent", Kind::Boolean, "true: also write the text to the log")
            .or("false"),
    ],
    outputs: &["content"],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_file(&path).await?;
    let bytes = step.read(&path, CAPTURE as u64).await?;
    let text = encoding(item)
        .decode(&bytes)
        .ok_or_else(|| StepError::failed(format!("{path} is no text in the encoding asked for")))?;
    if item.flag("printFileContent", false) {
        text.lines().for_each(|line| step.say(line));
    }
    Ok(vec![("content".into(), Output::bounded(text))])
}
