//! Components in the appliance: on the mounted disk, without a boot.

use crate::build::{Bench, wait_for_no_machine};
use crate::support::{accelerator, machines, patience};
use crate::tiny;
use kiln::appliance::{Appliance, Kit, read_listing};
use kiln::catalog::artifact::digest_bytes;
use kiln::machine::Disk;
use kiln::model::{Architecture, DiskFormat};
use kiln_protocol::message::EntryKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn bench(test: &str) -> (Bench, std::path::PathBuf) {
    let bench = Bench::without_bases(test);
    let tree = tiny::import(&bench);
    (bench, tree)
}

fn recipe(name: &str, document: &str) -> String {
    format!(
        "name: {name}\nversion: 1.0.0\nparentImage: {}\ncomponents: [./{document}]\n\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\n\
         kiln: {{run: appliance, memory: 128}}\n",
        tiny::NAME
    )
}

fn steps(steps: &str) -> String {
    format!("name: work\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n{steps}")
}

fn build(bench: &Bench, recipe: &str) -> Value {
    let output = bench.run(&["--format", "json", "--progress", "none", "build", recipe]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// What an image's file is: all but its times.
#[derive(Debug, PartialEq)]
enum Kind {
    Folder(u32),
    File(u32, String),
    Link(String),
    Other,
}

/// The tree of the host, as the image ought to have it.
fn on_host(folder: &Path, below: &str, all: &mut BTreeMap<String, Kind>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = format!("{below}/{}", entry.file_name().to_str().unwrap());
        let metadata = entry.path().symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let kind = match () {
            () if metadata.is_symlink() => {
                Kind::Link(std::fs::read_link(entry.path()).unwrap().to_str().unwrap().into())
            }
            () if metadata.is_dir() => Kind::Folder(mode),
            () => Kind::File(mode, digest_bytes(&std::fs::read(entry.path()).unwrap())),
        };
        if metadata.is_dir() {
            on_host(&entry.path(), &path, all);
        }
        all.insert(path, kind);
    }
}

async fn in_image(bench: &Bench, disk: &str) -> BTreeMap<String, Kind> {
    let p = patience(300);
    let store = bench.folder.join("home/appliance");
    let kit = Kit::ensure(&store, Architecture::HOST, &p).await.unwrap();
    let disk = Disk::new(disk, DiskFormat::Qcow2).read_only();
    let machine = bench.folder.join("machine");
    let appliance = Appliance::start(&kit, vec![disk], accelerator(), &machine, &p).await.unwrap();
    let listing = bench.folder.join("listing");
    appliance.list_tree(&listing, &p).await.unwrap();
    appliance.shutdown(&p).await.unwrap();
    let kind = |e: kiln_protocol::message::Entry| match e.kind {
        EntryKind::Folder => Kind::Folder(e.mode & 0o7777),
        EntryKind::File => Kind::File(e.mode & 0o7777, e.sha256.unwrap()),
        EntryKind::Symlink => Kind::Link(e.target.unwrap()),
        EntryKind::Other => Kind::Other,
    };
    read_listing(&listing).unwrap().into_iter().map(|e| (e.path.clone(), kind(e))).collect()
}

#[tokio::test]
async fn components_leave_what_they_made_and_nothing_else() {
    let (bench, tree) = bench("lane");
    let document = steps(
        "      - {name: Folder, action: CreateFolder, inputs: [{path: /opt/work}]}
      - {name: File, action: CreateFile, inputs: [{path: /opt/work/file, content: hello, permissions: '0640'}]}
      - {name: Loop, action: ExecuteBash, loop: {forEach: [a, b]}, inputs: {commands: [set -e, 'echo {{ loop.value }} > /opt/work/{{ loop.value }}']}}
      - name: Around
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - test \"$(hostname)\" = tiny-host
            - grep -q 10.0.2.3 /etc/resolv.conf
            - test \"$(cat <(echo fd))\" = fd
            - test -w /dev/shm -a -w /run/lock -a -c /dev/ptmx -a -d /proc/1 -a -d /sys/class
            - test \"$SYSTEMD_OFFLINE\" = 1
            - code=0; /usr/sbin/policy-rc.d nginx start || code=$?; test $code = 101
            - echo gone > /run/gone; echo gone > /tmp/gone
            - cd /opt; sleep 1000 >/dev/null 2>&1 & disown
  - name: validate
    steps:
      - {name: Check, action: ExecuteBash, inputs: {commands: [set -e, 'grep -q hello /opt/work/file']}}
",
    );
    bench.write("work.yml", &document);
    bench.write("recipe.yaml", &recipe("lane", "work.yml"));
    let plan = bench.json(&["plan", "recipe.yaml"]);
    assert_eq!(plan["components"][0]["run"], "appliance");
    let built = build(&bench, "recipe.yaml");
    assert_eq!(built["status"], "AVAILABLE", "{built:#}");
    assert!(machines(bench.folder.to_str().unwrap()).is_empty());

    // Its report can be found, copied, and tells the same.
    let report = bench.json(&["report", "lane"]);
    let text = std::fs::read_to_string(report["report"].as_str().unwrap()).unwrap();
    assert!(text.contains("<span class=\"verdict good\">AVAILABLE<"), "{text}");
    assert!(text.contains("work build/Around (ExecuteBash)") && !text.contains("class=\"bad\""), "{text}");
    let copied = bench.run(&["report", "lane/1.0.0/1", "--output", "copy.html"]);
    assert!(copied.status.success(), "{copied:?}");
    assert_eq!(std::fs::read_to_string(bench.folder.join("copy.html")).unwrap(), text);

    let mut wanted = BTreeMap::new();
    on_host(&tree, "", &mut wanted);
    let file = |mode, text: &str| Kind::File(mode, digest_bytes(text.as_bytes()));
    let made = [
        ("/opt", Kind::Folder(0o755)),
        ("/opt/work", Kind::Folder(0o755)),
        ("/opt/work/file", file(0o640, "hello")),
        ("/opt/work/a", file(0o644, "a\n")),
        ("/opt/work/b", file(0o644, "b\n")),
        ("/lost+found", Kind::Folder(0o700)),
    ];
    // Seal takes it out of every image.
    wanted.remove("/etc/hostname");
    wanted.extend(made.map(|(path, kind)| (path.to_owned(), kind)));
    let mut found = in_image(&bench, built["disk"]["path"].as_str().unwrap()).await;
    found.remove("/");
    for (path, kind) in &found {
        assert_eq!(Some(kind), wanted.get(path), "{path} is in the image");
    }
    let missing: Vec<&String> = wanted.keys().filter(|path| !found.contains_key(*path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_failure_there_says_what_one_in_a_guest_says() {
    let (bench, _) = bench("lane-failing");
    let document = steps(
        "      - {name: Fine, action: ExecuteBash, inputs: {commands: [set -e, 'echo fine']}}
      - name: Asks
        action: ExecuteBash
        inputs: {commands: ['echo oh dear >&2', 'exit $((200 - 6))']}
",
    );
    bench.write("work.yml", &document);
    bench.write("recipe.yaml", &recipe("lane-failing", "work.yml"));
    let error = build(&bench, "recipe.yaml")["error"].clone();
    let want = [
        ("stage", "provision"),
        ("component", "work"),
        ("phase", "build"),
        ("step", "Asks"),
        ("action", "ExecuteBash"),
    ];
    for (field, value) in want {
        assert_eq!(error[field], value, "{error:#}");
    }
    assert_eq!((&error["stepExitCode"], &error["lastLines"][0]), (&194.into(), &"oh dear".into()));
    assert_eq!((&error["position"]["file"], &error["position"]["line"]), (&"work.yml".into(), &7.into()));
    assert!(error["message"].as_str().unwrap().contains("run: booted"), "{error:#}");
    assert_eq!(bench.json(&["image", "show", "lane-failing"])["status"], "FAILED");
    assert_eq!(bench.json(&["log", "lane-failing", "--step", "Fine"])["steps"][0]["text"], "fine\n");
    assert!(!bench.builds_folder("lane-failing-1.0.0-1").join("overlay.qcow2").exists());
    wait_for_no_machine("lane-failing");
}

#[test]
fn what_cannot_be_unmounted_is_said() {
    let (bench, _) = bench("lane-busy");
    let document = steps(
        "      - name: Swap
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - dd if=/dev/zero of=/swap bs=1024 count=512
            - mkswap /swap
            - swapon /swap
",
    );
    bench.write("work.yml", &document);
    bench.write("recipe.yaml", &recipe("lane-busy", "work.yml"));
    let error = build(&bench, "recipe.yaml")["error"].clone();
    assert_eq!(error["stage"], "seal", "{error:#}");
    assert!(error["message"].as_str().unwrap().contains("cannot be unmounted"), "{error:#}");
    assert!(error["hints"][0].as_str().unwrap().contains("swapoff"), "{error:#}");
    wait_for_no_machine("lane-busy");
}

/// Brings a tree of many small files and a large one, and a file.
const BRINGS: &str = "name: brings
version: 1.0.0
parentImage: tiny
components:
  - {component: ./first.yml, files: [{source: ./bring, destination: /srv/tree}]}
  - {component: ./second.yml, files: [{source: ./word, destination: /etc/}]}
imageTestsConfiguration: {imageTestsEnabled: false}
kiln: {run: appliance, memory: 128, disk: nvme}
";

#[tokio::test]
async fn files_come_on_a_disk_that_no_guest_writes_on_and_that_goes_with_the_build() {
    let (bench, _) = bench("lane-tray");
    std::fs::create_dir_all(bench.folder.join("bring/many")).unwrap();
    for i in 0..1200 {
        bench.write(&format!("bring/many/{i}"), &format!("{i}"));
    }
    bench.write("bring/large", &"large".repeat(700_000));
    std::fs::set_permissions(bench.write("bring/run", "run"), PermissionsExt::from_mode(0o4711)).unwrap();
    std::os::unix::fs::symlink("../none", bench.folder.join("bring/link")).unwrap();
    bench.write("word", "one");
    let disk = "      - name: Disk
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - grep -q kiln-tray /sys/block/vda/serial
            - test $(cat /sys/block/vda/ro) = 1
            - if dd if=/dev/zero of=/dev/vda bs=512 count=1; then exit 1; fi
            - test $(cat /srv/tree/many/1199) = 1199
";
    bench.write("first.yml", &steps(disk).replace("name: work", "name: first"));
    let word = "      - {name: Word, action: ExecuteBash, inputs: {commands: ['grep -q one /etc/word']}}\n";
    bench.write("second.yml", &steps(word).replace("name: work", "name: second"));
    bench.write("recipe.yaml", BRINGS);
    let tray = |number: u32| bench.builds_folder(&format!("brings-1.0.0-{number}")).join("machine/tray.disk");

    let built = build(&bench, "recipe.yaml");
    assert_eq!(built["status"], "AVAILABLE", "{built:#}");
    assert!(!tray(1).exists());
    let mut wanted = BTreeMap::new();
    on_host(&bench.folder.join("bring"), "/srv/tree", &mut wanted);
    let top = bench.folder.join("bring").metadata().unwrap().permissions().mode() & 0o7777;
    wanted.insert("/srv/tree".into(), Kind::Folder(top));
    let mut found = in_image(&bench, built["disk"]["path"].as_str().unwrap()).await;
    found.retain(|path, _| path.starts_with("/srv/"));
    assert!(found == wanted, "{} and not {} paths, or others", found.len(), wanted.len());

    // The layer after the first component has its files. A disk that is kept needs no tray.
    bench.write("word", "two");
    let keeping = ["--progress", "plain", "build", "recipe.yaml", "--on-error", "keep"];
    let failed = bench.run(&keeping);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("starting from the layer after first"), "{said}");
    assert!(said.contains("packing 1 KiB of files for the guest"), "{said}");
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(bench.builds_folder("brings-1.0.0-2").join("overlay.qcow2").exists() && !tray(2).exists());
}

#[test]
fn files_come_over_the_link_where_the_guest_hides_their_disk() {
    let (bench, _) = bench("lane-hides");
    let document = |name: &str, commands: &str| {
        let step = format!(
            "      - {{name: Step, action: ExecuteBash, inputs: {{commands: [set -e, {commands}]}}}}\n"
        );
        bench.write(&format!("{name}.yml"), &steps(&step).replace("name: work", &format!("name: {name}")));
    };
    document("first", "busybox umount -l /sys");
    document("second", "grep -q one /etc/one, busybox mount -t sysfs sysfs /sys, rm /dev/vdb");
    document("third", "grep -q two /etc/two");
    let brings = |name: &str, word: &str| {
        bench.write(word, word);
        format!("{{component: ./{name}.yml, files: [{{source: ./{word}, destination: /etc/}}]}}")
    };
    let components = format!("[./first.yml, {}, {}]", brings("second", "one"), brings("third", "two"));
    let text = recipe("lane-hides", "first.yml").replace("[./first.yml]", &components);
    bench.write("recipe.yaml", &text);
    let output = bench.run(&["--progress", "plain", "build", "recipe.yaml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told = said.lines().filter(|line| line.contains("what files contain goes over the link: "));
    let told: Vec<&str> = told.collect();
    assert!(
        told.len() == 2 && told[0].contains("/sys/class/block") && told[1].contains("/dev/vdb"),
        "{said}"
    );
}
