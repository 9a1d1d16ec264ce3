//! Layers: builds that start from the disk as it was after a component.

use crate::build::{Bench, at_a_terminal, wait_for_no_machine};
use crate::disks::tool;
use crate::support::machines;
use crate::tiny;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

const COMPONENTS: [&str; 3] = ["one", "two", "three"];

/// Writes what it is into a list, and finds there what came before it.
fn document(name: &str, extra: &str) -> String {
    let before = COMPONENTS.iter().take_while(|n| **n != name).fold(String::new(), |t, n| t + n + " ");
    format!(
        "name: {name}\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
         - name: Write\n        action: ExecuteBash\n        inputs:\n          commands:\n            \
         - set -e\n            - test \"$(cat /etc/order 2>/dev/null)\" = \"{before}\"\n            \
         - printf '{name} ' >> /etc/order\n            - {extra}\n"
    )
}

fn bench(test: &str) -> Bench {
    let bench = Bench::without_bases(test);
    tiny::import(&bench);
    COMPONENTS.iter().for_each(|name| drop(bench.write(&format!("{name}.yml"), &document(name, "true"))));
    let text = format!(
        "name: {test}\nversion: 1.0.0\nparentImage: {}\ncomponents: [./one.yml, ./two.yml, ./three.yml]\n\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\n\
         kiln: {{network: none, run: appliance, memory: 128}}\n",
        tiny::NAME
    );
    bench.write("recipe.yaml", &text);
    bench
}

/// The exit code, and what the build told.
fn events(bench: &Bench, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = bench.run(&[&["--progress", "json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let events = said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    (output.status.code().unwrap(), events)
}

fn steps(events: &[Value]) -> Vec<&str> {
    let started = events.iter().filter(|e| e["type"] == "stepStarted");
    started.map(|e| e["component"].as_str().unwrap()).collect()
}

fn of_type<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["type"] == kind).collect()
}

/// Every disk of the store is sound and stands on a neighbour, named without a path.
fn check_store(bench: &Bench) {
    for entry in std::fs::read_dir(bench.folder.join("home/artifacts")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "qcow2") {
            tool("qemu-img", &["check", "-q", path.to_str().unwrap()], "");
            let said =
                std::process::Command::new("qemu-img").arg("info").arg("--output=json").arg(&path).output();
            let info: Value = serde_json::from_slice(&said.unwrap().stdout).unwrap();
            let below = info["backing-filename"].as_str();
            assert!(below.is_none_or(|b| !b.contains('/') && path.with_file_name(b).is_file()), "{info}");
        }
    }
}

#[test]
fn what_follows_an_edit_runs_and_nothing_else() {
    let bench = bench("edits");
    let (code, first) = events(&bench, &["build", "recipe.yaml"]);
    assert_eq!((code, steps(&first)), (0, COMPONENTS.to_vec()), "{first:?}");
    let kept = of_type(&first, "layer");
    assert_eq!(kept.iter().map(|e| e["component"].as_str().unwrap()).collect::<Vec<_>>(), COMPONENTS);

    // Nothing has changed: no build begins, no machine starts.
    assert_eq!(events(&bench, &["build", "recipe.yaml"]), (0, Vec::new()));

    bench.write("three.yml", &document("three", "echo edited > /etc/edited"));
    let plan = bench.json(&["plan", "recipe.yaml"]);
    let layers: Vec<bool> =
        plan["components"].as_array().unwrap().iter().map(|c| c["layer"].as_bool().unwrap()).collect();
    assert_eq!(layers, [true, true, false]);
    assert_eq!(plan["components"][2]["why"], "three.yml:6 step build/Write has changed");
    let (code, locked) = events(&bench, &["build", "recipe.yaml", "--locked"]);
    assert_eq!((code, locked.len()), (6, 0));
    let (code, second) = events(&bench, &["build", "recipe.yaml"]);
    assert_eq!((code, steps(&second)), (0, vec!["three"]), "{second:?}");
    check_store(&bench);

    // All components are in a layer: the disk is sealed anew, and nothing else is done.
    let (code, third) = events(&bench, &["build", "recipe.yaml", "--rebuild", "--locked"]);
    assert_eq!((code, steps(&third)), (0, Vec::new()));
    let (code, fourth) = events(&bench, &["build", "recipe.yaml", "--no-cache-from", "two"]);
    assert_eq!((code, steps(&fourth)), (0, vec!["two", "three"]));
    let (code, fifth) = events(&bench, &["build", "recipe.yaml", "--no-cache"]);
    assert_eq!((code, steps(&fifth)), (0, COMPONENTS.to_vec()));
    check_store(&bench);
    assert!(machines(bench.folder.to_str().unwrap()).is_empty());

    let unknown = bench.run(&["shell", "edits/1.0.0/1", "--after", "four"]);
    assert_eq!(unknown.status.code(), Some(5));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("no component `four`") && said.contains("one, two, three"), "{said}");
}

