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
const LOCK: &str = "lock";

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
        super::store::sweep(&tmp);
        for entry in std::fs::read_dir(&tmp).map_err(error("reading", &tmp))?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            match Work::lock(entry.path()) {
                Some(stale) => stale.remove().await,
                // Its kiln died over the very last of it; another one's has its lock at once.
                None if !entry.path().join(LOCK).exists() => drop(std::fs::remove_dir(entry.path())),
                None => {}
            }
        }
        for number in 0.. {
            let path = tmp.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => {
                    result.map_err(error("making", &path))?;
                    match std::fs::File::create(path.join(LOCK)) {
                        // Taken for a dead one's and removed, in the moment before it had a lock.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                        made => drop(made.map_err(error("making", &path))?),
                    }
                    if let Some(work) = Work::lock(path) {
                        return Ok(work);
                    }
                }
            }
        }
        unreachable!("the numbers do not end")
    }

    fn lock(path: PathBuf) -> Option<Work> {
        let lock = std::fs::File::open(path.join(LOCK)).ok()?;
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
        // The lock goes last: without it nobody could tell that its kiln is dead.
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
            let _ = match entry.file_name() == LOCK {
                true => Ok(()),
                false if is_folder => std::fs::remove_dir_all(entry.path()),
                false => std::fs::remove_file(entry.path()),
            };
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_dead_builds_left_goes_and_the_living_stay() {
        let home = tempfile::tempdir().unwrap();
        let living = Work::create(home.path()).await.unwrap();
        let dead = |name: &str, lock: bool| {
            let path = home.path().join("tmp").join(format!("{PREFIX}{name}"));
            std::fs::create_dir_all(path.join(if lock { "out" } else { "" })).unwrap();
            if lock {
                std::fs::write(path.join(LOCK), "").unwrap();
                std::fs::write(path.join("disk"), "x").unwrap();
            }
            path
        };
        let (whole, last) = (dead("1-0", true), dead("1-1", false));
        let another = Work::create(home.path()).await.unwrap();
        assert!(!whole.exists() && !last.exists() && living.path.exists() && another.path != living.path);
        living.remove().await;
        another.remove().await;
        assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }
}
