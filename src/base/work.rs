//! The work folder of one base build, and the namespace that its tools run in.
//!
//! Files of the tree belong to many users. Root makes them directly. Anyone else
//! works in a user namespace where they are root and their subordinate ids are
//! everybody else; kiln itself may then write the tree's folders, because root's
//! files are its own. Either way a process namespace ends everything that the
//! tools started, and a mount namespace forgets what they mounted.

use super::BaseError;
use crate::support::command::Tool;
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PREFIX: &str = "base-build-";

/// A folder under `<home>/tmp`, held by a lock while its build lives.
pub struct Work {
    pub path: PathBuf,
    _lock: std::fs::File,
}

/// `unshare` with everything but the command.
pub fn enter() -> Tool {
    let tool = Tool::new("unshare").args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]);
    let tool = if rustix::process::geteuid().is_root() {
        tool
    } else {
        tool.args(["--user", "--map-root-user", "--map-auto"])
    };
    // Debian keeps half of these tools where ordinary users do not look.
    let path = std::env::var("PATH").unwrap_or_default();
    tool.arg("--").env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
}

/// Proves that [`enter`] works here.
pub async fn probe(patience: &Patience) -> Result<(), BaseError> {
    let run = enter().arg("true").run(&patience.at_most(Duration::from_secs(30))).await;
    run.map(drop).map_err(BaseError::Namespace)
}

impl Work {
    /// A fresh folder; folders that dead builds left are removed on the way.
    pub async fn create(home: &Path) -> Result<Work, BaseError> {
        let tmp = home.join("tmp");
        let error = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BaseError::Store { doing, path, source }
        };
        std::fs::create_dir_all(&tmp).map_err(error("making", &tmp))?;
        for entry in std::fs::read_dir(&tmp).map_err(error("reading", &tmp))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX)
                && let Some(stale) = Work::lock(entry.path())
            {
                stale.remove().await;
            }
        }
        for number in 0.. {
            let path = tmp.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => {
                    result.map_err(error("making", &path))?;
                    std::fs::File::create(path.join("lock")).map_err(error("making", &path))?;
                    if let Some(work) = Work::lock(path) {
                        return Ok(work);
                    }
                }
            }
        }
        unreachable!("the numbers do not end")
    }

    fn lock(path: PathBuf) -> Option<Work> {
        let lock = std::fs::File::open(path.join("lock")).ok()?;
        lock.try_lock().ok()?;
        Some(Work { path, _lock: lock })
    }

    pub fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Removes the folder. What cannot be removed now is left to the next build.
    pub async fn remove(self) {
        // The caller may have been cancelled: cleaning up has a limit of its own.
        let own = Patience::new(Duration::from_secs(120), &CancellationToken::new());
        if self.tree().exists() {
            let _ = enter().args(["rm", "-rf", "--"]).arg(self.tree()).run(&own).await;
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