/// Starts a command and returns once a step of the component is at work; somebody reads on.
fn until_step(bench: &Bench, arguments: &[&str], component: &str) -> std::process::Child {
    let mut child = bench
        .kiln(&[&["--progress", "json"], arguments].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["type"] == "stepStarted" && event["component"] == component
    };
    assert!(lines.any(|l| begun(&l.unwrap())), "{component} was not reached");
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn pid_of_machine(home: &Path) -> i32 {
    let home = home.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = entries.filter(|e| {
        let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0').next().is_some_and(|p| p.contains("qemu-system")) && line.contains(home)
    });
    found.next().expect("a machine runs").file_name().to_str().unwrap().parse().unwrap()
}

#[test]
fn a_build_that_failed_goes_on_where_it_was() {
    let bench = bench("retries");
    // What a failed attempt had written would be in the way of the next.
    let slow = "test ! -e /etc/dirty && touch /etc/dirty && sleep 3";
    bench.write("two.yml", &document("two", slow));
    let recipe = std::fs::read_to_string(bench.folder.join("recipe.yaml")).unwrap();
    bench.write("recipe.yaml", &recipe.replace("memory: 128", "memory: 128, exports: [out/disk.raw]"));
    std::fs::create_dir(bench.folder.join("out")).unwrap();

    let mut build = until_step(&bench, &["build", "recipe.yaml"], "two");
    let pid = rustix::process::Pid::from_raw(pid_of_machine(&bench.folder.join("home"))).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(build.wait().unwrap().code(), Some(7), "QEMU was killed");
    wait_for_no_machine("retries");
    assert_eq!(bench.json(&["image", "show", "retries/1.0.0/1"])["status"], "FAILED");

    // From the layer before it, in the same number; then the folder of the export is gone.
    let mut retry = until_step(&bench, &["retry", "retries"], "two");
    std::fs::remove_dir(bench.folder.join("out")).unwrap();
    std::fs::write(bench.folder.join("out"), "no folder").unwrap();
    let code = retry.wait().unwrap().code();
    assert_ne!(code, Some(0));
    let log = std::fs::read_to_string(bench.builds_folder("retries-1.0.0-1-retry-1").join("events.ndjson"))
        .unwrap();
    let told: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(steps(&told), ["two", "three"]);
    let image = bench.json(&["image", "show", "retries/1.0.0/1"]);
    assert_eq!(image["status"], "FAILED");
    assert!(image["reason"].as_str().unwrap().starts_with("stage distribute"), "{image}");

    // The disk was captured: only what failed is done again.
    std::fs::remove_file(bench.folder.join("out")).unwrap();
    std::fs::create_dir(bench.folder.join("out")).unwrap();
    let (code, last) = events(&bench, &["retry", "retries"]);
    assert_eq!(code, 0, "{last:?}");
    let stages: Vec<&str> =
        of_type(&last, "stageStarted").iter().map(|e| e["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["distribute"]);
    assert!(bench.folder.join("out/disk.raw").is_file());
    let images = bench.json(&["image", "list"]);
    assert_eq!(images["images"].as_array().unwrap().len(), 1, "{images}");
    assert_eq!(images["images"][0]["status"], "AVAILABLE");
    check_store(&bench);

    // Nothing is wrong with it any more, and another recipe is another build.
    assert_eq!(bench.run(&["retry", "retries"]).status.code(), Some(6));
}

#[test]
fn a_build_stops_where_it_is_told_to() {
    let bench = bench("stops");
    assert_eq!(events(&bench, &["build", "recipe.yaml"]).0, 0);
    let unknown = bench.run(&["plan", "recipe.yaml", "--break", "after:two/Writ"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("two/Write"), "{unknown:?}");
    // Without a terminal there is nobody to stop for.
    assert_eq!(bench.run(&["build", "recipe.yaml", "--break", "after:two"]).status.code(), Some(2));

    let build = bench.kiln(&[
        "--progress",
        "plain",
        "build",
        "recipe.yaml",
        "--break",
        "after:two",
        "--break",
        "before:two/Write",
    ]);
    // The state after the first comes from its layer; the second's step has not run, then it has.
    let typed =
        [("# ", "echo first: $(cat /etc/order); exit\r"), ("# ", "echo second: $(cat /etc/order); exit\r")];
    let (screen, code) = at_a_terminal(build, &typed);
    assert_eq!(code, Some(0), "{screen}");
    for said in
        ["a shell in the guest before two/Write", "first: one\r", "second: one two\r", "no layers are kept"]
    {
        assert!(screen.contains(said), "{said}: {screen}");
    }
    assert!(!screen.contains("layer kept after"), "{screen}");
    // What hands may have been in is not what the recipe makes.
    let (code, again) = events(&bench, &["build", "recipe.yaml"]);
    assert_eq!(code, 0);
    assert!(again.is_empty(), "the first image is still there: {again:?}");
    bench.json(&["image", "remove", "stops/1.0.0/1"]);
    let (code, again) = events(&bench, &["build", "recipe.yaml"]);
    assert_eq!((code, steps(&again)), (0, Vec::new()), "from the layers of the first");
    assert!(!again.is_empty());
}
