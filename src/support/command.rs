//! Runs a tool of the host to its end: own process group, bounded output, argv in every error.
//!
//! Long-lived processes with links to them (QEMU) are the business of `machine`.

use super::spawn;
use super::wait::{Impatience, Patience};
use rustix::process::{Resource, Rlimit};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Most bytes of standard output that are kept; a tool that writes more is an error.
const STDOUT_LIMIT: usize = 64 << 20;
/// Lines of standard error that an error carries.
const LAST_LINES: usize = 20;
/// Longest piece of a line that is looked at.
const LINE_LIMIT: usize = 4096;

/// A command line being put together.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    limits: Option<Limits>,
}

/// What a tool that opens files from strangers may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address space in bytes.
    pub memory: u64,
    /// CPU time.
    pub cpu: Duration,
}

#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("`{program}` is not installed (or not in PATH){}", packaged(program))]
    Missing { program: String },
    #[error("`{argv}` cannot be started")]
    Start { argv: String, source: std::io::Error },
    #[error("`{argv}` failed ({status}){}", tail(last_lines))]
    Failed { argv: String, status: ExitStatus, last_lines: Vec<String> },
    #[error("`{argv}` wrote more than kiln takes from it")]
    TooMuch { argv: String },
    #[error("`{argv}` cannot be read from")]
    Read { argv: String, source: std::io::Error },
    #[error("`{argv}` was stopped")]
    Stopped { argv: String, source: Impatience },
}

/// Where a tool comes from that most systems have, and that only some files need.
fn packaged(program: &str) -> &'static str {
    match program {
        "xz" => "; Debian has it in xz-utils",
        "zstd" => "; Debian has it in zstd",
        _ => "",
    }
}

fn tail(lines: &[String]) -> String {
    lines.iter().map(|l| format!("\n  | {l}")).collect()
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Tool {
    pub fn new(program: impl AsRef<OsStr>) -> Tool {
        let mut command = Command::new(program);
        // Messages are shown and sometimes read: one language.
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Tool { command, limits: None }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Tool {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Tool {
        self.command.env(name, value);
        self
    }

    pub fn dir(mut self, dir: impl AsRef<Path>) -> Tool {
        self.command.current_dir(dir);
        self
    }

    pub fn limits(mut self, limits: Limits) -> Tool {
        self.limits = Some(limits);
        self
    }

    /// The command line as text for messages; words with blanks or quotes are quoted.
    pub fn argv(&self) -> String {
        let std = self.command.as_std();
        let words: Vec<String> = std::iter::once(std.get_program())
            .chain(std.get_args())
            .map(|w| quoted(&w.to_string_lossy()))
            .collect();
        words.join(" ")
    }

    /// Runs it; anything but exit status 0 is an error with the last lines of standard error.
    pub async fn run(self, patience: &Patience) -> Result<Output, CommandError> {
        self.run_watched(patience, &mut |_| ()).await
    }

    /// As [`Tool::run`]; `line` sees each line of standard error as it comes.
    pub async fn run_watched(
        self,
        patience: &Patience,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output, CommandError> {
        let mut stdout = Vec::new();
        self.run_streamed(patience, line, &mut |bytes| {
            stdout.extend_from_slice(bytes);
            stdout.len() <= STDOUT_LIMIT
        })
        .await?;
        Ok(Output { stdout })
    }

    /// As [`Tool::run`]; `chunk` sees standard output piece by piece and stops the tool by returning
    /// false, `line` sees each line of standard error.
    pub async fn run_streamed(
        mut self,
        patience: &Patience,
        line: &mut (dyn FnMut(&str) + Send),
        chunk: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<(), CommandError> {
        let argv = self.argv();
        let program = self.command.as_std().get_program().to_string_lossy().into_owned();
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(limits) = self.limits {
            apply(limits, &mut self.command);
        }
        let mut process =
            spawn::spawn(self.command, Vec::new()).await.map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => CommandError::Missing { program },
                _ => CommandError::Start { argv: argv.clone(), source },
            })?;
        let stdout = process.take_stdout().expect("piped above");
        let stderr = process.take_stderr().expect("piped above");

        // Any early return drops the process, and so kills its group.
        let work = async {
            let (complete, last_lines) =
                tokio::try_join!(read_stdout(stdout, chunk), read_stderr(stderr, line))?;
            Ok((complete, last_lines, process.wait().await?))
        };
        let (complete, last_lines, status) = patience
            .wait(&argv, work)
            .await
            .map_err(|source| CommandError::Stopped { argv: argv.clone(), source })?
            .map_err(|source| CommandError::Read { argv: argv.clone(), source })?;
        match () {
            () if !complete => Err(CommandError::TooMuch { argv }),
            () if !status.success() => Err(CommandError::Failed { argv, status, last_lines }),
            () => Ok(()),
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@^".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{word}'") }
}

/// Where `program` is on the PATH, if it can be run.
pub fn find(program: &str) -> Option<PathBuf> {
    let runnable = |p: &PathBuf| p.is_file() && rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok();
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(runnable)
}

fn apply(limits: Limits, command: &mut Command) {
    // SAFETY: only getrlimit and setrlimit are called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // Kiln itself may run under less, and nobody but root may have more than that.
            let set = |resource: Resource, value: u64| {
                let own = rustix::process::getrlimit(resource).maximum;
                let value = Some(own.map_or(value, |own| own.min(value)));
                rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })
            };
            set(Resource::As, limits.memory)?;
            set(Resource::Cpu, limits.cpu.as_secs().max(1))?;
            Ok(())
        });
    }
}

