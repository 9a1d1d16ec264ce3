//! The memory of a machine that stands still, as a file, and machines that go on from it.
//!
//! QEMU writes and reads it as the stream of a migration, through a pipe: it takes descriptors of
//! plain files in different ways from version to version, and kiln sees every byte go by. What a
//! machine is started from is measured and digested on its way in, and the machine runs only when
//! both were right.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::error::MachineError;
use super::exit::Exit;
use super::life::Machine;
use super::qmp::{Event, QmpError};
use super::spec::MachineSpec;
use crate::support::wait::Patience;

/// For writing or reading some hundred MB on a host that is busy.
const LIMIT: Duration = Duration::from_secs(120);
/// QEMU's messages about a stream that it does not take come with its end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What QEMU calls the descriptor, both ways.
const NAME: &str = "memory";
/// Bytes per second: the machine stands still, so there is nothing to be slow for.
const BANDWIDTH: u64 = 1 << 40;
const CHUNK: usize = 1 << 20;
/// Of a pipe, where the system lets it be so large.
const PIPE: usize = 1 << 20;

/// A saved memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub path: PathBuf,
    pub bytes: u64,
    /// SHA-256, in hex.
    pub digest: String,
    /// The versioned type of the machine that it was in: `pc-q35-7.2`.
    pub machine_type: String,
    /// See [`super::shape`]. QEMU itself does not notice a device more than there was.
    pub shape: String,
    /// See [`super::Qemu::stamp`].
    pub qemu: String,
}

impl Memory {
    pub(super) fn check(&self, shape: &str, qemu: &str) -> Result<(), MachineError> {
        if self.qemu != qemu {
            let text = format!("it is one of QEMU {}, and this is QEMU {qemu}", self.qemu);
            return Err(MachineError::NotRestored(text));
        }
        if self.shape != shape {
            let mut lines = self.shape.lines().zip(shape.lines()).filter(|(was, is)| was != is);
            let (was, is) = lines.next().unwrap_or(("other devices", "these"));
            return Err(MachineError::NotRestored(format!("it is of another machine ({was}, not {is})")));
        }
        Ok(())
    }
}

impl Machine {
    /// Stops the machine, writes its memory to a new file and ends QEMU. The disks are then as the
    /// memory believes them to be. After an error the machine is of no use any more.
    pub async fn save_memory(&self, path: &Path, patience: &Patience) -> Result<Memory, MachineError> {
        let patience = &patience.at_most(LIMIT);
        let file = File::create_new(path).map_err(|source| MachineError::File {
            doing: "cannot write",
            path: path.into(),
            source,
        })?;
        let ask = async |command, arguments| self.qmp().execute(command, arguments, patience).await;
        ask("stop", json!({})).await?;
        let machine_type = ask("qom-get", json!({"path": "/machine", "property": "type"})).await?;
        let machine_type = machine_type.as_str().and_then(|t| t.strip_suffix("-machine"));
        let machine_type = machine_type
            .ok_or_else(|| MachineError::NotSaved("QEMU does not say its type".into()))?
            .to_owned();
        self.tell_progress(patience).await?;
        ask("migrate-set-parameters", json!({"max-bandwidth": BANDWIDTH})).await?;
        let (ours, theirs) = pipe()?;
        let copying = tokio::task::spawn_blocking(move || {
            let (bytes, digest) = digested(File::from(ours), &file)?;
            file.sync_all()?;
            Ok((bytes, digest))
        });
        self.qmp().hand_over(NAME, theirs, patience).await?;
        let events = self.qmp().events();
        ask("migrate", json!({"uri": format!("fd:{NAME}")})).await?;
        self.migrated(events, patience).await.map_err(|e| e.told(MachineError::NotSaved))?;
        // Its end is the end of the pipe.
        match self.quit(patience).await? {
            Exit::HostQuit => {}
            other => return Err(MachineError::NotSaved(other.to_string())),
        }
        let copied = patience.wait("the machine's memory", copying).await?;
        let (bytes, digest) = flat(copied).map_err(|e| MachineError::NotSaved(e.to_string()))?;
        let (shape, qemu) = (self.shape().to_owned(), self.stamp().to_owned());
        Ok(Memory { path: path.into(), bytes, digest, machine_type, shape, qemu })
    }

