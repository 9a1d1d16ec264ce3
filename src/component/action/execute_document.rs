//! ExecuteDocument: another document inside a step. The runner does it; here are its fields.

use super::{Action, Field, Kind, Platforms, Shape, Verb};

pub static ACTION: Action = Action {
    verb: Verb::ExecuteDocument,
    name: "ExecuteDocument",
    summary: "Runs another component document, at most three deep",
    platforms: Platforms::ALL,
    shape: Shape::Map,
    fields: &[
        Field::required("document", Kind::Path, "Path in the guest, s3:// address or component ARN"),
        Field::optional("document-s3-bucket-owner", Kind::Text, "Account that must own the bucket"),
        Field::optional("phases", Kind::Text, "Phases to run, with commas between them; all when absent"),
        Field::optional("parameters", Kind::NamedValues, "Parameters of the document"),
    ],
    outputs: &[
        "executionId",
        "status",
        "executedStepCount",
        "failedStepCount",
        "ignoredFailedStepCount",
        "failureMessage",
        "logUrl",
    ],
    check: None,
};

/// Documents inside each other below the first.
pub const DEPTH: usize = 3;