/// Hands over what comes; false when `chunk` had too much. Dropping the pipe then ends the tool.
async fn read_stdout(
    mut pipe: impl AsyncRead + Unpin,
    chunk: &mut (dyn FnMut(&[u8]) -> bool + Send),
) -> std::io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pipe.read(&mut buffer).await? {
            0 => return Ok(true),
            n if !chunk(&buffer[..n]) => return Ok(false),
            _ => {}
        }
    }
}

/// Reads to the end, giving each line to `line`; keeps the last ones.
async fn read_stderr(
    pipe: impl AsyncRead + Unpin,
    line: &mut (dyn FnMut(&str) + Send),
) -> std::io::Result<Vec<String>> {
    let mut pipe = BufReader::new(pipe);
    let mut last = VecDeque::new();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        // Bounded: a "line" without an end is taken in pieces.
        let n = (&mut pipe).take(LINE_LIMIT as u64).read_until(b'\n', &mut buffer).await?;
        if n == 0 {
            return Ok(last.into());
        }
        let text = String::from_utf8_lossy(&buffer);
        let text = text.trim_end();
        // Progress bars redraw with carriage returns: the last drawing counts.
        let text = text.rsplit('\r').next().unwrap_or(text);
        if text.is_empty() {
            continue;
        }
        line(text);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn patience(limit: Duration) -> Patience {
        Patience::new(limit, &CancellationToken::new())
    }

    #[tokio::test]
    async fn output_lines_and_failure_are_told() {
        let p = patience(Duration::from_secs(20));
        let mut lines = Vec::new();
        let out = Tool::new("sh")
            .args(["-c", "echo out; printf 'one\\n50%%\\r100%%\\n' >&2"])
            .run_watched(&p, &mut |l| lines.push(l.to_owned()))
            .await
            .unwrap();
        assert_eq!(out.text(), "out\n");
        assert_eq!(lines, ["one", "100%"]);
        let error = Tool::new("sh").args(["-c", "echo broken >&2; exit 3"]).run(&p).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c 'echo broken >&2; exit 3'") && text.contains("| broken"), "{text}");
        let missing = Tool::new("no-such-tool").run(&p).await.unwrap_err();
        assert!(matches!(&missing, CommandError::Missing { program } if program == "no-such-tool"));
    }

    #[tokio::test]
    async fn a_timeout_takes_the_whole_group() {
        let begun = std::time::Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid_file.display());
        let p = patience(Duration::from_millis(500));
        let error = Tool::new("sh").args(["-c", &script]).run(&p).await.unwrap_err();
        assert!(matches!(error, CommandError::Stopped { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('Z'))
        };
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the grandchild lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_flood_is_stopped() {
        let p = patience(Duration::from_secs(20));
        let mut seen = 0;
        let error = Tool::new("yes")
            .run_streamed(&p, &mut |_| (), &mut |bytes| {
                seen += bytes.len();
                seen < 100_000
            })
            .await
            .unwrap_err();
        assert!(matches!(error, CommandError::TooMuch { .. }), "{error}");
    }

    #[tokio::test]
    async fn limits_hold() {
        let p = patience(Duration::from_secs(20));
        let limits = Limits { memory: 200 << 20, cpu: Duration::from_secs(5) };
        let out = Tool::new("sh").args(["-c", "ulimit -v; ulimit -t"]).limits(limits).run(&p).await.unwrap();
        assert_eq!(out.text(), "204800\n5\n");
    }
}
