//! From start to end of one QEMU process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::argv::{Layout, argv, disk_node, node_name, shape};
use super::console::Console;
use super::error::MachineError;
use super::exit::{Exit, Stopped};
use super::firmware::{self, FirmwareFiles};
use super::memory::Memory;
use super::qemu::{Qemu, default_cpu};
use super::qmp::{Qmp, QmpError};
use super::spec::{Disk, MachineSpec, SpecError, path_problem};
use crate::model::DiskFormat;
use crate::support::files;
use crate::support::spawn::{self, Process};
use crate::support::wait::{Impatience, Patience};

/// From spawning QEMU to its first answer, on a busy host.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What of QEMU's standard error is kept: the beginning, in bytes.
const STDERR_LIMIT: usize = 16 << 10;
/// After QEMU's end its channels are read to their ends; somebody else may hold a copy.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A running machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    identity: Identity,
    qmp: Qmp,
    agent: Mutex<Option<UnixStream>>,
    /// The first disk as it was at the start, and how often it went on in a new file since.
    disk: Option<(Disk, AtomicU32)>,
    /// Of all disks that have one.
    serials: Vec<String>,
    console: Arc<Console>,
    pidfd: OwnedFd,
    killed: Arc<AtomicBool>,
    exit: watch::Receiver<Option<Exit>>,
    shape: String,
    /// Of the program that it is.
    stamp: String,
}

/// Names one process of one boot of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks from the host's boot to the start of the process.
    pub start_time: u64,
}

/// The three channels, kiln's ends and QEMU's.
struct Channels {
    qmp: (UnixStream, OwnedFd),
    agent: (UnixStream, OwnedFd),
    /// A pipe: QEMU writes the console byte by byte, and in a socket each would take a buffer of its own.
    console: (pipe::Receiver, OwnedFd),
}

impl Machine {
    /// Starts a machine that lives in `folder`: its console, its UEFI variables and QEMU's working directory
    /// are there. A later start in the same folder is the next boot of the same machine.
    pub async fn start(
        spec: &MachineSpec,
        folder: &Path,
        patience: &Patience,
    ) -> Result<Machine, MachineError> {
        let machine = Machine::launch(spec, folder, None, patience).await?;
        // Held until now so that no event of the guest's could be missed.
        machine.run(patience).await?;
        Ok(machine)
    }

    pub(super) async fn run(&self, patience: &Patience) -> Result<(), MachineError> {
        self.qmp.execute("cont", json!({}), &patience.at_most(START_LIMIT)).await?;
        Ok(())
    }

    /// A machine that stands still; with `incoming` it waits for that memory.
    pub(super) async fn launch(
        spec: &MachineSpec,
        folder: &Path,
        incoming: Option<&Memory>,
        patience: &Patience,
    ) -> Result<Machine, MachineError> {
        spec.check()?;
        let qemu = Qemu::find(spec.architecture, patience).await?;
        let folder = std::path::absolute(folder).map_err(|source| MachineError::File {
            doing: "cannot find",
            path: folder.into(),
            source,
        })?;
        if let Some(problem) = path_problem(&folder) {
            return Err(SpecError { name: spec.name.clone(), problem }.into());
        }
        let channels = Channels::new().map_err(MachineError::System)?;
        let incoming_type = incoming.map(|memory| memory.machine_type.clone());
        let layout = Layout { incoming: incoming_type, ..prepare(spec, &folder, &qemu, &channels)? };
        let (shape, stamp) = (shape(spec, &layout.cpu), qemu.stamp());
        if let Some(memory) = incoming {
            memory.check(&shape, &stamp)?;
        }
        let mut command = Command::new(&qemu.program);
        command
            .args(argv(spec, &layout))
            .current_dir(&folder)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let Channels { qmp: (control, a), agent: (agent, b), console: (output, c) } = channels;
        let mut process = spawn::spawn(command, vec![a, b, c]).await.map_err(MachineError::System)?;
        let pidfd = process.pidfd().map_err(MachineError::System)?;
        let identity =
            Identity { pid: process.pid().as_raw_nonzero().get(), start_time: process.start_time() };

        let stderr = tokio::spawn(read_stderr(process.take_stderr().expect("piped above")));
        let console = Arc::new(Console::default());
        let recording = tokio::spawn({
            let (console, folder) = (console.clone(), folder.clone());
            async move { console.record(output, &folder).await }
        });
        let connected = Qmp::connect(control, &patience.at_most(START_LIMIT)).await;
        let (qmp, reading) = match connected {
            Ok(connected) => connected,
            Err(error) => return Err(not_started(error, process, stderr).await),
        };
        let (tell, exit) = watch::channel(None);
        let killed = Arc::new(AtomicBool::new(false));
        let watcher = Watcher { process, qmp: qmp.clone(), reading, recording, stderr };
        tokio::spawn(watcher.watch(spec.limit, killed.clone(), tell));
        let disk = spec.disks.first().map(|disk| (disk.clone(), AtomicU32::new(0)));
        let serials = spec.disks.iter().filter_map(|disk| disk.serial.clone()).collect();
        let agent = Mutex::new(Some(agent));
        Ok(Machine {
            folder,
            identity,
            qmp,
            agent,
            disk,
            serials,
            console,
            pidfd,
            killed,
            exit,
            shape,
            stamp,
        })
    }

