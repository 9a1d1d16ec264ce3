//! L7: the command line. The only room that writes to the terminal and reads the environment.

/// A line for people on stderr. Its terminal or its reader may be gone: the work goes on.
macro_rules! tell {
    ($($text:tt)*) => { $crate::cli::tell_line(format_args!($($text)*)) };
}

mod cmd;
mod exit;
mod interrupt;
mod render;
mod settings;
mod terminal;

use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

pub use settings::Settings;

use crate::model::{Failure, FailureKind};
use render::Format;

/// A local factory for golden VM images: builds in a real guest, seals, tests in a fresh one, exports.
#[derive(Parser)]
#[command(name = "kiln", version, disable_help_subcommand = true, propagate_version = true)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: cmd::Command,
}

#[derive(clap::Args)]
pub struct Global {
    /// Folder of catalog, store and builds [default: $XDG_DATA_HOME/kiln or ~/.local/share/kiln]
    #[arg(long, global = true, env = "KILN_HOME", value_name = "DIR", help_heading = "Global options")]
    pub home: Option<std::path::PathBuf>,
    /// How guests are run: kvm, tcg (emulation: works anywhere, 10 times slower), or auto (KVM, and stop where it is unusable)
    #[arg(
        long,
        global = true,
        env = "KILN_ACCEL",
        value_enum,
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub accel: settings::Accel,
    /// Form of results on stdout
    #[arg(long, global = true, value_enum, default_value = "human", help_heading = "Global options")]
    pub format: Format,
    /// Progress on stderr: bars on a terminal, plain lines elsewhere, NDJSON events, or nothing
    #[arg(long, global = true, value_enum, default_value = "auto", help_heading = "Global options")]
    pub progress: render::Progress,
}

fn tell_line(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// What cannot be printed is no defect to report: who closes our output has seen enough (`kiln plan | head`),
/// and the disk under a file may be full.
fn end_when_nothing_can_be_printed() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        let Some(why) = said.and_then(|s| s.strip_prefix("failed printing to stdout: ")) else {
            return report(panic);
        };
        // A closed terminal says the second.
        if ["Broken pipe", "Input/output error"].iter().any(|e| why.starts_with(e)) {
            std::process::exit(exit::NOBODY_READS);
        }
        let failure =
            Failure::new(FailureKind::Environment, format!("cannot write to standard output: {why}"));
        render::failure(&failure, Format::Human);
        std::process::exit(exit::code(failure.kind).into());
    }));
}

/// Everything `main` does; returns the process's exit code.
pub fn main() -> ExitCode {
    end_when_nothing_can_be_printed();
    let arguments = match Arguments::try_parse_from(called_as(std::env::args_os())) {
        Ok(arguments) => arguments,
        Err(e) => {
            let usage = e.use_stderr();
            let _ = e.print();
            return ExitCode::from(if usage { exit::INPUT } else { 0 });
        }
    };
    let format = arguments.global.format;
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            render::failure(&failure, format);
            ExitCode::from(exit::code(failure.kind))
        }
    }
}

/// Called as `awstoe` (a link to kiln), the words are those of `kiln component`, and results are JSON.
fn called_as(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    let name = words.first().and_then(|w| Path::new(w).file_name());
    if name.is_some_and(|n| n == "awstoe") {
        words.splice(1..1, ["--format", "json", "component"].map(OsString::from));
    }
    words
}

fn run(arguments: Arguments) -> Result<u8, crate::model::Failure> {
    let settings = Settings::resolve(&arguments.global)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| crate::model::Failure::from_error(crate::model::FailureKind::Environment, &e))?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        interrupt::watch(cancel.clone())?;
        cmd::run(arguments.command, &settings, &cancel).await
    });
    // A blocking read of the terminal must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

/// The whole command tree, for completions and tests.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_tree_is_sound() {
        super::command().debug_assert();
    }

    /// clap takes an option of a verb for the global one of the same name, and panics when it is used.
    #[test]
    fn no_verb_has_an_option_of_a_global_name() {
        let root = super::command();
        let global: Vec<&str> =
            root.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().as_str()).collect();
        let mut open: Vec<&clap::Command> = root.get_subcommands().collect();
        while let Some(verb) = open.pop() {
            open.extend(verb.get_subcommands());
            let own = verb.get_arguments().map(|a| a.get_id().as_str());
            assert_eq!(
                own.filter(|id| global.contains(id)).collect::<Vec<_>>(),
                [""; 0],
                "{}",
                verb.get_name()
            );
        }
        assert!(!global.is_empty());
    }

    #[test]
    fn a_link_named_awstoe_takes_its_words() {
        let words = |all: &[&str]| super::called_as(all.iter().map(Into::into)).join(" ".as_ref());
        assert_eq!(
            words(&["/usr/bin/awstoe", "run", "-d", "a"]),
            "/usr/bin/awstoe --format json component run -d a"
        );
        assert_eq!(words(&["kiln", "doctor"]), "kiln doctor");
    }

    /// What is called in documents: code spans and lines of code blocks that begin with `kiln`.
    fn called(text: &str) -> Vec<String> {
        let parts: Vec<&str> = text.split("```").collect();
        let spans = parts.iter().step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
        let lines = parts.iter().skip(1).step_by(2).flat_map(|block| block.lines());
        let called = spans.chain(lines).filter(|s| s.starts_with("kiln "));
        // A comment, or what a shell does with it, is no part of the command.
        let command = called.filter_map(|s| s.split(['#', '|', '\\', '&', ';', '>']).next());
        command.map(|s| s.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Every command of the documents is one that there is, and every one that there is stands in them.
    #[test]
    fn documents_and_commands_know_each_other() {
        use clap::error::ErrorKind::*;
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = std::fs::read_dir(root.join("docs")).unwrap().flatten().map(|e| e.path());
        let pages =
            pages.filter(|p| p.extension().is_some_and(|e| e == "md")).chain([root.join("README.md")]);
        let mut lines = Vec::new();
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            lines.extend(called(&text).into_iter().map(|line| (page.clone(), line)));
        }
        assert!(lines.len() > 30, "{lines:?}");
        for (page, line) in &lines {
            let words = line.split(' ').filter(|w| *w != "...");
            let Err(e) = super::command().try_get_matches_from(words) else { continue };
            // A verb may be spoken of without what it needs.
            let incomplete = [MissingRequiredArgument, MissingSubcommand, DisplayHelp, DisplayVersion];
            let named =
                incomplete.contains(&e.kind()) || e.kind() == DisplayHelpOnMissingArgumentOrSubcommand;
            assert!(named, "{}: `{line}`: {e}", page.display());
        }
        let mut open: Vec<(String, clap::Command)> = vec![("kiln".into(), super::command())];
        while let Some((path, command)) = open.pop() {
            let mut verbs = command.get_subcommands().filter(|c| !c.is_hide_set()).peekable();
            if verbs.peek().is_none() {
                let begins = |l: &str| l == path || l.starts_with(&format!("{path} "));
                assert!(lines.iter().any(|(_, l)| begins(l)), "`{path}` is in no document");
            }
            open.extend(verbs.map(|c| (format!("{path} {}", c.get_name()), c.clone())));
        }
    }
}
