//! `kiln run`: a guest of one's own, across its reboots, until it is told to end.

use crate::build::{Bench, wait_for_no_machine};
use crate::support::machines;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Its guest reboots itself, once, when its boot has long been over.
const DOCUMENT: &str = r#"name: restless
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - name: Unit
        action: CreateFile
        inputs:
          - path: /etc/systemd/system/restless.service
            content: |
              [Unit]
              ConditionPathExists=!/var/lib/restless
              [Service]
              ExecStart=/bin/sh -c 'systemctl is-system-running --wait; sleep 20; touch /var/lib/restless; exec systemctl reboot'
              [Install]
              WantedBy=multi-user.target
      - name: Enable
        action: CreateSymlink
        inputs:
          - path: /etc/systemd/system/multi-user.target.wants/restless.service
            target: /etc/systemd/system/restless.service
"#;

const RECIPE: &str = "name: restless
version: 1.0.0
parentImage: debian-12-minimal
components: [./restless.yml]
imageTestsConfiguration: {imageTestsEnabled: false}
kiln: {run: appliance, memory: 512}
";

fn start(bench: &Bench, more: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = bench
        .kiln(&["--format", "json", "run", "restless", "--network", "none"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

fn until(lines: &mut impl BufRead, what: &str) {
    let mut seen = String::new();
    while !seen.lines().last().is_some_and(|line| line.contains(what)) {
        assert!(lines.read_line(&mut seen).unwrap() > 0, "`{what}` was not said:\n{seen}");
    }
}

fn interrupt(child: &mut Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_guest_runs_on_over_its_reboots_until_it_is_told_to_end() {
    let bench = Bench::new("restless");
    bench.write("restless.yml", DOCUMENT);
    bench.write("recipe.yaml", RECIPE);
    let built = bench.run(&["build", "recipe.yaml"]);
    assert!(built.status.success(), "{built:?}");
    let runs = || std::fs::read_dir(bench.folder.join("home/runs")).unwrap().flatten().count();

    // In the middle of a boot there is nothing to end in order.
    let (mut child, _stderr) = start(&bench, &[]);
    let begun = Instant::now();
    while machines("restless-1.0.0-1-1").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no machine was started");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(interrupt(&mut child), Some(130));
    wait_for_no_machine("restless");
    assert_eq!(runs(), 0);

    // With --keep an end that is not in order would be an error.
    let (mut child, mut stderr) = start(&bench, &["--keep"]);
    until(&mut stderr, "the guest reboots");
    until(&mut stderr, "the guest is up again");
    // Somebody has to read on.
    let reading = std::thread::spawn(move || stderr.read_to_string(&mut String::new()));
    let folder = bench.folder.join("home/runs/restless-1.0.0-1-1");
    assert!(folder.join("machine").is_dir());
    assert_eq!(interrupt(&mut child), Some(0));
    reading.join().unwrap().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let up: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&up["image"], &up["state"]), (&"restless/1.0.0/1".into(), &"up".into()), "{said}");
    wait_for_no_machine("restless");
    assert!(folder.join("overlay.qcow2").is_file());
}