    /// Whether it was started with a disk of this serial.
    pub fn has_disk(&self, serial: &str) -> bool {
        self.serials.iter().any(|s| s == serial)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// For a journal: what [`reap`] needs to end this QEMU if kiln does not live to do it.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// See [`super::shape`].
    pub(super) fn shape(&self) -> &str {
        &self.shape
    }

    /// See [`Qemu::stamp`].
    pub(super) fn stamp(&self) -> &str {
        &self.stamp
    }

    /// The host's end of the port `kiln.agent`; the first caller gets it.
    pub fn agent_link(&self) -> Option<UnixStream> {
        self.agent.lock().expect("no panic while held").take()
    }

    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Also of use after the machine's end.
    pub fn console(&self) -> &Arc<Console> {
        &self.console
    }

    /// The last `n` lines of the console, oldest first.
    pub fn console_tail(&self, n: usize) -> Vec<String> {
        self.console.tail(n)
    }

    /// From here on the first disk writes to `overlay`, an empty qcow2 on what it wrote to before; that
    /// file is whole when this returns, and only read from. Nothing may be under way on the disk. QEMU
    /// opens its files anew by their names: they stay as long as the machine, and no other file gets them.
    pub async fn snapshot_disk(&self, overlay: &Path, patience: &Patience) -> Result<(), MachineError> {
        let (disk, snapshots) = self.disk.as_ref().expect("who takes a snapshot has given it a disk");
        let before = snapshots.load(Ordering::SeqCst);
        let (node, next) = (node_name(0, before), node_name(0, before + 1));
        let overlay = Disk { path: overlay.to_owned(), format: DiskFormat::Qcow2, ..disk.clone() };
        let mut opened = disk_node(&next, &overlay);
        // What it stands on is what the machine has open, whatever its header says.
        opened["backing"] = serde_json::Value::Null;
        self.qmp.execute("blockdev-add", opened, patience).await?;
        let switch = json!({"node": node, "overlay": next});
        if let Err(refused) = self.qmp.execute("blockdev-snapshot", switch, patience).await {
            // Its name is the next one's, too.
            let _ = self.qmp.execute("blockdev-del", json!({"node-name": next}), patience).await;
            return Err(refused.into());
        }
        snapshots.store(before + 1, Ordering::SeqCst);
        Ok(())
    }

    /// Presses the power button. Whether the guest heeds it is its own affair.
    pub async fn power_button(&self, patience: &Patience) -> Result<(), MachineError> {
        self.qmp.execute("system_powerdown", json!({}), patience).await?;
        Ok(())
    }

    /// Ends QEMU in order, as if the power failed for the guest. What the guest had written is in the disk file.
    pub async fn quit(&self, patience: &Patience) -> Result<Exit, MachineError> {
        match self.qmp.execute("quit", json!({}), patience).await {
            Ok(_) | Err(QmpError::Closed { .. }) => Ok(self.wait_exit(patience).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends QEMU at once. Returns before it is gone: [`Machine::wait_exit`] tells when.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits until the agent, once it has opened its port in the guest, has gone from there.
    pub async fn agent_gone(&self) {
        self.qmp.port_closed().await;
    }

    /// How the machine ended, if it did.
    pub fn exited(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for the end of QEMU. All that the console said is recorded by then.
    pub async fn wait_exit(&self, patience: &Patience) -> Result<Exit, Impatience> {
        let mut exit = self.exit.clone();
        let ended = patience.wait("the end of the machine", exit.wait_for(Option::is_some)).await?;
        // The watcher speaks before it goes, unless the whole runtime goes.
        Ok(ended.ok().and_then(|e| e.clone()).unwrap_or(Exit::Killed))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Channels {
    fn new() -> io::Result<Channels> {
        let pair = || -> io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Channels { qmp: pair()?, agent: pair()?, console: (pipe::Receiver::from_owned_fd(ours)?, theirs) })
    }
}

/// Puts into the folder what QEMU will need there.
fn prepare(
    spec: &MachineSpec,
    folder: &Path,
    qemu: &Qemu,
    channels: &Channels,
) -> Result<Layout, MachineError> {
    let file = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| MachineError::File { doing, path, source }
    };
    files::private_folder(folder).map_err(file("cannot create the folder", folder))?;
    let firmware = if spec.has_uefi() {
        let found = firmware::find(spec.architecture)?;
        let vars = folder.join("efivars.fd");
        // The next boot of the same machine remembers what the last one set.
        if !vars.exists() {
            let template = std::fs::read(&found.vars).map_err(file("cannot read", &found.vars))?;
            files::write_atomic(&vars, &template).map_err(file("cannot write", &vars))?;
        }
        Some(FirmwareFiles { code: found.code, vars })
    } else {
        None
    };
    let mut credentials = Vec::new();
    for (index, credential) in spec.credentials.iter().enumerate() {
        let path = folder.join(format!("credential-{index}"));
        let text =
            format!("io.systemd.credential.binary:{}={}", credential.name, BASE64.encode(&credential.value));
        files::write_atomic(&path, text.as_bytes()).map_err(file("cannot write", &path))?;
        credentials.push(path);
    }
    let cpu = match &spec.cpu {
        Some(cpu) => cpu.clone(),
        None => default_cpu(spec.architecture, spec.accelerator, qemu.version).into(),
    };
    Ok(Layout {
        cpu,
        firmware,
        credentials,
        qmp: channels.qmp.1.as_raw_fd(),
        agent: channels.agent.1.as_raw_fd(),
        console: channels.console.1.as_raw_fd(),
        incoming: None,
    })
}

/// What QEMU said when it ended instead of answering; the channel's own trouble when it did not end.
async fn not_started(error: QmpError, mut process: Process, stderr: JoinHandle<String>) -> MachineError {
    if let QmpError::Impatience(_) = error {
        return error.into();
    }
    let ended = tokio::time::timeout(DRAIN_LIMIT, async { (process.wait().await, stderr.await) }).await;
    match ended {
        Ok((Ok(status), Ok(text))) => MachineError::from_stderr(status, &text),
        _ => error.into(),
    }
}

async fn read_stderr(mut pipe: ChildStderr) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let room = STDERR_LIMIT - kept.len();
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// What has to be brought to its end when QEMU ends.
struct Watcher {
    process: Process,
    qmp: Qmp,
    reading: JoinHandle<()>,
    recording: JoinHandle<()>,
    stderr: JoinHandle<String>,
}

impl Watcher {
    async fn watch(mut self, limit: Duration, killed: Arc<AtomicBool>, tell: watch::Sender<Option<Exit>>) {
        let mut stopped = Stopped::No;
        let status = tokio::select! {
            biased;
            status = self.process.wait() => status,
            () = self.qmp.host_disk_failed() => self.end().await,
            () = tokio::time::sleep(limit) => {
                stopped = Stopped::LimitReached(limit);
                self.end().await
            }
        };
        if killed.load(Ordering::SeqCst) {
            stopped = Stopped::Killed;
        }
        let drain = async {
            let (_, _, stderr) = tokio::join!(&mut self.reading, &mut self.recording, &mut self.stderr);
            stderr.unwrap_or_default()
        };
        let stderr = tokio::time::timeout(DRAIN_LIMIT, drain).await.unwrap_or_default();
        let status = status.unwrap_or_default();
        // Nobody left to hear it is no error.
        let _ = tell.send(Some(Exit::of(&self.qmp.ending(), status, stopped, stderr)));
    }

    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.process.kill();
        self.process.wait().await
    }
}

/// Kills a QEMU that an earlier kiln left behind, if `identity` still names it and it lives in `folder`.
/// Returns whether there was one. Blocks for at most five seconds until it is gone.
pub fn reap(identity: Identity, folder: &Path) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(identity.pid) else { return Ok(false) };
    // Taken first: from here on it is the same process that is looked at and killed.
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    if !is_ours(pid, identity, folder) {
        return Ok(false);
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(e) => return Err(e.into()),
    }
    let mut gone = [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    match rustix::event::poll(&mut gone, Some(&limit))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} does not die", identity.pid))),
        _ => Ok(true),
    }
}

fn is_ours(pid: Pid, identity: Identity, folder: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let is_qemu = std::fs::read(proc.join("cmdline")).is_ok_and(|argv| {
        let program = argv.split(|&b| b == 0).next().unwrap_or_default();
        program.windows(12).any(|w| w == b"qemu-system-")
    });
    // Every machine runs in its own folder, and the link names it also after its removal.
    let lives_there = std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
        cwd == folder || cwd.as_os_str().to_string_lossy() == format!("{} (deleted)", folder.display())
    });
    is_qemu && lives_there && spawn::start_time(pid).is_ok_and(|t| t == identity.start_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_not_reaped() {
        let pid = std::process::id() as i32;
        let start_time = spawn::start_time(rustix::process::getpid()).unwrap();
        let cwd = std::env::current_dir().unwrap();
        assert!(!reap(Identity { pid, start_time }, &cwd).unwrap());
        assert!(!reap(Identity { pid: i32::MAX - 1, start_time }, &cwd).unwrap());
    }
}
