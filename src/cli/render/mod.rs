//! Renderers of results and failures. Results go to stdout, everything else to stderr.

pub mod plan;
mod progress;
mod work;

pub use progress::{Curtain, Seldom, follow, printable};
pub use work::Work;

use crate::model::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    Auto,
    Tty,
    Plain,
    Json,
    None,
}

/// Prints a failure: prose on stderr, or one JSON object on stdout.
pub fn failure(failure: &Failure, format: Format) {
    match format {
        Format::Human => tell!("{}", human(failure).trim_end()),
        Format::Json => println!("{}", json(failure)),
    }
}

fn human(f: &Failure) -> String {
    let mut text = String::new();
    // Much of it is what a guest said.
    let mut line = |s: String| {
        for part in s.split('\n') {
            text.push_str(&printable(part));
            text.push('\n');
        }
    };
    f.findings.iter().for_each(|d| line(d.render()));
    match &f.position {
        // The findings have said where.
        Some(p) if f.findings.is_empty() => line(format!("error: {p}: {}", f.message)),
        _ => line(format!("error: {}", f.message)),
    }
    for cause in &f.causes {
        line(format!("  because: {cause}"));
    }
    let place = [
        ("stage", f.stage.map(|s| s.to_string())),
        ("component", f.component.clone()),
        ("phase", f.phase.clone()),
        ("step", f.step.clone()),
        ("action", f.action.clone()),
        ("class", f.class.map(str::to_owned)),
        ("exit code", f.exit_code.map(|c| c.to_string())),
    ];
    for (name, value) in place {
        if let Some(value) = value {
            line(format!("  {name:<10} {value}"));
        }
    }
    for (title, lines) in [("last lines of the step", &f.last_lines), ("console", &f.console)] {
        if !lines.is_empty() {
            line(format!("  {title}:"));
            lines.iter().for_each(|l| line(format!("    | {l}")));
        }
    }
    for file in &f.files {
        line(format!("  see {}", file.display()));
    }
    for hint in &f.hints {
        line(format!("  next: {hint}"));
    }
    text
}

/// The failure as the JSON object that `--format json` promises.
pub fn json(f: &Failure) -> serde_json::Value {
    serde_json::json!({
        "error": {
            "kind": format!("{:?}", f.kind),
            "exitCode": super::exit::code(f.kind),
            "message": f.message,
            "causes": f.causes,
            "hints": f.hints,
            "position": f.position.as_ref().map(|p| serde_json::json!({"file": p.file, "line": p.line, "column": p.column})),
            "stage": f.stage.map(|s| s.as_str()),
            "component": f.component,
            "phase": f.phase,
            "step": f.step,
            "action": f.action,
            "class": f.class,
            "stepExitCode": f.exit_code,
            "lastLines": f.last_lines,
            "console": f.console,
            "files": f.files,
            "findings": f.findings.iter().map(|d| d.json()).collect::<Vec<_>>(),
        }
    })
}
