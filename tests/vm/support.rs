//! What every test with a machine needs: a folder of its own, kept when the test fails, and patience.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln::machine::Accelerator;
use kiln::support::wait::Patience;
use tokio_util::sync::CancellationToken;

/// A folder for one test, below `target/`. Removed when the test passes; printed and kept when it fails.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(test: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Deref for Folder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the test left is in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// How the tests' guests run: as `KILN_ACCEL` says, else by emulation, which runs everywhere.
pub fn accelerator() -> Accelerator {
    match std::env::var("KILN_ACCEL").as_deref() {
        Ok("kvm") => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    }
}

/// Patience for so many seconds, on a machine that may be busy.
pub fn patience(seconds: u64) -> Patience {
    Patience::new(Duration::from_secs(seconds), &CancellationToken::new())
}

/// Asks again every 10 ms until `done` says yes; the test fails after 30 s.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The command lines of running machines that name this.
pub fn machines(name: &str) -> Vec<Vec<String>> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect::<Vec<_>>())
        .filter(|argv| argv[0].contains("qemu-system") && argv.iter().any(|a| a.contains(name)))
        .collect()
}
