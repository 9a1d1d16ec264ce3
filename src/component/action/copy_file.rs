//! CopyFile: copies files.

use super::transfer::{How, What, transfer};
use super::{Action, Context, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};

pub static ACTION: Action = Action {
    verb: Verb::CopyFile,
    name: "CopyFile",
    summary: "Copies files",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("source", Kind::Pattern, "The file; the last part may hold `*`"),
        Field::required(
            "destination",
            Kind::Path,
            "New file, or with a separator at the end the folder to put it in",
        ),
        Field::optional("overwrite", Kind::Boolean, "false: fail when the target exists").or("true"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    transfer(step, item, What::File, How::Copy).await
}