    /// As [`Machine::start`], but goes on from a saved memory. The specification is of the same
    /// [`super::shape`] as that of the machine that was saved, and its disks hold what they held then.
    pub async fn start_from(
        memory: &Memory,
        spec: &MachineSpec,
        folder: &Path,
        patience: &Patience,
    ) -> Result<Machine, MachineError> {
        let patience = &patience.at_most(LIMIT);
        let not = MachineError::NotRestored;
        let file = File::open(&memory.path).map_err(|e| not(e.to_string()))?;
        let length = file.metadata().map_err(|e| not(e.to_string()))?.len();
        if length != memory.bytes {
            return Err(not(format!("{length} bytes are left of its {}", memory.bytes)));
        }
        let machine = Machine::launch(spec, folder, Some(memory), patience).await?;
        match machine.go_on(memory, file, patience).await {
            Ok(()) => Ok(machine),
            Err(error) => {
                machine.be_gone(patience).await;
                Err(error)
            }
        }
    }

    async fn go_on(&self, memory: &Memory, file: File, patience: &Patience) -> Result<(), MachineError> {
        let not = MachineError::NotRestored;
        self.tell_progress(patience).await?;
        let (theirs, ours) = pipe()?;
        let qmp = self.qmp();
        qmp.hand_over(NAME, theirs, patience).await?;
        let events = qmp.events();
        qmp.execute("migrate-incoming", json!({"uri": format!("fd:{NAME}")}), patience).await?;
        // It ends also when QEMU reads no further: that closes the other end.
        let copying = tokio::task::spawn_blocking(move || digested(file, &File::from(ours)));
        let migrated = self.migrated(events, patience).await;
        if migrated.is_err() {
            self.kill();
        }
        let copied = patience.wait("the saved memory", copying).await?;
        migrated.map_err(|e| e.told(not))?;
        let (bytes, digest) = flat(copied).map_err(|e| not(e.to_string()))?;
        if (bytes, &digest) != (memory.bytes, &memory.digest) {
            return Err(not(format!("{} is damaged: its digest is {digest}", memory.path.display())));
        }
        self.run(patience).await
    }

    /// Ends QEMU, and waits until it has: as long as it lives, its disks are open to nobody else.
    pub async fn be_gone(&self, patience: &Patience) {
        self.kill();
        // A moment of its own: mostly it is gone for because another limit is over. What does not end in it
        // is in the way of the next one, which says so.
        let _ = self.wait_exit(&Patience::new(LAST_WORDS, &patience.cancel)).await;
    }

    async fn tell_progress(&self, patience: &Patience) -> Result<(), QmpError> {
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        self.qmp().execute("migrate-set-capabilities", events, patience).await?;
        Ok(())
    }

    /// Waits for the end of a migration, either way.
    async fn migrated(&self, mut events: Receiver<Event>, patience: &Patience) -> Result<(), Unmoved> {
        let news = async {
            loop {
                match events.recv().await {
                    Ok(event) if event.name == "MIGRATION" => match event.data["status"].as_str() {
                        Some("completed") => return Ok(()),
                        Some("failed" | "cancelled") => return Err(()),
                        _ => {}
                    },
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(()),
                }
            }
        };
        let moved = tokio::select! {
            biased;
            moved = patience.wait("the end of the migration", news) => moved.map_err(|e| Unmoved::Error(e.into()))?,
            _ = self.wait_exit(patience) => Err(()),
        };
        if moved.is_ok() {
            return Ok(());
        }
        let said = match self.qmp().execute("query-migrate", json!({}), patience).await {
            Ok(state) => state["error-desc"].as_str().unwrap_or("QEMU does not say why").to_owned(),
            // A QEMU that waits for a memory ends when it does not take it, and says why.
            Err(_) => match self.wait_exit(&patience.at_most(LAST_WORDS)).await {
                Ok(exit) => exit.to_string(),
                Err(e) => return Err(Unmoved::Error(e.into())),
            },
        };
        Err(Unmoved::Said(said))
    }
}

/// Why there was no end to a migration, or not the right one.
enum Unmoved {
    Said(String),
    Error(MachineError),
}

impl Unmoved {
    fn told(self, tell: impl FnOnce(String) -> MachineError) -> MachineError {
        match self {
            Unmoved::Said(said) => tell(said),
            Unmoved::Error(error) => error,
        }
    }
}

/// The reading and the writing end.
fn pipe() -> Result<(OwnedFd, OwnedFd), MachineError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| MachineError::System(e.into()))?;
    // More than a user may have in pipes is no error: it is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
    Ok((reader, writer))
}

/// Copies all of one into the other. Returns bytes and SHA-256, in hex. Blocks.
pub fn digested(mut from: impl Read, mut to: impl Write) -> io::Result<(u64, String)> {
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&buffer[..n])?;
        digest.update(&buffer[..n]);
        bytes += n as u64;
    }
    let digest = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((bytes, digest))
}

fn flat<T>(joined: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    joined.map_err(io::Error::other)?
}
