//! Packages of images of the rpm family: what `kiln base inspect`, `image packages` and `image diff` tell.

use crate::build::Bench;
use crate::disks::tool;
use crate::rpm_root::RpmRoot;
use crate::tiny;
use serde_json::{Value, json};
use std::process::{Command, Output};

fn package(name: &str, version: &str) -> Value {
    json!({"name": name, "version": version, "architecture": "noarch"})
}

/// Runs kiln where no file can get larger than 16 MiB: copies that are larger fail as on a full disk.
fn without_room(bench: &Bench, arguments: &[&str]) -> Output {
    let kiln = bench.kiln(arguments);
    let mut command = Command::new("sh");
    command.args(["-ec", "trap '' XFSZ; ulimit -f 32768; exec \"$@\"", "sh"]).arg(kiln.get_program());
    command.args(kiln.get_args()).current_dir(&*bench.folder).output().unwrap()
}

/// Writes the recipe of the next image of this name; its component may bring what rpm has in its root by now.
fn write(bench: &Bench, files: &str, commands: &str) {
    let document = format!(
        "name: work\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n\
         \x20     - {{name: Work, action: ExecuteBash, inputs: {{commands: [set -e, {commands}]}}}}\n"
    );
    bench.write("work.yml", &document);
    let recipe = format!(
        "name: family\nversion: 1.0.0\nparentImage: {}\ncomponents:\n  - component: ./work.yml\n{files}\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\nkiln: {{network: none, run: appliance, memory: 128}}\n",
        tiny::NAME
    );
    bench.write("recipe.yaml", &recipe);
}

fn build(bench: &Bench, files: &str, commands: &str) {
    write(bench, files, commands);
    succeeds(&bench.run(&["build", "recipe.yaml"]));
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn packages_of_rpm_are_listed_and_compared() {
    let bench = Bench::without_bases("rpm");
    let rpm = RpmRoot::new(&bench.folder.join("work"), &bench.folder.join("tree"));
    rpm.install("stays", "1.0", Some(2), &[("/usr/bin/stays", "stays")]);
    rpm.install("greet", "1.0", None, &[("/usr/bin/greet", "old")]);
    tiny::import(&bench);
    let facts = bench.json(&["base", "inspect", tiny::NAME]);
    let (stays, old) = (package("stays", "2:1.0-1"), package("greet", "1.0-1"));
    assert_eq!((&facts["packages"], &facts["packageList"]), (&json!(2), &json!([stays, old])));
    assert_eq!(facts["packagesMissing"], json!(null));

    rpm.install("greet", "2.0", Some(1), &[("/usr/bin/greet", "newer"), ("/usr/bin/wave", "new")]);
    let files = "    files:\n      - {source: ./tree/var/lib/rpm, destination: /var/lib/rpm}\n\
                 \x20     - {source: ./tree/usr/bin, destination: /usr/bin}\n";
    build(&bench, files, "'echo hello > /etc/motd'");
    let packages = bench.json(&["image", "packages", "family"]);
    assert_eq!((&packages["manager"], &packages["missing"]), (&json!("rpm"), &json!(null)));
    assert_eq!(packages["packages"], json!([stays, package("greet", "1:2.0-1")]));
    let diff = bench.json(&["image", "diff", tiny::NAME, "family"]);
    assert_eq!(diff["packages"], json!([{"name": "greet", "from": "1.0-1", "to": "1:2.0-1"}]));
    let differing: Vec<&str> =
        diff["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    // The name of the machine goes when an image is sealed.
    assert_eq!(differing, ["/etc/hostname", "/etc/motd"], "{diff}");
    assert_eq!(diff["notListed"]["ofChangedPackages"], 2, "{diff}");

    // A full disk of the host keeps nobody from building an image, and with room again the list is there.
    write(&bench, files, "'dd if=/dev/zero of=/var/lib/rpm/rpmdb.sqlite bs=1M seek=24 count=0'");
    succeeds(&without_room(&bench, &["build", "recipe.yaml"]));
    let full = without_room(&bench, &["image", "packages", "family", "--format", "json"]);
    let full: Value = serde_json::from_slice(&full.stdout).unwrap();
    let missing = full["missing"].as_str().unwrap();
    assert!(missing.contains("its copy cannot be written: File too large"), "{missing}");
    let packages = bench.json(&["image", "packages", "family"]);
    assert_eq!(packages["packages"], json!([stays, package("greet", "1:2.0-1")]));

    // Nor does a database that is none.
    build(&bench, "", "'cd /var/lib/rpm; rm -f *; echo noise > rpmdb.sqlite'");
    let packages = bench.json(&["image", "packages", "family"]);
    assert_eq!((&packages["manager"], &packages["packages"]), (&json!("rpm"), &json!(null)));
    let missing = packages["missing"].as_str().unwrap();
    assert!(missing.contains("/var/lib/rpm/rpmdb.sqlite"), "{missing}");
    assert!(missing.ends_with("cannot read: SQLite says: file is not a database"), "{missing}");
    let diff = bench.run(&["image", "diff", "--packages", tiny::NAME, "family"]);
    assert_eq!(diff.status.code(), Some(6), "{diff:?}");

    std::fs::write(rpm.root.join("var/lib/rpm/rpmdb.sqlite"), "noise").unwrap();
    let (tree, raw) = (bench.folder.join("tree"), bench.folder.join("tiny.raw"));
    let [tree, raw] = [&tree, &raw].map(|path| path.to_str().unwrap());
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", tree, raw], "");
    succeeds(&bench.run(&["base", "import", raw, "--name", "unread", "--firmware", "bios"]));
    let facts = bench.json(&["base", "inspect", "unread"]);
    assert_eq!((&facts["packages"], &facts["packageList"]), (&json!(null), &json!(null)));
    let missing = facts["packagesMissing"].as_str().unwrap();
    assert!(missing.ends_with("cannot read: SQLite says: file is not a database"), "{missing}");
}
