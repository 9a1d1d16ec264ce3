//! ExecuteBash: all commands as one script, run by bash.

use super::execute_binary::ended;
use super::{Action, Context, Done, Field, Item, Kind, Platforms, Shape, StepError, Verb};
use kiln_protocol::message::{Operation, Put};

pub static ACTION: Action = Action {
    verb: Verb::ExecuteBash,
    name: "ExecuteBash",
    summary: "Runs commands as one bash script; exit code 194 reboots and runs the step again",
    platforms: Platforms::UNIX,
    shape: Shape::Map,
    fields: &[Field::required(
        "commands",
        Kind::Texts,
        "Lines of the script, in order; they share one shell",
    )],
    outputs: &["stdout"],
    check: None,
};

/// The script lies in a folder of its own that only its owner may enter, and
/// goes away with it: commands may hold secrets. Bash keeps it open, so a
/// command that empties the working directory does not end the script.
pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Done, StepError> {
    let folder = step.absolute(&format!("kiln-{}", step.random_name()?));
    step.call(Operation::MakeFolder {
        path: folder.clone(),
        mode: 0o700,
        parents: false,
        owner: None,
        group: None,
    })
    .await?;
    let result = run_in(step, item, &folder).await;
    // A lost guest has lost the folder too; the script's own result counts.
    let _ = step.remove_quietly(&folder).await;
    result
}

async fn run_in(step: &mut Context<'_>, item: &Item, folder: &str) -> Result<Done, StepError> {
    let path = format!("{folder}/script.sh");
    let mut script = String::new();
    for command in item.texts("commands") {
        script.push_str(command);
        if !command.ends_with('\n') {
            script.push('\n');
        }
    }
    let target =
        Put { path: path.clone(), mode: 0o700, owner: None, group: None, overwrite: false, parents: false };
    step.put(target, script.as_bytes()).await?;
    let (exited, outputs) = step.exec(vec!["bash".into(), path]).await?;
    ended(exited, outputs)
}
