//! Builds at the same time, in one home: two recipes, and one recipe twice.
//!
//! On the tiny base in the appliance; `cargo xtask trials together` has it on a booted one.

use crate::build::{Bench, wait_for_no_machine};
use crate::support::machines;
use crate::tiny;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Names another base than the tiny one: one that is booted.
const BASE: &str = "KILN_TEST_TOGETHER";

/// How long all builds have to be in provision together, in ms.
const TOGETHER: i64 = 20_000;

const DOCUMENT: &str = "name: together
schemaVersion: 1.0
parameters:
  - Word: {type: string}
phases:
  - name: build
    steps:
      - name: Say
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - for i in 1 2 3 4 5 6 7 8 9; do echo {{ Word }} $i; sleep PAUSE; done
            - echo {{ Word }} > /etc/word
";

/// One build: its recipe, what it says, and what it told.
struct Build {
    recipe: &'static str,
    word: &'static str,
    events: Vec<Value>,
}

impl Build {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |e| e["type"] == kind)
    }

    fn started(&self, field: &str) -> &str {
        self.of("buildStarted").next().unwrap()[field].as_str().unwrap()
    }

    /// When it was in provision.
    fn provision(&self) -> (i64, i64) {
        let at = |kind: &str| {
            let event = self.of(kind).find(|e| e["stage"] == "provision");
            event.unwrap_or_else(|| panic!("{} has no {kind}", self.word))["at"].as_i64().unwrap()
        };
        (at("stageStarted"), at("stageEnded"))
    }
}

/// What a machine was started with, and the sockets and pipes that it holds.
struct Seen {
    command: String,
    links: BTreeSet<String>,
}

/// The machines that run components in this home, by their name.
fn look(home: &str) -> BTreeMap<String, Seen> {
    let mut found = BTreeMap::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()) {
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let Some((_, rest)) = command.split_once("-name ") else { continue };
        let name = rest.split(' ').next().unwrap_or_default().to_owned();
        // What the test inherited from outside, everything below it has.
        let links = &links(&process) - &links(Path::new("/proc/self"));
        if command.contains(home) && name != "kiln-appliance" {
            found.insert(name, Seen { command, links });
        }
    }
    found
}

/// The sockets and pipes that a process holds.
fn links(process: &Path) -> BTreeSet<String> {
    let fds = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_str()?.to_owned()))
        .filter(|link| link.starts_with("socket:") || link.starts_with("pipe:"))
        .collect()
}

#[test]
fn builds_at_the_same_time_stay_apart() {
    let base = std::env::var(BASE).unwrap_or_else(|_| tiny::NAME.into());
    let bench = match base.as_str() {
        tiny::NAME => {
            let bench = Bench::without_bases("together");
            tiny::import(&bench);
            bench
        }
        _ => Bench::new("together"),
    };
    // Booted guests come up less evenly than appliances.
    let (lane, pause) = match base.as_str() {
        tiny::NAME => ("run: appliance, memory: 128", "4"),
        _ => ("memory: 512", "15"),
    };
    bench.write("together.yml", &DOCUMENT.replace("PAUSE", pause));
    for name in ["one", "two"] {
        let text = format!(
            "name: together-{name}\nversion: 1.0.0\nparentImage: {base}\ncomponents: [./together.yml]\n\
             imageTestsConfiguration: {{imageTestsEnabled: false}}\nkiln: {{network: none, {lane}}}\n"
        );
        bench.write(&format!("{name}.yaml"), &text);
    }
    let builds = [("one.yaml", "apple"), ("one.yaml", "pear"), ("two.yaml", "plum")];
    let running: Vec<_> = builds
        .iter()
        .map(|(recipe, word)| {
            let set = format!("Word={word}");
            let arguments = ["--progress", "json", "build", "--rebuild", recipe, "--set", &set];
            let child = bench.kiln(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::spawn(move || child.wait_with_output().unwrap())
        })
        .collect();
    let home = bench.folder.join("home").to_str().unwrap().to_owned();
    let seen = all_machines(&home, builds.len());

    let mut done = Vec::new();
    for (thread, (recipe, word)) in running.into_iter().zip(builds) {
        let output = thread.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{word}: {said}");
        let events = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        done.push(Build { recipe, word, events });
    }
    let begun = done.iter().map(|b| b.provision().0).max().unwrap();
    let ended = done.iter().map(|b| b.provision().1).min().unwrap();
    println!("together in provision for {} ms", ended - begun);
    assert!(ended - begun >= TOGETHER);

    let images: BTreeSet<&str> = done.iter().map(|b| b.started("image")).collect();
    let wanted = ["together-one/1.0.0/1", "together-one/1.0.0/2", "together-two/1.0.0/1"];
    assert_eq!(images, wanted.into());
    done.iter().for_each(|build| stayed_apart(&bench, build, &seen));
    let folders: BTreeSet<&str> = done.iter().map(|b| b.started("folder")).collect();
    assert_eq!(folders.len(), builds.len());
    assert!(seen.values().all(|s| s.links.len() >= 3), "QMP, the agent's port and the console at least");
    let links: usize = seen.values().map(|s| s.links.len()).sum();
    let different: BTreeSet<&String> = seen.values().flat_map(|s| &s.links).collect();
    assert_eq!(different.len(), links, "machines share a socket or pipe");
    wait_for_no_machine("together");
}

/// Waits until the machines of all builds are there at the same time.
fn all_machines(home: &str, count: usize) -> BTreeMap<String, Seen> {
    let begun = Instant::now();
    loop {
        let seen = look(home);
        if seen.len() == count {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "{count} machines at a time: {:?}", seen.keys());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A build's machine, events, logs and image are its own.
fn stayed_apart(bench: &Bench, build: &Build, seen: &BTreeMap<String, Seen>) {
    let (image, folder) = (build.started("image"), build.started("folder"));
    let id = PathBuf::from(folder).file_name().unwrap().to_str().unwrap().to_owned();
    assert!(image.starts_with(&format!("together-{}/", build.recipe.trim_end_matches(".yaml"))));
    assert!(build.events.iter().all(|e| e["build"] == id.as_str()), "events of {id} and others are mixed");
    assert_eq!(bench.json(&["image", "show", image])["status"], "AVAILABLE");

    let command = &seen.get(&id).unwrap_or_else(|| panic!("no machine is named {id}")).command;
    let builds = bench.folder.join("home/builds");
    let others = command.matches(builds.to_str().unwrap()).count();
    assert_eq!(others, command.matches(folder).count(), "{id} has files of another build: {command}");

    let lines: Vec<String> = (1..10).map(|n| format!("{} {n}", build.word)).collect();
    let told: Vec<&str> = build.of("stepOutput").map(|e| e["line"].as_str().unwrap()).collect();
    assert_eq!(told, lines, "{id}");
    let log = bench.json(&["log", &id, "--step", "Say"]);
    assert_eq!(log["steps"][0]["text"], lines.join("\n") + "\n");
    assert!(machines(&id).is_empty(), "{id} still runs");
}
