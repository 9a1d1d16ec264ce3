//! Assert: fails the step unless a condition holds. Its inputs are a condition, not fields.

use super::{Action, Platforms, Shape, Verb};

pub static ACTION: Action = Action {
    verb: Verb::Assert,
    name: "Assert",
    summary: "Fails unless a condition holds",
    platforms: Platforms::ALL,
    shape: Shape::Condition,
    fields: &[],
    outputs: &[],
    check: None,
};
