//! ExecuteBinary: one program with its arguments, no shell.

use super::{Action, Context, Done, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::Exited;

pub static ACTION: Action = Action {
    verb: Verb::ExecuteBinary,
    name: "ExecuteBinary",
    summary: "Runs a program; exit code 194 (3010 on Windows) reboots and runs the step again",
    platforms: Platforms::ALL,
    shape: Shape::Map,
    fields: &[
        Field::required("path", Kind::Path, "The program: a path, or a name to look up"),
        Field::optional("arguments", Kind::Texts, "One argument each; no shell reads them"),
    ],
    outputs: &["stdout"],
    check: None,
};

/// "Reboot, and run this step again."
pub const REBOOT: i32 = 194;

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Done, StepError> {
    let mut argv = vec![item.required("path").to_owned()];
    argv.extend(item.texts("arguments").iter().cloned());
    let (exited, outputs) = step.exec(argv).await?;
    ended(exited, outputs)
}

/// What the end of a program means for its step.
pub fn ended(exited: Exited, outputs: Outputs) -> Result<Done, StepError> {
    if exited.timed_out {
        return Err(StepError::TimedOut);
    }
    match (exited.code, exited.signal) {
        (Some(0), _) => Ok(Done::with(vec![outputs])),
        (Some(REBOOT), _) => Ok(Done::reboot_then_again()),
        (Some(code), _) => Err(StepError::Failed {
            message: format!("exit status {code}"),
            exit_code: Some(code),
            outputs: vec![outputs],
        }),
        (None, signal) => Err(StepError::Failed {
            message: signal.map_or("killed".to_owned(), |s| format!("ended by signal {s}")),
            exit_code: None,
            outputs: vec![outputs],
        }),
    }
}
