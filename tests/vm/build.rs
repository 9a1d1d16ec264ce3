//! The engine with real guests, through the command line as a user has it.

use crate::boot::home;
use crate::residue::{Eavesdropper, Sealed, Wanted};
use crate::support::{Folder, machines, patience};
use crate::tiny;
use kiln::appliance::Kit;
use kiln::model::Architecture;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BASE: &str = "debian-12-minimal";

/// A home folder of its own, with the bases and the appliance's kit linked into it.
pub struct Bench {
    pub folder: Folder,
}

impl Bench {
    pub fn new(test: &str) -> Bench {
        let bench = Bench::without_bases(test);
        let own = bench.folder.join("home");
        for base in std::fs::read_dir(home().join("bases")).unwrap().flatten() {
            if base.file_name().to_string_lossy().starts_with(BASE) {
                link_tree(&base.path(), &own.join("bases").join(base.file_name()));
            }
        }
        bench
    }

    pub fn without_bases(test: &str) -> Bench {
        let folder = Folder::new(test);
        link_tree(&home().join("appliance"), &folder.join("home/appliance"));
        Bench { folder }
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn kiln(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command
            .arg("--home")
            .arg(self.folder.join("home"))
            .args(["--accel", crate::support::accelerator().as_str()])
            .args(arguments)
            .current_dir(&*self.folder);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.kiln(arguments).output().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--format", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Starts a build and returns once a step of it is at work.
    fn build_until_step(&self, recipe: &str) -> Child {
        let mut child = self
            .kiln(&["--progress", "json", "build", recipe])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let begun = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            event["type"] == "stepStarted"
        };
        assert!(lines.any(|l| begun(&l.unwrap())), "no step was reached");
        // Somebody has to read on, or the build stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        child
    }

    pub fn builds_folder(&self, build: &str) -> PathBuf {
        self.folder.join("home/builds").join(build)
    }
}

fn link_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => link_tree(&entry.path(), &target),
            false => std::fs::hard_link(entry.path(), target).unwrap(),
        }
    }
}

pub fn wait_for_no_machine(name: &str) {
    let begun = Instant::now();
    while !machines(name).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a machine of {name} outlived its kiln");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A base of a few MiB, and a recipe of one document that runs on it without a boot.
fn unbooted(test: &str, name: &str, document: &str) -> Bench {
    let bench = Bench::without_bases(test);
    tiny::import(&bench);
    bench.write("work.yml", document);
    let text = format!(
        "name: {name}\nversion: 1.0.0\nparentImage: {}\ncomponents: [./work.yml]\n\
         kiln: {{network: none, run: appliance, memory: 128, exports: [{name}.raw]}}\n",
        tiny::NAME
    );
    bench.write("recipe.yaml", &text);
    bench
}

fn recipe(name: &str, document: &str) -> String {
    format!(
        "name: {name}\nversion: 1.0.0\nparentImage: {BASE}\ncomponents: [./{document}]\n\
         kiln: {{network: none, memory: 512, exports: [{name}.raw]}}\n"
    )
}

const DOCUMENT: &str = "name: reboots
schemaVersion: 1.0
parameters:
  - Word: {type: string, default: hello}
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'echo {{ Word }} > /etc/word']}}
      - {name: Again, action: Reboot, inputs: {delaySeconds: 0}}
      - {name: Still, action: ExecuteBash, inputs: {commands: [set -e, 'grep {{ Word }} /etc/word', 'cat /proc/sys/kernel/random/boot_id > /run/boot']}}
  - name: validate
    steps:
      - {name: Check, action: ExecuteBash, inputs: {commands: [set -e, 'test -s /etc/word']}}
  - name: test
    steps:
      - {name: Look, action: ExecuteBash, inputs: {commands: [set -e, 'grep {{ Word }} /etc/word']}}
";

/// Runs in the guest that the one before it has left, though a layer was kept in between.
const RUNS_ON: &str = "name: on
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Same, action: ExecuteBash, inputs: {commands: [set -e, 'cmp /run/boot /proc/sys/kernel/random/boot_id']}}
      - {name: Tray, action: ExecuteBash, inputs: {commands: [set -e, 'disk=/dev/disk/by-id/virtio-kiln-tray', 'test -b $disk', '! dd if=/dev/zero of=$disk bs=512 count=1', 'last=$(ls -d /sys/block/vd* | tail -n 1)', 'grep -q kiln-tray $last/serial', 'grep -q kiln-agent /sys/block/vdb/serial']}}
