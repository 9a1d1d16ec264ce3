//! Running programs and timing what they take.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub type Result<T = ()> = std::result::Result<T, String>;

/// Top of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the root").to_path_buf()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where demo and tests keep catalog, bases and images.
pub fn home() -> PathBuf {
    match std::env::var_os("KILN_XTASK_HOME") {
        Some(home) => PathBuf::from(home),
        None => root().join("target/kiln-home"),
    }
}

pub fn command<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).current_dir(root());
    // What cargo told us of this task. Crates that look at it would be compiled again and again,
    // by turns for us and for who calls cargo directly.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

pub fn words(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs it with our terminal; anything but exit code 0 is an error that names the command.
pub fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|e| format!("{}: {e}", words(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", words(command))) }
}

/// Runs it and gives its standard output.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", words(command)))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", words(command), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Full path of a program, also where only root's PATH would find it.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|f| f.join(program)).find(|p| p.is_file())
}

/// Stages with their times, printed as they end and once more as a table.
#[derive(Default)]
pub struct Stages(Vec<(String, Duration)>);

impl Stages {
    pub fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let begun = Instant::now();
        let result = work();
        self.0.push((name.to_owned(), begun.elapsed()));
        result.map_err(|e| format!("{name}: {e}"))
    }

    pub fn print(&self) {
        println!("\nHow long each stage took:");
        for (name, time) in &self.0 {
            println!("  {:>7.1} s  {name}", time.as_secs_f64());
        }
        let total: Duration = self.0.iter().map(|(_, t)| *t).sum();
        println!("  {:>7.1} s  all", total.as_secs_f64());
    }
}
