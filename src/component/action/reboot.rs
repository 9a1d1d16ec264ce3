//! Reboot: the run goes on with the next step.

use super::{Action, Done, Field, Item, Kind, Platforms, Shape, Verb};
use std::time::Duration;

pub static ACTION: Action = Action {
    verb: Verb::Reboot,
    name: "Reboot",
    summary: "Reboots, and goes on with the next step",
    platforms: Platforms::SERVERS,
    shape: Shape::Map,
    fields: &[Field::optional("delaySeconds", Kind::Integer, "Seconds to wait before the reboot").or("0")],
    outputs: &[],
    check: None,
};

pub fn run(item: &Item) -> Done {
    let delay = item.integer("delaySeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    Done::reboot_then_next(Duration::from_secs(delay))
}
