//! Child processes that cannot outlive kiln.
//!
//! The kernel's parent-death signal fires when the spawning *thread* ends, not
//! the process. Threads of a runtime come and go, so every child is started by
//! one thread that lives as long as kiln does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{OnceLock, mpsc};

use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// A running child in a process group of its own. Dropped alive, the whole group is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    /// Names this very process also after its number has been given away again.
    pidfd: OwnedFd,
    start_time: u64,
    reaped: bool,
}

struct Order {
    command: Command,
    inherit: Vec<OwnedFd>,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<io::Result<Process>>,
}

/// Starts `command` from the thread that lives as long as kiln. The descriptors in
/// `inherit` keep their numbers in the child and are closed here.
///
/// The child gets a process group of its own and SIGKILL when kiln ends, however it ends.
/// Must be called within a tokio runtime.
pub async fn spawn(command: Command, inherit: Vec<OwnedFd>) -> io::Result<Process> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || orders.into_iter().for_each(fulfil))
            .expect("the system lets kiln start its first thread");
        sender
    });
    let (reply, answer) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let gone = || io::Error::other("kiln's spawning thread has ended");
    spawner.send(Order { command, inherit, runtime, reply }).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn fulfil(order: Order) {
    let _inside = order.runtime.enter();
    // A caller that went away drops the process, and so kills it.
    let _ = order.reply.send(start(order.command, &order.inherit));
}

fn start(mut command: Command, inherit: &[OwnedFd]) -> io::Result<Process> {
    command.process_group(0);
    let numbers: Vec<i32> = inherit.iter().map(|fd| fd.as_raw_fd()).collect();
    let kiln = rustix::process::getpid();
    // SAFETY: between fork and exec only system calls are made: no allocation, no locks.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // kiln may have ended before the line above took effect.
            if rustix::process::getppid() != Some(kiln) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            for &number in &numbers {
                // `inherit` keeps the descriptor open until the spawn is over.
                let fd = std::os::fd::BorrowedFd::borrow_raw(number);
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let pid =
        child.id().and_then(|id| Pid::from_raw(id as i32)).expect("a child not yet waited for has a pid");
    // Nobody reaps the child before this function returns, so the number is still its own.
    let known = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|pidfd| Ok((pidfd, start_time(pid)?)));
    match known {
        Ok((pidfd, start_time)) => Ok(Process { child, pid, pidfd, start_time, reaped: false }),
        Err(e) => {
            let _ = child.start_kill();
            Err(e)
        }
    }
}

impl Process {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// When the process started, in clock ticks since the host's boot; with the pid it names the process.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// A handle that can signal the process at any time and never hits another one.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.as_fd().try_clone_to_owned()
    }

    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for the end of the process. May be called again, and may be dropped half-way.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    /// Kills the whole group at once; does nothing after [`Process::wait`] returned.
    pub fn kill(&self) {
        // Not yet reaped, so the number cannot have been given to another group.
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// When process `pid` started, in clock ticks since the host's boot.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // The name in field 2 may hold spaces and parentheses; field 22 counts from behind it.
    stat.rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has no start time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[tokio::test]
    async fn a_child_inherits_exactly_what_it_was_given() {
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let (_other, kept) = std::os::unix::net::UnixStream::pair().unwrap();
        let there = OwnedFd::from(there);
        let script = format!(
            "echo hello >&{}; if test -e /proc/self/fd/{}; then echo leak >&{}; fi",
            there.as_raw_fd(),
            kept.as_raw_fd(),
            there.as_raw_fd()
        );
        let mut command = Command::new("bash");
        command.arg("-c").arg(script);
        let mut child = spawn(command, vec![there]).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let mut text = String::new();
        here.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[tokio::test]
    async fn dropping_kills_the_whole_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo started; wait"]).stdout(Stdio::piped());
        let mut child = spawn(command, Vec::new()).await.unwrap();
        let mut out = tokio::io::BufReader::new(child.take_stdout().unwrap());
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut out, &mut line).await.unwrap();
        assert!(!line.is_empty());
        drop(child);
        // Both held the pipe; its end proves that both are gone.
        let mut rest = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut out, &mut rest).await.unwrap();
        assert_eq!(rest, "");
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_here() {
        let error = spawn(Command::new("/nonexistent/tool"), Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
