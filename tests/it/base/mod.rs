//! Base images by the command line: pulled from a server that misbehaves, imported from strangers.

mod imports;
mod pulls;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A home folder of its own, and what lies beside it.
struct Rig {
    folder: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// It failed with this exit code, and says all of this.
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part}: {}", self.err);
        }
    }
}

impl Rig {
    fn new() -> Rig {
        Rig { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs kiln, which may have 3 GiB of address space, 30 CPU seconds, and two minutes.
    async fn kiln(&self, words: &str) -> Ended {
        let line = "ulimit -v 3145728; ulimit -t 30; exec \"$0\" \"$@\"";
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", line, env!("CARGO_BIN_EXE_kiln"), "--home"]).arg(self.path("home"));
        command.args(words.split(' ')).current_dir(self.folder.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).env_remove("KILN_HOME");
        let output = tokio::time::timeout(Duration::from_secs(120), command.output());
        let output = output.await.unwrap_or_else(|_| panic!("kiln {words} does not end")).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Files below the home folder.
    fn left(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), all),
                    false => all.push(entry.path()),
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.path("home"), &mut all);
        all
    }
}

/// Runs a tool in a folder.
fn tool(folder: &Path, line: &str) {
    let mut words = line.split(' ');
    let mut command = std::process::Command::new(words.next().unwrap());
    let output = command.args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