";

/// Runs where nothing is booted, before and after what runs in the guest.
const UNBOOTED: &str = "name: NAME
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - name: NAME
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - test ! -e /run/systemd/system
            - systemctl enable fstrim.timer
            - systemctl start fstrim.timer
            - case NAME in late) test -s /etc/word;; early) test ! -e /etc/word;; esac
            - echo NAME >> /etc/unbooted
  - name: test
    steps:
      - {name: Both, action: ExecuteBash, inputs: {commands: [set -e, 'test $(grep -c . /etc/unbooted) = 2', 'systemctl is-active fstrim.timer']}}
";

fn steps_of(plan: &Value) -> Vec<String> {
    let stages = plan["stages"].as_array().unwrap();
    let steps = stages.iter().flat_map(|s| s["steps"].as_array().unwrap());
    steps.map(place).collect()
}

fn place(step: &Value) -> String {
    let text = |name: &str| step[name].as_str().unwrap().to_owned();
    format!("{} {} {} {}", text("component"), text("phase"), text("step"), text("action"))
}

/// In the appliance, in a guest that has rebooted, and in the appliance again.
fn brings(name: &str) -> String {
    format!("files: [{{source: ./{name}, destination: /etc/brought-{name}}}]")
}

/// Of the build above nothing is on the image's disk but what its component wrote.
fn no_residue(bench: &Bench, disk: &Path, nonces: BTreeSet<String>) {
    // The guest twice, and an appliance of each kind: to prepare, for components. The later ones wake, show
    // the nonce of the boot that is in their memory, and get their own over the link.
    assert!(nonces.len() >= 4, "{nonces:?}");
    let mut unwanted = Wanted::agent();
    nonces.iter().for_each(|n| unwanted.add_nonce(n));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = bench.folder.join("home/appliance");
        let kit = Kit::ensure(&store, Architecture::HOST, &patience(300)).await.unwrap();
        let own = [
            ("/etc/brought-early", "new file of 17 bytes, 644 0:0", "the component `early` brought it"),
            ("/etc/brought-late", "new file of 16 bytes, 644 0:0", "the component `late` brought it"),
            ("/etc/brought-on", "new file of 14 bytes, 644 0:0", "the component `on` brought it"),
            ("/etc/unbooted", "new file of 11 bytes, 644 0:0", "the components without a boot wrote it"),
            ("/etc/word", "new file of 17 bytes, 644 0:0", "the step `Write` wrote it"),
        ];
        let own_content = "stone-upon-stone";
        let sealed = Sealed { kit: &kit, base: BASE, disk, own: &own, own_content, unwanted: &unwanted };
        sealed.check(&bench.folder).await;
    });
}

#[test]
fn a_recipe_goes_all_the_way_and_does_what_its_plan_says() {
    let bench = Bench::new("all-the-way");
    bench.write("reboots.yml", DOCUMENT);
    for name in ["early", "late"] {
        bench.write(&format!("{name}.yml"), &UNBOOTED.replace("NAME", name));
    }
    let lane = |name: &str| format!("{{component: ./{name}.yml, run: appliance, {}}}", brings(name));
    bench.write("on.yml", RUNS_ON);
    let on = format!("{{component: ./on.yml, {}}}", brings("on"));
    for name in ["early", "on", "late"] {
        let path = bench.write(name, &format!("brought by {name}\n"));
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }
    let components = format!("[{}, ./reboots.yml, {on}, {}]", lane("early"), lane("late"));
    bench.write("recipe.yaml", &recipe("waystone", "reboots.yml").replace("[./reboots.yml]", &components));
    let plan = bench.json(&["plan", "recipe.yaml"]);

    let eavesdropper = Eavesdropper::start(&bench.folder);
    let build = ["--progress", "json", "build", "recipe.yaml", "--set", "Word=stone-upon-stone"];
    let output = bench.run(&build);
    let nonces = eavesdropper.end();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let started = events.iter().filter(|e| e["type"] == "stepStarted");
    assert_eq!(started.map(place).collect::<Vec<_>>(), steps_of(&plan));
    let rebooted = events.iter().any(|e| e["type"] == "note" && e["text"] == "the guest is back");
    assert!(rebooted, "{said}");

    let image = bench.json(&["image", "show", "waystone"]);
    assert_eq!(image["status"], "AVAILABLE");
    assert!(bench.folder.join("waystone.raw").metadata().unwrap().len() >= 1 << 30);
    let log = bench.json(&["log", "waystone", "--step", "Look"]);
    assert_eq!(log["steps"][0]["text"], "stone-upon-stone\n");
    assert!(!bench.json(&["console", "waystone"])["machines"].as_array().unwrap().is_empty());
    let folder = bench.builds_folder("waystone-1.0.0-1");
    assert!(folder.join("report.html").is_file());
    for left in [
        "overlay.qcow2",
        "overlay-1.qcow2",
        "overlay-3.qcow2",
        "test-bios.qcow2",
        "machine/agent.disk",
        "machine/tray.disk",
        "machine/initrd",
        "machine/kernel",
    ] {
        assert!(!folder.join(left).exists(), "{left} is left");
    }
    assert!(machines("waystone").is_empty());

    no_residue(&bench, Path::new(image["disk"]["path"].as_str().unwrap()), nonces);

    let begun = Instant::now();
    let again = bench.json(&["build", "recipe.yaml", "--set", "Word=stone-upon-stone"]);
    assert_eq!((&again["unchanged"], &again["image"]), (&true.into(), &"waystone/1.0.0/1".into()));
    assert!(begun.elapsed() < Duration::from_secs(10), "an unchanged build took {:?}", begun.elapsed());

    let removed = bench.json(&["image", "remove", "waystone"]);
    assert!(removed["freedBytes"].as_u64().unwrap() > 0);
    assert!(!Path::new(image["disk"]["path"].as_str().unwrap()).exists(), "only its layers stay");
}

