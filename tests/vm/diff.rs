//! `kiln image diff`: what a package and a file are, in images that are otherwise the same.

use crate::build::Bench;
use std::process::Command;

fn recipe(files: &str) -> String {
    format!(
        "name: twins\nversion: 1.0.0\nparentImage: debian-12-minimal\n\
         components:\n  - component: ./work.yml\n{files}\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\nkiln: {{run: appliance}}\n"
    )
}

fn document(commands: &str) -> String {
    format!(
        "name: work\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n\
        \x20     - {{name: Work, action: ExecuteBash, inputs: {{commands: [{commands}]}}}}\n"
    )
}

/// A package of one program, made with Debian's own tool.
fn package(bench: &Bench) {
    let tree = bench.folder.join("tree");
    for folder in ["DEBIAN", "usr/bin"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let control = "Package: greet\nVersion: 1.2-3\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
                   Description: says hello\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::fs::write(tree.join("usr/bin/greet"), "#!/bin/sh\necho hello\n").unwrap();
    let output = bench.folder.join("greet.deb");
    let made =
        Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&output).output();
    assert!(made.as_ref().is_ok_and(|o| o.status.success()), "{made:?}");
}

#[test]
fn one_package_and_one_file_are_all_that_differs() {
    let bench = Bench::new("twins");
    package(&bench);
    let build = |document: &str, recipe: &str| {
        bench.write("work.yml", document);
        bench.write("recipe.yaml", recipe);
        let built = bench.run(&["build", "recipe.yaml"]);
        assert!(built.status.success(), "{built:?}");
    };
    build(&document("'echo one > /etc/motd'"), &recipe(""));
    let commands = "set -e, 'echo second > /etc/motd', dpkg --install /opt/greet.deb, rm /opt/greet.deb";
    let files = "    files: [{source: ./greet.deb, destination: /opt/greet.deb}]\n";
    build(&document(commands), &recipe(files));

    let diff = bench.run(&["image", "diff", "twins/1.0.0/1", "twins"]);
    let said = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert_eq!(diff.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&diff.stderr));
    let (listed, rest) = said.split_once("size of all files").unwrap();
    assert_eq!(
        listed,
        "--- twins/1.0.0/1\n+++ twins/1.0.0/2\npackages\n  + greet  1.2-3\n\
         files\n  ~ /etc/motd  content, 4 -> 7 bytes\n"
    );
    assert!(rest.contains("not listed (--all does): 1 that changed packages brought"), "{rest}");

    let only = bench.run(&["image", "diff", "--packages", "twins/1.0.0/1", "twins"]);
    assert_eq!(
        String::from_utf8_lossy(&only.stdout),
        "--- twins/1.0.0/1\n+++ twins/1.0.0/2\npackages\n  + greet  1.2-3\n"
    );
    let packages = bench.json(&["image", "packages", "twins"]);
    let greet = serde_json::json!({"name": "greet", "version": "1.2-3", "architecture": "all"});
    assert!(packages["manager"] == "dpkg" && packages["packages"].as_array().unwrap().contains(&greet));
    // A base has no block list, and no inventory that a build took.
    let base = bench.json(&["image", "diff", "debian-12-minimal", "twins"]);
    let files: Vec<&str> =
        base["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    // The name of the machine that the base was made on goes when an image is sealed.
    assert_eq!(files, ["/etc/hostname", "/etc/motd"], "{base}");
    assert_eq!(base["packages"][0]["name"], "greet");

    let same = bench.run(&["image", "diff", "twins/1.0.0/2", "twins/1.0.x", "--format", "json"]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    let same: serde_json::Value = serde_json::from_slice(&same.stdout).unwrap();
    assert_eq!((&same["same"], &same["files"]), (&true.into(), &serde_json::json!([])));
    let none = bench.run(&["image", "diff", "twins", "triplets"]);
    assert_eq!(none.status.code(), Some(5), "{none:?}");
}
