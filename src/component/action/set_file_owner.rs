//! SetFileOwner: changes who owns a file.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::Operation;

pub static ACTION: Action = Action {
    verb: Verb::SetFileOwner,
    name: "SetFileOwner",
    summary: "Changes who owns a file",
    platforms: Platforms::UNIX,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The file"),
        Field::required("owner", Kind::Text, "User, by name or number"),
        Field::optional("group", Kind::Text, "Group; the user's own when absent"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_file(&path).await?;
    let owner = item.required("owner").to_owned();
    let group = item.text("group").map(str::to_owned);
    step.call(Operation::Chown { path, owner, group, recursive: false }).await?;
    Ok(Outputs::new())
}