const OH_DEAR: &str = "name: work
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Fine, action: ExecuteBash, inputs: {commands: [set -e]}}
  - name: validate
    steps:
      - {name: Check, action: ExecuteBash, inputs: {commands: ['echo oh dear >&2; exit 7']}}
";

#[test]
fn a_failing_step_says_where_and_leaves_no_disk() {
    let bench = unbooted("failing", "stumble", OH_DEAR);
    let output = bench.run(&["--format", "json", "--progress", "none", "build", "recipe.yaml"]);
    assert_eq!(output.status.code(), Some(3), "a validate phase failed");
    let error = serde_json::from_slice::<Value>(&output.stdout).unwrap()["error"].clone();
    let want = [
        ("stage", "provision"),
        ("component", "work"),
        ("phase", "validate"),
        ("step", "Check"),
        ("action", "ExecuteBash"),
    ];
    for (field, value) in want {
        assert_eq!(error[field], value, "{error:#}");
    }
    assert_eq!((&error["stepExitCode"], &error["lastLines"][0]), (&7.into(), &"oh dear".into()));
    assert_eq!((&error["position"]["file"], &error["position"]["line"]), (&"work.yml".into(), &9.into()));
    let image = bench.json(&["image", "show", "stumble"]);
    assert_eq!(image["status"], "FAILED");
    assert!(!bench.builds_folder("stumble-1.0.0-1").join("overlay.qcow2").exists());
    assert!(!bench.folder.join("stumble.raw").exists());
}

const SLEEPS: &str = "name: work
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Sleep, action: ExecuteBash, inputs: {commands: [sleep 1000]}}
";

#[test]
fn an_interrupt_cancels_and_a_kill_is_put_in_order_by_the_next_kiln() {
    let bench = unbooted("cut-short", "cut-short", SLEEPS);
    let recipe = std::fs::read_to_string(bench.folder.join("recipe.yaml")).unwrap();
    let component = "[{component: ./work.yml, files: [{source: ./work.yml, destination: /opt/}]}]";
    bench.write("recipe.yaml", &recipe.replace("[./work.yml]", component));
    let files = ["overlay.qcow2", "machine/tray.disk"];
    let present = |build: &str| files.map(|name| bench.builds_folder(build).join(name).exists());
    let mut child = bench.build_until_step("recipe.yaml");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_for_no_machine("cut-short");
    assert_eq!(bench.json(&["image", "show", "cut-short/1.0.0/1"])["status"], "CANCELLED");
    assert_eq!(present("cut-short-1.0.0-1"), [false; 2]);

    let mut child = bench.build_until_step("recipe.yaml");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_no_machine("cut-short");
    assert_eq!(present("cut-short-1.0.0-2"), [true; 2]);
    let image = bench.json(&["image", "show", "cut-short/1.0.0/2"]);
    assert_eq!(image["status"], "FAILED");
    assert!(image["reason"].as_str().unwrap().contains("running provision"), "{image}");
    assert_eq!(present("cut-short-1.0.0-2"), [false; 2]);
}

