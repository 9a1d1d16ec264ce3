//! SetFolderOwner: changes who owns a folder.

use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::Operation;

pub static ACTION: Action = Action {
    verb: Verb::SetFolderOwner,
    name: "SetFolderOwner",
    summary: "Changes who owns a folder",
    platforms: Platforms::UNIX,
    shape: Shape::List,
    fields: &[
        Field::required("path", Kind::Path, "The folder"),
        Field::required("owner", Kind::Text, "User, by name or number"),
        Field::optional("group", Kind::Text, "Group; the user's own when absent"),
        Field::optional("recursive", Kind::Boolean, "true: also everything in it").or("true"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let path = step.absolute(item.required("path"));
    step.must_be_folder(&path).await?;
    let owner = item.required("owner").to_owned();
    let group = item.text("group").map(str::to_owned);
    step.call(Operation::Chown { path, owner, group, recursive: item.flag("recursive", true) }).await?;
    Ok(Outputs::new())
}
