//! Starting a process for `Exec`, and seeing it end.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use kiln_protocol::message::{ErrorKind, Exec, Exited, Mode, Terminal};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{During, Outcome, failed};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A child that has not been waited for yet. Its pid names its process group, too.
pub struct Process {
    pub pid: i32,
    /// Our ends, non-blocking. With a terminal all of them are its master, and there is no `errors`.
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub errors: Option<OwnedFd>,
    pub terminal: bool,
}

/// Children that a request waits for; every other dead child is an orphan.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

struct Ends {
    child: [OwnedFd; 3],
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: Option<OwnedFd>,
}

/// Starts the command in a session of its own.
pub fn spawn(exec: &Exec, mode: Mode) -> Outcome<Process> {
    let Some(program) = exec.argv.first() else {
        return Err(failed(ErrorKind::Invalid, "exec: no command given"));
    };
    check_folders(exec)?;
    let ends = match exec.terminal {
        Some(size) => terminal_ends(size),
        None => pipe_ends(exec.stdin),
    }
    .during("prepare input and output of", program)?;
    for end in ends.input.iter().chain([&ends.output]).chain(&ends.errors) {
        nonblocking(end).during("prepare input and output of", program)?;
    }

    let mut command = Command::new(program);
    command.args(&exec.argv[1..]).env_clear().envs(exec.env.iter().map(|(k, v)| (k, v)));
    if !exec.env.iter().any(|(name, _)| name == "PATH") {
        command.env("PATH", DEFAULT_PATH);
    }
    let [input, output, errors] = ends.child;
    command.stdin(input).stdout(output).stderr(errors);
    let enter = Enter {
        root: exec.root.as_deref().map(CString::new).transpose().during("chroot into", "it")?,
        folder: CString::new(exec.cwd.as_deref().unwrap_or("/")).during("enter", "the working folder")?,
        terminal: exec.terminal.is_some(),
        calm: mode == Mode::Guest,
    };
    // SAFETY: `Enter::run` makes system calls only, on memory that was allocated before the fork.
    unsafe { command.pre_exec(move || enter.run()) };

    // Held from before the process exists until it is in the list.
    let mut ours = OURS.lock().unwrap();
    let child = command.spawn().during("exec", program)?;
    let pid = child.id() as i32;
    ours.insert(pid);
    Ok(Process {
        pid,
        input: ends.input,
        output: Some(ends.output),
        errors: ends.errors,
        terminal: exec.terminal.is_some(),
    })
}

/// What the child does between fork and exec.
struct Enter {
    root: Option<CString>,
    folder: CString,
    terminal: bool,
    calm: bool,
}

impl Enter {
    fn run(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        // Whoever started the agent with nohup, or from a script's background, meant the agent: a
        // program that inherits an ignored Ctrl-C can never hear one again.
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
            // SAFETY: signal(2) may be called between fork and exec, and sets no handler here.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // The thread that forks lives as long as the request: should the agent be killed, so is the child.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if self.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if self.calm {
            self.ordinary_victim();
        }
        if let Some(root) = &self.root {
            rustix::process::chroot(root.as_c_str())?;
        }
        rustix::process::chdir(self.folder.as_c_str())?;
        Ok(())
    }

    /// The agent's own protection from the out-of-memory killer is not for its children.
    fn ordinary_victim(&self) {
        use rustix::fs::{Mode, OFlags, open};
        if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
            let _ = rustix::io::write(&file, b"0");
        }
    }
}

/// After the fork there is only an errno to tell what was wrong, so folders are looked at before.
fn check_folders(exec: &Exec) -> Outcome<()> {
    let folder = |path: &Path| match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(failed(ErrorKind::Invalid, format!("enter {}: not a folder", path.display()))),
        Err(e) => Err(e).during("enter", path.display()),
    };
    match (&exec.root, &exec.cwd) {
        (Some(root), _) => folder(Path::new(root)),
        (None, Some(cwd)) => folder(Path::new(cwd)),
        (None, None) => Ok(()),
    }
}

fn pipe_ends(stdin: bool) -> io::Result<Ends> {
    let (output, child_output) = pipe()?;
    let (errors, child_errors) = pipe()?;
    let (child_input, input) = match stdin {
        true => pipe().map(|(r, w)| (r, Some(w)))?,
        false => (File::open("/dev/null")?.into(), None),
    };
    Ok(Ends { child: [child_input, child_output, child_errors], input, output, errors: Some(errors) })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn terminal_ends(size: Terminal) -> io::Result<Ends> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    resize(&master, size)?;
    use rustix::fs::{Mode, OFlags, open};
    let slave =
        open(ptsname(&master, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let child = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok(Ends { child, input: Some(master.try_clone()?), output: master, errors: None })
}

pub fn resize(master: &OwnedFd, size: Terminal) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd.as_fd())?;
    Ok(rustix::fs::fcntl_setfl(fd.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)?)
}

impl Process {
    /// Blocks until the process has ended, and leaves it to be waited for: its group's number stays taken.
    pub fn watch(pid: i32) {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
        while let Err(rustix::io::Errno::INTR) =
            rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {}
    }

    /// Signals the whole group.
    pub fn signal(&self, number: i32) {
        // SAFETY: kill(2) touches no memory. A group that is gone already is no failure.
        unsafe { libc::kill(-self.pid, number) };
    }

    /// Waits for the process, which has ended, and releases its number.
    pub fn reap(&self) -> Exited {
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid one.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to live variables of the right types.
            let got = unsafe { libc::wait4(self.pid, &mut status, 0, &mut usage) };
            if got != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        OURS.lock().unwrap().remove(&self.pid);
        let ms = |t: libc::timeval| t.tv_sec as u64 * 1000 + t.tv_usec as u64 / 1000;
        Exited {
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            timed_out: false,
            cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
        }
    }
}

/// Waits for dead children that nobody else waits for. Only an init has such.
pub fn reap_orphans() {
    if std::process::id() != 1 {
        return;
    }
    let ours = OURS.lock().unwrap();
    loop {
        // SAFETY: an all-zero siginfo is a valid one, and waitid fills it in.
        let dead = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            match libc::waitid(libc::P_ALL, 0, &mut info, options) {
                0 => info.si_pid(),
                _ => return,
            }
        };
        // One of ours stands in front until its request has taken it; there is a next time.
        if dead == 0 || ours.contains(&dead) {
            return;
        }
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(dead, std::ptr::null_mut(), libc::WNOHANG) };
    }
}
