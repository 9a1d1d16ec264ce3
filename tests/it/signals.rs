//! What ends kiln, and what it goes on in spite of.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a step that waits until the file `end` is there, with signals set like this; returns once it is at
/// work.
fn waits(folder: &Path, signals: &[&str], stderr: Stdio) -> Child {
    let document = "name: waits\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
        - {name: Wait, action: ExecuteBash, inputs: {commands: ['touch begun; until test -e end; do sleep 0.05; done']}}\n";
    std::fs::write(folder.join("doc.yml"), document).unwrap();
    // Whoever runs the tests may have been started deaf to some.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM"]).args(signals).arg(env!("CARGO_BIN_EXE_kiln"));
    command.args(["--home", "home", "component", "run", "--documents", "doc.yml"]);
    command.args(["--working-directory", ".", "--log-directory", "."]).current_dir(folder);
    let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let begun = Instant::now();
    while !folder.join("begun").exists() {
        assert!(begun.elapsed() < LIMIT, "the step does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The exit code, once it has ended by itself.
fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("kiln did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Its reader is dead, or its terminal is closed: the message cannot be told, the cancel happens.
#[test]
fn a_signal_cancels_though_nobody_hears_of_it() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = waits(folder.path(), &[], writer.into());
        send(&child, signal);
        assert_eq!(ended(&mut child), Some(130), "{signal:?}");
    }
}

/// `nohup kiln build ... &`, and a log-out.
#[test]
fn what_kiln_was_started_deaf_to_does_not_cancel() {
    for signal in [Signal::HUP, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let ignored = if signal == Signal::HUP { "--ignore-signal=HUP" } else { "--ignore-signal=INT" };
        let mut child = waits(folder.path(), &[ignored], Stdio::null());
        for _ in 0..2 {
            send(&child, signal);
            std::thread::sleep(Duration::from_millis(200));
        }
        std::fs::write(folder.path().join("end"), "").unwrap();
        assert_eq!(ended(&mut child), Some(0), "{signal:?}");
        // The others are heard.
        let folder = tempfile::tempdir().unwrap();
        let mut child = waits(folder.path(), &[ignored], Stdio::null());
        send(&child, Signal::TERM);
        assert_eq!(ended(&mut child), Some(130), "{signal:?}");
    }
}

/// Every command first puts the home folder in order, one kiln at a time.
#[test]
fn a_kiln_that_waits_for_another_says_so_and_can_be_called_off() {
    let folder = tempfile::tempdir().unwrap();
    let list = || {
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_kiln"), "--home", "home", "image", "list"]);
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    assert!(list().status().unwrap().success());
    let lock = std::fs::File::open(folder.path().join("home/builds/lock")).unwrap();
    lock.lock().unwrap();
    let mut child = list().spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert_eq!(line, "waiting for another kiln that puts the home folder in order");
    send(&child, Signal::INT);
    assert_eq!(ended(&mut child), Some(130));
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    assert!(rest.iter().any(|l| l.contains("cancelled while waiting for another kiln")), "{rest:?}");
    // And the one that is not called off goes on when its turn comes.
    let mut child = list().spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    drop(lock);
    assert_eq!(ended(&mut child), Some(0));
}
