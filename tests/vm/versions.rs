//! Versions, lineage, tags, and what may be removed: whole builds on the smallest base.

use crate::build::Bench;
use crate::tiny;
use serde_json::Value;
use std::process::Output;

fn document(name: &str, command: &str) -> String {
    format!(
        "name: {name}\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n\
        \x20     - {{name: Work, action: ExecuteBash, inputs: {{commands: [set -e, '{command}']}}}}\n"
    )
}

fn recipe(bench: &Bench, name: &str, version: &str, parent: &str, components: &str, more: &str) {
    let text = format!(
        "name: {name}\nversion: {version}\nparentImage: {parent}\ncomponents: [{components}]\n{more}\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\nkiln: {{run: appliance}}\n"
    );
    bench.write(&format!("{name}.yaml"), &text);
}

fn build(bench: &Bench, recipe: &str, more: &[&str]) -> Value {
    let output = bench.run(&[&["build", recipe, "--format", "json", "--progress", "none"], more].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What is said where something is refused, in the face of what depends on it.
fn refused(bench: &Bench, arguments: &[&str], says: &str) {
    let output = bench.run(arguments);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(6), "{arguments:?}: {said}");
    assert!(said.contains(says), "{arguments:?}: {said}");
}

/// Four files of one size; another image swaps two, changes a byte of the third under its old time.
const FILES: &str = "for n in 1 2 3 4; do busybox yes $n | busybox head -c 16384 > /opt$n; done";
const CHANGES: &str = "busybox mv /opt1 /t; busybox mv /opt2 /opt1; busybox mv /t /opt2; \
     echo X | busybox dd of=/opt3 bs=1 count=1 conv=notrunc; busybox touch -r /opt4 /opt3";

#[test]
fn images_count_up_descend_from_one_another_and_stay_while_they_are_needed() {
    let bench = Bench::without_bases("versions");
    tiny::import(&bench);
    bench.write("work.yml", &document("work", FILES));
    assert_eq!(text(&bench.run(&["component", "add", "work.yml"])), "work 1.0.0/1\n");
    bench.write("changes.yml", &document("changes", CHANGES));

    // Same content, same version; new content, the next one; what is named with an x is the newest.
    recipe(&bench, "gold", "1.0.x", "tiny", "work/1.0.x", "tags: {team: web, tier: 1}\n");
    let first = build(&bench, "gold.yaml", &[]);
    assert_eq!((&first["image"], &first["unchanged"]), (&"gold/1.0.0/1".into(), &false.into()));
    let again = build(&bench, "gold.yaml", &[]);
    assert_eq!((&again["image"], &again["unchanged"]), (&"gold/1.0.0/1".into(), &true.into()));
    assert_eq!(build(&bench, "gold.yaml", &["--rebuild"])["image"], "gold/1.0.0/2");
    recipe(&bench, "kid", "1.0.0", "gold/1.x.x", "./changes.yml", "");
    assert_eq!(build(&bench, "kid.yaml", &[])["image"], "kid/1.0.0/1");
    bench.write("work.yml", &document("work", "echo second > /second"));
    assert_eq!(text(&bench.run(&["component", "add", "work.yml"])), "work 1.0.0/2\n");
    assert_eq!(build(&bench, "gold.yaml", &[])["image"], "gold/1.0.1/1");
    assert_eq!(bench.json(&["image", "show", "gold/x.x.x"])["image"], "gold/1.0.1/1");
    let wrong = bench.run(&["image", "show", "gold/x.0.x"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));

    // Up: what an image came from. Down: what came from a base, an image, a component.
    let lineage = &bench.json(&["image", "show", "kid"])["lineage"];
    assert_eq!(lineage["base"]["name"], "tiny");
    assert_eq!(lineage["components"][0]["component"], "changes");
    assert_eq!(lineage["parents"][0]["image"], "gold/1.0.0/2");
    assert_eq!(lineage["parents"][0]["components"][0]["component"], "work/1.0.0/1");
    let tree = |name: &str| -> Vec<String> {
        let said = text(&bench.run(&["image", "lineage", name]));
        said.lines().map(|l| l.split("  sha256").next().unwrap().to_owned()).collect()
    };
    assert_eq!(
        tree("tiny"),
        ["tiny", "├─ gold/1.0.0/1", "├─ gold/1.0.0/2", "│  └─ kid/1.0.0/1", "└─ gold/1.0.1/1"]
    );
    assert_eq!(tree("work/1.0.0/2"), ["work/1.0.0/2", "└─ gold/1.0.1/1"]);
    let down = bench.json(&["image", "lineage", "gold/1.0.0/2"]);
    assert_eq!(down["lineage"][0]["descendants"][0]["name"], "kid/1.0.0/1");

    // Neither size nor time tells these files apart, and two of them only changed places.
    let diff = bench.json(&["image", "diff", "gold/1.0.0/2", "kid"]);
    let differing: Vec<&str> =
        diff["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(differing, ["/opt1", "/opt2", "/opt3"], "{diff}");
    assert_eq!(diff["files"][2]["differs"], serde_json::json!(["content"]));
    let packages = bench.json(&["image", "packages", "kid"]);
    assert!(packages["packages"].is_null() && packages["missing"].is_string(), "{packages}");

    tags(&bench);
    removals(&bench);
}

fn tags(bench: &Bench) {
    let tagged = bench.json(&["image", "tag", "kid", "team=web", "env=test=1"]);
    assert_eq!(tagged["tags"], serde_json::json!({"env": "test=1", "team": "web"}));
    let listed = |filter: &[&str]| -> Vec<String> {
        let all = bench.json(&[&["image", "list"], filter].concat());
        all["images"].as_array().unwrap().iter().map(|i| i["image"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&["--tag", "env"]), ["kid/1.0.0/1"]);
    assert_eq!(listed(&["--tag", "team=web"]).len(), 4);
    assert_eq!(listed(&["--tag", "team=web", "--tag", "tier=1"]).len(), 3);
    let gone = bench.json(&["image", "tag", "kid", "--remove", "env"]);
    assert_eq!(gone["tags"], serde_json::json!({"team": "web"}));
    let none = bench.run(&["image", "tag", "kid", "new=1", "--remove", "env"]);
    assert_eq!(none.status.code(), Some(5), "{}", text(&none));
    assert_eq!(bench.json(&["image", "show", "kid"])["tags"], serde_json::json!({"team": "web"}));
    // An unchanged build gives back what its recipe says.
    bench.run(&["image", "tag", "gold", "--remove", "tier"]);
    assert_eq!(build(bench, "gold.yaml", &[])["unchanged"], true);
    assert_eq!(
        bench.json(&["image", "show", "gold"])["tags"],
        serde_json::json!({"team": "web", "tier": "1"})
    );
}

fn removals(bench: &Bench) {
    refused(bench, &["image", "remove", "gold/1.0.0/2"], "it is the parent of kid/1.0.0/1");
    refused(
        bench,
        &["base", "remove", "tiny"],
        "it is the parent of gold/1.0.0/1, gold/1.0.0/2, gold/1.0.1/1",
    );
    refused(
        bench,
        &["component", "remove", "work/1.0.0/1"],
        "it is in the recipes of gold/1.0.0/1, gold/1.0.0/2",
    );
    refused(bench, &["component", "remove", "update-linux"], "comes with kiln");
    // Nothing of several is gone when one must stay, and none stands in another's way.
    refused(bench, &["image", "remove", "gold/1.0.1/1", "gold/1.0.0/2"], "kid/1.0.0/1");
    assert_eq!(bench.json(&["image", "list"])["images"].as_array().unwrap().len(), 4);
    let removed = bench.run(&["image", "remove", "gold/1.0.0/1", "gold/1.0.0/2", "kid", "gold/1.0.1/1"]);
    assert!(removed.status.success(), "{}", text(&removed));
    for arguments in [["component", "remove", "work/1.0.0/1"], ["base", "remove", "tiny"]] {
        let output = bench.run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let own = bench.json(&["component", "list"]);
    let own: Vec<&Value> = own.as_array().unwrap().iter().filter(|c| c["builtIn"] == false).collect();
    assert_eq!((own.len(), &own[0]["build"]), (1, &2.into()));
    let shown = bench.json(&["component", "show", "work"]);
    assert_eq!((&shown["name"], &shown["phases"]), (&"work".into(), &serde_json::json!(["build"])));
}
