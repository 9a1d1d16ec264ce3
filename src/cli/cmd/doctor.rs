//! `kiln doctor`: can this host build images?

use crate::cli::Settings;
use crate::cli::exit;
use crate::cli::render::Format;
use crate::model::{Failure, FailureKind};
use crate::service::doctor::{Check, Report, State, examine};
use crate::support::wait::Patience;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Everything together takes a few seconds; on a busy host longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Check whether this host can build images, and say what to do where it cannot
#[derive(clap::Args)]
#[command(after_help = "Exit code 7 when no build can run with the accelerator chosen by --accel.")]
pub struct Arguments {}

pub async fn run(_: Arguments, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let patience = Patience::new(LIMIT, cancel);
    let report = examine(settings.accel.into(), &settings.home, &patience).await.map_err(|e| e.failure())?;
    match settings.format {
        Format::Human => print!("{}", human(&report)),
        Format::Json => println!("{}", record(&report)),
    }
    Ok(if report.builds_can_run() { 0 } else { exit::code(FailureKind::Environment) })
}

fn word(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Limited => "limited",
        State::Missing => "missing",
    }
}

fn human(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let sign = match check.state {
            State::Good => "ok  ",
            State::Limited => "warn",
            State::Missing => "FAIL",
        };
        let found = check.found.replace('\n', &format!("\n{:18}", ""));
        text += &format!("{sign}  {:<11} {found}\n", check.name);
        if !check.without.is_empty() {
            text += &format!("{:18}so: {}\n", "", check.without);
        }
        for cure in &check.cures {
            text += &format!("{:18}next: {cure}\n", "");
        }
    }
    let lines = |state| match report.checks.iter().filter(|c| c.state == state).count() {
        1 => "one line above".to_owned(),
        n => format!("{n} lines above"),
    };
    let has = |state| report.checks.iter().any(|c| c.state == state);
    let verdict = match () {
        () if has(State::Missing) => format!("No build can run on this host: see {}.", lines(State::Missing)),
        () if has(State::Limited) => {
            format!("Builds can run on this host, with limits: see {}.", lines(State::Limited))
        }
        () => "This host can build images.".into(),
    };
    text + "\n" + &verdict + "\n"
}

fn record(report: &Report) -> serde_json::Value {
    let check = |c: &Check| json!({"name": c.name, "state": word(c.state), "found": c.found, "without": c.without, "cures": c.cures});
    json!({
        "buildsCanRun": report.builds_can_run(),
        "checks": report.checks.iter().map(check).collect::<Vec<_>>(),
    })
}