/// Types at a terminal of its own: the answer to each prompt, when it shows.
pub fn at_a_terminal(mut command: Command, typed: &[(&str, &str)]) -> (String, Option<i32>) {
    use std::io::{Read, Write};
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let folder = command.get_current_dir().unwrap().to_owned();
    command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]).current_dir(folder);
    let mut child = command.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut unanswered, mut typed) = (Vec::new(), 0, typed.iter());
    let mut next = typed.next();
    let mut buffer = [0; 4096];
    loop {
        match screen.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
        if let Some((prompt, answer)) = next
            && String::from_utf8_lossy(&seen[unanswered..]).contains(prompt)
        {
            unanswered = seen.len();
            keys.write_all(answer.as_bytes()).unwrap();
            next = typed.next();
        }
    }
    drop(keys);
    (String::from_utf8_lossy(&seen).into_owned(), child.wait().unwrap().code())
}

#[test]
fn a_failed_step_opens_a_shell_and_the_kept_disk_another() {
    let bench = Bench::new("shell");
    bench.write("recipe.yaml", &recipe("shelled", "fails.yml"));
    bench.write(
        "fails.yml",
        "name: fails\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
         - {name: Fail, action: ExecuteBash, inputs: {commands: ['echo of the step > /etc/made', exit 9]}}\n",
    );
    // Without a terminal there is nothing to open a shell at: said before anything is begun.
    let refused = bench.run(&["build", "recipe.yaml", "--on-error", "shell"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!bench.folder.join("home/builds").join("shelled-1.0.0-1").exists());

    let build = bench.kiln(&["--progress", "plain", "build", "recipe.yaml", "--on-error", "shell"]);
    let typed = [("root@", "cat /etc/made; tty; echo $((6 * 7)); exit 5\r")];
    let (screen, code) = at_a_terminal(build, &typed);
    assert_eq!(code, Some(1), "{screen}");
    for said in ["of the step", "/dev/pts/0", "42\r", "is FAILED after"] {
        assert!(screen.contains(said), "{said}: {screen}");
    }
    assert!(!bench.builds_folder("shelled-1.0.0-1").join("overlay.qcow2").exists());
    wait_for_no_machine("shelled-1.0.0-1");

    // Nothing was kept of that one, and kiln says how something would be.
    let none = bench.run(&["shell", "shelled"]);
    assert_eq!(none.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--on-error keep"), "{none:?}");
    // How it came about does not matter to a disk that is kept.
    let text = recipe("shelled", "fails.yml").replace("kiln: {", "kiln: {run: appliance, ");
    bench.write("recipe.yaml", &text);
    let kept = bench.run(&["build", "recipe.yaml", "--on-error", "keep"]);
    assert_eq!(kept.status.code(), Some(1), "{kept:?}");
    // It is found again, and it is known what it takes.
    let shown = bench.json(&["image", "show", "shelled/1.0.0/2"]);
    let disk = &shown["keptDisks"][0];
    assert_eq!(disk["path"], bench.builds_folder("shelled-1.0.0-2").join("overlay.qcow2").to_str().unwrap());
    let list = String::from_utf8(bench.run(&["image", "list"]).stdout).unwrap();
    let all: Vec<bool> = list.lines().map(|l| l.contains("  disk kept: ")).collect();
    assert_eq!(all, [false, true], "{list}");
    let mut shell = bench.kiln(&["--progress", "plain", "shell", "shelled", "--network", "none", "--"]);
    shell.args(["sh", "-c", "cat - /etc/made; echo aside >&2; exit 7"]);
    let mut child =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"typed by nobody\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "typed by nobody\nof the step\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("image shelled/1.0.0/2 is FAILED, not AVAILABLE"), "{said}");
    assert!(said.ends_with("aside\n"), "{said}");
    assert_eq!(std::fs::read_dir(bench.folder.join("home/runs")).unwrap().count(), 0, "nothing stays");
    let removed = bench.json(&["image", "remove", "shelled/1.0.0/2"]);
    assert!(
        removed["freedBytes"].as_u64() > Some(1 << 20) && disk["allocatedBytes"].as_u64() > Some(1 << 20)
    );
}
