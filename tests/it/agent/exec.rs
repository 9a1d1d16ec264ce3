//! Commands: output, ends of all kinds, input, terminals.

use std::time::{Duration, Instant};

use super::{Collect, agent, gone, kind, patience, shell};
use kiln::guest::session::Interaction;
use kiln::guest::{Guest, GuestError, GuestFiles, Sink};
use kiln::support::wait::{Impatience, Patience};
use kiln_protocol::message::{ErrorKind, Exec, Terminal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_command_has_output_error_output_and_an_exit_code() {
    let guest = agent().await;
    let mut sink = Collect::default();
    let exited = guest.exec(shell("echo out; echo err >&2; exit 3"), &mut sink, &patience()).await.unwrap();
    assert_eq!((exited.code, exited.signal, exited.timed_out), (Some(3), None, false));
    assert_eq!((sink.text().as_str(), &sink.errors[..]), ("out\n", &b"err\n"[..]));
}

#[tokio::test]
async fn a_signal_is_no_exit_code() {
    let guest = agent().await;
    let exited = guest.run(shell("kill -9 $$"), 0, &patience()).await.unwrap().exited;
    assert_eq!((exited.code, exited.signal, exited.timed_out), (None, Some(9), false));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let guest = agent().await;
    let mut sink = Collect::default();
    let mut run = async |exec: Exec| kind(guest.exec(exec, &mut sink, &patience()).await);
    let argv = |program: &str| Exec { argv: vec![program.into()], ..Exec::default() };
    assert_eq!(run(argv("no-such-program")).await, ErrorKind::NotFound);
    assert_eq!(run(argv("/etc/passwd")).await, ErrorKind::Denied);
    assert_eq!(run(Exec::default()).await, ErrorKind::Invalid);
    assert_eq!(run(argv("nul\0byte")).await, ErrorKind::Invalid);
    assert_eq!(run(Exec { cwd: Some("/nowhere".into()), ..argv("true") }).await, ErrorKind::NotFound);
    assert_eq!(run(Exec { root: Some("/etc/passwd".into()), ..argv("true") }).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_a_path() {
    let guest = agent().await;
    let p = patience();
    let env = async |env: &[(&str, &str)]| {
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let exec = Exec { argv: vec!["env".into()], env, ..Exec::default() };
        let text = String::from_utf8(guest.run(exec, 9999, &p).await.unwrap().output).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(env(&[("A", "b=c\nd")]).await, ["A=b=c", path, "d"]);
    assert_eq!(
        env(&[("PATH", "/usr/bin:/bin"), ("HOME", "/root")]).await,
        ["HOME=/root", "PATH=/usr/bin:/bin"]
    );
}

#[tokio::test]
async fn folder_and_root_are_entered() {
    let guest = agent().await;
    let p = patience();
    let exec = Exec { cwd: Some("/usr/share".into()), ..shell("pwd") };
    assert_eq!(guest.run(exec, 99, &p).await.unwrap().output, b"/usr/share\n");
    // A root of its own needs something to run in it, so this machine's own /usr is enough.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["bin", "lib", "lib64"] {
        if std::path::Path::new("/").join(name).exists() {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
    }
    let list = std::process::Command::new("ldd").arg("/bin/sh").output().unwrap();
    for word in String::from_utf8(list.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/')) {
        let to = root.join(&word[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(word, to).unwrap();
    }
    std::fs::copy("/bin/sh", root.join("bin/sh")).unwrap();
    let exec = Exec { root: Some(root.to_str().unwrap().into()), ..shell("echo /*") };
    let text = String::from_utf8(guest.run(exec, 999, &p).await.unwrap().output).unwrap();
    assert!(text.starts_with("/bin /lib"), "{text}");
    assert!(!text.contains("/etc"), "{text}");
}

#[tokio::test]
async fn output_comes_in_order_and_whole() {
    let guest = agent().await;
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let got = guest.run(shell(script), usize::MAX, &patience()).await.unwrap();
    let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
    assert!(got.output == expected.as_bytes());
}

/// Counts what it gets and remembers nothing; slow when asked to be.
struct Count {
    bytes: u64,
    pause: Duration,
}

impl Sink for Count {
    fn write(&mut self, bytes: &[u8], _error: bool) {
        self.bytes += bytes.len() as u64;
        std::thread::sleep(self.pause);
    }
}

fn memory_of(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_pass_in_little_memory() {
    let guest = agent().await;
    let mut sink = Count { bytes: 0, pause: Duration::ZERO };
    let script = "head -c 50000000 /dev/zero; head -c 1000000 /dev/zero >&2";
    guest.exec(shell(script), &mut sink, &patience()).await.unwrap();
    assert_eq!(sink.bytes, 51_000_000);
    let agent = memory_of(guest.pid().unwrap());
    assert!(agent < 8 << 20, "the agent took {agent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_holds_up_the_command_and_nobody_else() {
    let guest = std::sync::Arc::new(agent().await);
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("done");
    let script = format!("head -c 4000000 /dev/zero; echo > {}", mark.display());
    let slow = tokio::spawn({
        let guest = guest.clone();
        async move {
            let mut sink = Count { bytes: 0, pause: Duration::from_millis(20) };
            let exited = guest.exec(shell(&script), &mut sink, &patience()).await.unwrap();
            (exited.code, sink.bytes)
        }
    });
    let quick = guest.run(shell("echo quick"), 99, &patience()).await.unwrap();
    assert_eq!(quick.output, b"quick\n");
    assert!(!mark.exists() && !slow.is_finished(), "the command did not wait for its consumer");
    assert_eq!(slow.await.unwrap(), (Some(0), 4_000_000));
}

#[tokio::test]
async fn two_commands_run_at_once() {
    let guest = agent().await;
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    // Each waits for the other's sign.
    let meet = |mine: &std::path::Path, theirs: &std::path::Path| {
        shell(&format!("echo > {}; until [ -e {} ]; do sleep 0.01; done", mine.display(), theirs.display()))
    };
    let p = patience();
    let (x, y) = tokio::join!(guest.run(meet(&a, &b), 9, &p), guest.run(meet(&b, &a), 9, &p));
    assert_eq!((x.unwrap().exited.code, y.unwrap().exited.code), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_time_out_ends_the_whole_group_and_is_reported() {
    let guest = agent().await;
    let begun = Instant::now();
    let script = "echo $$; sleep 1000 & echo $!; wait";
    let exec = Exec { timeout_ms: Some(200), ..shell(script) };
    let got = guest.run(exec, 999, &patience()).await.unwrap();
    assert_eq!((got.exited.code, got.exited.signal, got.exited.timed_out), (None, Some(15), true));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for pid in String::from_utf8(got.output).unwrap().lines() {
        gone(pid.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn who_ignores_the_request_to_end_is_killed() {
    let guest = agent().await;
    let exec = Exec { timeout_ms: Some(100), ..shell("trap '' TERM; echo $$; while :; do sleep 0.1; done") };
    let got = guest.run(exec, 999, &patience()).await.unwrap();
    assert_eq!((got.exited.signal, got.exited.timed_out), (Some(9), true));
    gone(String::from_utf8(got.output).unwrap().trim().parse().unwrap()).await;
}

#[tokio::test]
async fn one_that_ends_well_in_its_grace_keeps_its_last_words() {
    let guest = agent().await;
    let script = "trap 'sleep 0.3; echo bye; exit 7' TERM; while :; do sleep 0.05; done";
    let exec = Exec { timeout_ms: Some(300), ..shell(script) };
    let got = guest.run(exec, 999, &patience()).await.unwrap();
    assert_eq!((got.exited.code, got.exited.timed_out), (Some(7), true));
    assert_eq!(got.output, b"bye\n");
}

#[tokio::test]
async fn an_orphan_that_keeps_the_pipe_does_not_keep_the_command() {
    let guest = agent().await;
    let begun = Instant::now();
    let got = guest.run(shell("sleep 1000 & echo $!; echo last"), 999, &patience()).await.unwrap();
    let took = begun.elapsed();
    let text = String::from_utf8(got.output).unwrap();
    let (pid, rest) = text.split_once('\n').unwrap();
    assert_eq!((got.exited.code, rest), (Some(0), "last\n"));
    assert!(took < Duration::from_secs(10), "{took:?}");
    // It may be a daemon that the command was to start.
    let pid: i32 = pid.parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_the_end_arrives_however_slowly_it_is_read() {
    let guest = agent().await;
    // More than a window, and then an orphan that holds the pipe: only what counts may be waited for.
    let script = "sleep 1000 & head -c 700000 /dev/zero; echo $! >&2";
    struct Slow(Collect);
    impl Sink for Slow {
        fn write(&mut self, bytes: &[u8], error: bool) {
            std::thread::sleep(Duration::from_millis(30));
            self.0.write(bytes, error);
        }
    }
    let mut sink = Slow(Collect::default());
    guest.exec(shell(script), &mut sink, &patience()).await.unwrap();
    assert_eq!(sink.0.output.len(), 700_000);
    let pid = String::from_utf8(sink.0.errors).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[tokio::test]
async fn cancelling_ends_the_command_in_the_guest() {
    let guest = agent().await;
    let cancel = CancellationToken::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!("echo $$ > {0}; sleep 1000 & echo $! >> {0}; yes", file.display());
    let p = Patience::unlimited(&cancel);
    let mut sink = Collect::default();
    let (result, ()) = tokio::join!(guest.exec(shell(&script), &mut sink, &p), async {
        while std::fs::read_to_string(&file).unwrap_or_default().lines().count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    });
    match result {
        Err(GuestError::Impatience(Impatience::Cancelled { what })) => {
            assert_eq!(what, "exec sh");
        }
        other => panic!("{other:?}"),
    }
    for pid in std::fs::read_to_string(&file).unwrap().lines() {
        gone(pid.parse().unwrap()).await;
    }
    // The session is still good.
    assert_eq!(guest.run(shell("echo on"), 99, &patience()).await.unwrap().output, b"on\n");
}

#[tokio::test]
async fn the_hosts_own_deadline_ends_the_command_too() {
    let guest = agent().await;
    let short = patience().at_most(Duration::from_millis(300));
    let mut sink = Collect::default();
    let result = guest.exec(shell("echo $$; sleep 1000"), &mut sink, &short).await;
    assert!(matches!(result, Err(GuestError::Impatience(Impatience::TimedOut { .. }))), "{result:?}");
    gone(sink.text().trim().parse().unwrap()).await;
}

#[tokio::test]
async fn cpu_time_is_counted() {
    let guest = agent().await;
    let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let exited = guest.run(shell(script), 0, &patience()).await.unwrap().exited;
    assert!((10..60_000).contains(&exited.cpu_ms), "{} ms", exited.cpu_ms);
}

#[tokio::test]
async fn input_reaches_the_command_through_its_window() {
    let guest = agent().await;
    let (send, input) = mpsc::channel(4);
    let exec = Exec { stdin: true, ..shell("sha256sum") };
    let p = patience();
    let mut sink = Collect::default();
    let feed = async move {
        for _ in 0..30 {
            send.send(Interaction::Input(vec![b'x'; 100_000])).await.unwrap();
        }
    };
    let (exited, ()) = tokio::join!(guest.session().interact(exec, input, &mut sink, &p), feed);
    assert_eq!(exited.unwrap().code, Some(0));
    assert_eq!(sink.text().split(' ').next().unwrap(), super::sha256(&vec![b'x'; 3_000_000]));
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_ends_all_the_same() {
    let guest = agent().await;
    let (send, input) = mpsc::channel(4);
    let exec = Exec { stdin: true, ..shell("exec 0<&-; sleep 0.2; echo done") };
    let feed = async move {
        for _ in 0..30 {
            if send.send(Interaction::Input(vec![b'x'; 100_000])).await.is_err() {
                return;
            }
        }
    };
    let (mut sink, p) = (Collect::default(), patience());
    let (exited, ()) = tokio::join!(guest.session().interact(exec, input, &mut sink, &p), feed);
    assert_eq!((exited.unwrap().code, sink.text().as_str()), (Some(0), "done\n"));
}

#[tokio::test]
async fn without_input_a_command_reads_an_end() {
    let guest = agent().await;
    let plain = guest.run(shell("cat; echo eof"), 99, &patience()).await.unwrap();
    let open = guest.run(Exec { stdin: true, ..shell("cat; echo eof") }, 99, &patience()).await.unwrap();
    assert_eq!((&plain.output[..], &open.output[..]), (&b"eof\n"[..], &b"eof\n"[..]));
}

/// Waits for words on a terminal, and answers.
struct Screen {
    text: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Sink for Screen {
    fn write(&mut self, bytes: &[u8], error: bool) {
        assert!(!error, "a terminal has one stream");
        self.text.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_signals_and_an_end() {
    let guest = agent().await;
    let (send, input) = mpsc::channel(4);
    let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let mut screen = Screen { text: text.clone() };
    let script = "trap 'echo got-int' INT; trap 'echo got-winch; stty size' WINCH; \
                  tty > /dev/null && echo is-tty; stty size; \
                  while read -r line; do echo \"<$line>\"; done; echo at-end; exit 5";
    let exec = Exec { terminal: Some(Terminal { rows: 24, columns: 80 }), ..shell(script) };
    let exec = Exec { argv: ["bash", "-c", script].map(String::from).into(), ..exec };
    let seen = async |words: &str| {
        while !text.lock().unwrap().contains(words) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drive = async {
        seen("is-tty").await;
        seen("24 80").await;
        send.send(Interaction::Resize(Terminal { rows: 50, columns: 132 })).await.unwrap();
        // bash runs a trap when the read it waits in returns.
        send.send(Interaction::Input(b"hello\n".to_vec())).await.unwrap();
        seen("<hello>").await;
        seen("got-winch").await;
        seen("50 132").await;
        send.send(Interaction::Signal(2)).await.unwrap();
        send.send(Interaction::Input(b"more\n".to_vec())).await.unwrap();
        seen("got-int").await;
        send.send(Interaction::EndOfInput).await.unwrap();
        seen("at-end").await;
    };
    let p = patience();
    let run = guest.session().interact(exec, input, &mut screen, &p);
    let (exited, driven) = tokio::join!(run, tokio::time::timeout(Duration::from_secs(30), drive));
    assert!(driven.is_ok(), "{}", text.lock().unwrap());
    assert_eq!(exited.unwrap().code, Some(5), "{}", text.lock().unwrap());
}

#[tokio::test]
async fn control_c_on_a_terminal_reaches_the_program_in_front() {
    let guest = agent().await;
    let (send, input) = mpsc::channel(4);
    // A shell that meets the signal between two commands may start the next one all the same.
    let script = shell("echo go; exec sleep 1000");
    let exec = Exec { terminal: Some(Terminal { rows: 24, columns: 80 }), ..script };
    let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let mut screen = Screen { text: text.clone() };
    let p = patience();
    let drive = async {
        while !text.lock().unwrap().contains("go") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        send.send(Interaction::Input(vec![3])).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        exited = guest.session().interact(exec, input, &mut screen, &p) => {
            assert_eq!(exited.unwrap().signal, Some(2));
        }
        () = drive => unreachable!(),
    }
}
