//! The store: merging, pruning, verifying and moving layers, on the tiny base.

use crate::build::Bench;
use crate::disks::tool;
use crate::tiny;
use serde_json::{Value, json};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn bench(test: &str) -> Bench {
    let bench = Bench::without_bases(test);
    tiny::import(&bench);
    bench
}

/// A recipe whose components each write a name of their own to the end of /etc/order.
fn recipe(bench: &Bench, name: &str, parent: &str, components: &[String]) -> String {
    for component in components {
        edit(bench, component, component);
    }
    let list: Vec<String> = components.iter().map(|c| format!("./{c}.yml")).collect();
    let text = format!(
        "name: {name}\nversion: 1.0.0\nparentImage: {parent}\ncomponents: [{}]\n\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\n\
         kiln: {{network: none, run: appliance, memory: 128}}\n",
        list.join(", ")
    );
    bench.write(&format!("{name}.yaml"), &text);
    format!("{name}.yaml")
}

fn edit(bench: &Bench, component: &str, says: &str) {
    let text = format!(
        "name: {component}\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
         - {{name: Say, action: ExecuteBash, inputs: {{commands: [set -e, 'echo {says} >> /etc/order']}}}}\n"
    );
    bench.write(&format!("{component}.yml"), &text);
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}-{n:02}")).collect()
}

fn build(bench: &Bench, arguments: &[&str]) -> Value {
    let all = [&["--format", "json", "--progress", "none", "build"], arguments].concat();
    let output = bench.run(&all);
    let built: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(built["status"], "AVAILABLE", "{built:#}");
    built
}

/// How many components of a recipe are in the layer that its build would start from.
fn reused(bench: &Bench, recipe: &str) -> usize {
    let plan = bench.json(&["plan", recipe]);
    plan["components"].as_array().unwrap().iter().filter(|c| c["layer"] == true).count()
}

/// The keys of what `kiln store prune` drops, or would.
fn prune(bench: &Bench, arguments: &[&str]) -> Vec<String> {
    let pruned = bench.json(&[&["store", "prune"], arguments].concat());
    let dropped = pruned["dropped"].as_array().unwrap_or_else(|| panic!("{pruned:#}"));
    dropped.iter().map(|d| d["component"].as_str().unwrap().to_owned()).collect()
}

/// The files that a disk is made of, its own first.
fn chain(disk: &Path) -> Vec<PathBuf> {
    let said = tool("qemu-img", &["info", "--backing-chain", "--output=json", disk.to_str().unwrap()], "");
    let all: Value = serde_json::from_str(&said).unwrap();
    let file =
        |i: &Value| disk.with_file_name(Path::new(i["filename"].as_str().unwrap()).file_name().unwrap());
    all.as_array().unwrap().iter().map(file).collect()
}

fn disk(built: &Value) -> PathBuf {
    built["disk"]["path"].as_str().unwrap().into()
}

/// What the components wrote, out of an image's disk.
fn order(bench: &Bench, image: &str) -> Vec<String> {
    let raw = bench.folder.join("look.raw");
    let to = raw.to_str().unwrap();
    let output = bench.run(&["image", "export", image, "--to", "raw", "--output", to, "--force"]);
    assert!(output.status.success(), "{output:?}");
    let said = tool("debugfs", &["-R", "cat /etc/order", to], "");
    tool("e2fsck", &["-fn", to], "");
    said.lines().map(str::to_owned).collect()
}

fn verified(bench: &Bench, names: &[&str]) -> Value {
    bench.json(&[&["store", "verify"], names].concat())
}

fn all_is_well(bench: &Bench) {
    assert_eq!(verified(bench, &[])["damage"], json!([]));
}

/// Every file of the store is somebody's, and nobody's is missing.
fn files(bench: &Bench) -> Vec<String> {
    let folder = bench.folder.join("home/artifacts");
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut found: Vec<String> = entries.filter(|n| n.ends_with(".qcow2")).collect();
    found.sort();
    found
}

/// One byte in the middle becomes another; size and times stay.
fn damage(path: &Path) {
    let metadata = std::fs::metadata(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (middle, mut byte) = (metadata.len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    std::fs::set_permissions(path, metadata.permissions()).unwrap();
}

#[test]
fn chains_of_layers_do_not_grow_without_end() {
    let bench = bench("store-chains");
    let first = names("first", 20);
    let recipe_of_20 = recipe(&bench, "of-twenty", tiny::NAME, &first);
    let built = build(&bench, &[&recipe_of_20]);
    assert_eq!(order(&bench, "of-twenty"), first);
    // Seventeen were merged into one, then come three more and the image's own.
    assert_eq!(chain(&disk(&built)).len(), 6, "{:?}", chain(&disk(&built)));
    all_is_well(&bench);
    // What was merged is gone with the build: 16 layers, 4 of the shorter chain, the image, the base.
    assert_eq!(files(&bench).len(), 22, "{:?}", files(&bench));

    // From before the merge, from it, and after it: the next builds find them.
    for (number, place) in [(15, 16), (17, 18), (18, 19)].into_iter().rev() {
        assert_eq!(reused(&bench, &recipe_of_20), 20);
        edit(&bench, &first[number], "edited");
        assert_eq!(reused(&bench, &recipe_of_20), number, "component {place} was edited");
        build(&bench, &[&recipe_of_20]);
        let said = order(&bench, "of-twenty");
        assert_eq!((said.len(), said[number].as_str()), (20, "edited"));
        edit(&bench, &first[number], &first[number]);
    }

    // Images of images: their layers stand on each other's disks.
    let mut parent = "of-twenty/1.0.0/1".to_owned();
    let mut wanted = first;
    for generation in ["child", "grandchild"] {
        let own = names(generation, 6);
        let file = recipe(&bench, generation, &parent, &own);
        let built = build(&bench, &[&file]);
        wanted.extend(own);
        assert_eq!(order(&bench, generation), wanted);
        let made_of = chain(&disk(&built));
        assert!(made_of.len() <= 17, "{made_of:?}");
        parent = format!("{generation}/1.0.0/1");
    }
    all_is_well(&bench);
}

#[test]
fn what_nothing_needs_is_dropped_and_what_is_damaged_is_told() {
    let bench = bench("store-keeping");
    let own = names("keep", 3);
    let file = recipe(&bench, "keeping", tiny::NAME, &own);
    let built = build(&bench, &[&file]);
    // Another last component, in an image that is removed: its layer only serves later builds.
    edit(&bench, "keep-03", "other");
    build(&bench, &[&file]);
    assert!(bench.run(&["image", "remove", "keeping/1.0.0/2"]).status.success());
    let kinds = bench.json(&["store", "df"]);
    let count = |kind: &str| {
        let found = kinds["kinds"].as_array().unwrap().iter().find(|k| k["kind"] == kind);
        found.map_or(0, |k| k["files"].as_u64().unwrap())
    };
    let counts = ["imageDisks", "imageLayers", "spareLayers", "other"].map(count);
    assert_eq!(counts, [3, 3, 1, 0], "a disk, its block list and its packages, and layers: {kinds:#}");
    assert!(count("bases") > 0 && count("appliance") > 0 && count("logs") > 0, "{kinds:#}");

    assert_eq!(prune(&bench, &["--older-than", "1h"]), [""; 0]);
    assert_eq!(prune(&bench, &[]), [""; 0], "all are within the limit");
    assert_eq!(prune(&bench, &["--all", "--dry-run"]), ["keep-03"]);
    assert_eq!(reused(&bench, &file), 3);
    assert_eq!(prune(&bench, &["--to", "0B"]), ["keep-03"]);
    assert_eq!(reused(&bench, &file), 2);
    assert_eq!(prune(&bench, &["--all"]), [""; 0]);
    // The limit holds after a build. The image's own layers do not count.
    bench.write("home/settings.yaml", "store: {layers: 1B}\n");
    build(&bench, &[&file]);
    assert!(bench.run(&["image", "remove", "keeping/1.0.0/3"]).status.success());
    edit(&bench, "keep-03", "keep-03");
    assert_eq!(build(&bench, &["--rebuild", &file])["unchanged"], false);
    assert_eq!(prune(&bench, &["--all", "--dry-run"]), [""; 0], "it went after the build");

    // A file that another byte is in: it and what stands on it is dropped, the image is named.
    assert!(bench.run(&["image", "remove", "keeping/1.0.0/4"]).status.success());
    let made_of = chain(&disk(&built));
    assert_eq!(made_of.len(), 5);
    all_is_well(&bench);
    // A block list with another digit: made anew, and exports are compared with the right one again.
    let list = made_of[0].with_extension("blocks");
    let right = std::fs::read_to_string(&list).unwrap();
    let last = right.trim_end().chars().last().unwrap();
    let other = if last == '0' { "1\n" } else { "0\n" };
    std::fs::write(&list, format!("{}{other}", &right.trim_end()[..right.trim_end().len() - 1])).unwrap();
    let export =
        |to: &str| bench.run(&["image", "export", "keeping/1.0.0/1", "--output", to]).status.success();
    assert!(!export("before.qcow2"));
    let mended = bench.json(&["store", "verify", "keeping/1.0.0/1"]);
    assert_eq!((&mended["mended"], &mended["damage"]), (&json!([list]), &json!([])), "{mended:#}");
    assert!(std::fs::read_to_string(&list).unwrap() == right && export("after.qcow2"));
    damage(&made_of[2]);
    let found = verified(&bench, &["keeping"]);
    let damaged = &found["damage"][0];
    assert_eq!(found["damage"].as_array().unwrap().len(), 1, "{found:#}");
    assert_eq!(damaged["file"], json!(made_of[2]), "{found:#}");
    assert_eq!(damaged["images"], json!(["keeping/1.0.0/1"]));
    let dropped: Vec<&Value> =
        damaged["dropped"].as_array().unwrap().iter().map(|l| &l["component"]).collect();
    assert_eq!(dropped, ["keep-02", "keep-03"]);
    let said = bench.run(&["store", "verify"]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("image keeping/1.0.0/1 stands on it") && text.contains("DISABLED"), "{text}");
    assert_eq!(bench.json(&["image", "show", "keeping/1.0.0/1"])["status"], "DISABLED");
    // The next build goes on from the one before, and does not take the damaged image for its result.
    assert_eq!(reused(&bench, &file), 1);
    assert_eq!(build(&bench, &[&file])["unchanged"], false);
    assert_eq!(order(&bench, "keeping/1.0.0/5"), own);
    assert!(bench.run(&["image", "remove", "keeping/1.0.0/1"]).status.success());
    all_is_well(&bench);

    // One that somebody wrote to is not used, whatever stands on it.
    let below = chain(&disk(&build(&bench, &["--rebuild", &file])));
    damage(&below[3]);
    std::fs::File::open(&below[3]).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(reused(&bench, &file), 0);
}

#[test]
fn layers_move_between_homes() {
    let bench = bench("store-moving");
    let own = names("move", 3);
    let file = recipe(&bench, "moving", tiny::NAME, &own);
    build(&bench, &[&file]);
    let bundle = bench.folder.join("layers.kiln");
    let path = bundle.to_str().unwrap();
    let export = |which: &[&str]| bench.json(&[&["store", "export", path], which].concat());
    for which in [["--image", "moving"], ["--layers", "moving"], ["--layers", &file]] {
        let done = export(&which);
        assert_eq!(
            (&done["layers"], &done["disks"], &done["needs"][0]["base"]),
            (&json!(3), &json!(3), &json!("tiny")),
            "{done:#}"
        );
    }
    let mode = std::fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A home that has nothing but the appliance.
    let other = Bench::without_bases("store-moving-to");
    std::fs::copy(bench.folder.join(&file), other.folder.join(&file)).unwrap();
    own.iter().for_each(|c| edit(&other, c, c));
    let import = |path: &str| other.json(&["store", "import", path]);
    let refused = import(path);
    assert_eq!(refused["error"]["exitCode"], 5, "the base is not there: {refused:#}");
    assert!(refused["error"]["hints"][0].as_str().unwrap().contains("--with-base"), "{refused:#}");
    assert_eq!(files(&other), [""; 0]);
    let done = export(&["--all-layers", "--with-base"]);
    assert_eq!((&done["disks"], &done["needs"]), (&json!(4), &json!([])));

    // What is damaged on its way is found, and layers are taken in whole or not at all.
    let whole = std::fs::read(&bundle).unwrap();
    for place in [whole.len() / 3, whole.len() - 20] {
        let mut bad = whole.clone();
        bad[place] ^= 1;
        let bad_path = bench.write("bad.kiln", "");
        std::fs::write(&bad_path, &bad).unwrap();
        let refused = import(bad_path.to_str().unwrap());
        assert_eq!(refused["error"]["exitCode"], 2, "{refused:#}");
    }
    let cut = bench.folder.join("cut.kiln");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(import(cut.to_str().unwrap())["error"]["exitCode"], 2);
    let runs = other.folder.join("home/runs");
    assert_eq!(std::fs::read_dir(runs).unwrap().count(), 0);
    all_is_well(&other);

    let known = import(path);
    assert_eq!(known["layers"].as_u64().unwrap() + known["known"].as_u64().unwrap(), 3, "{known:#}");
    assert_eq!(import(path)["known"], 3);
    assert_eq!(reused(&other, &file), 3);
    edit(&other, "move-03", "elsewhere");
    build(&other, &[&file]);
    assert_eq!(order(&other, "moving"), ["move-01", "move-02", "elsewhere"]);
    all_is_well(&other);
}

/// A trial makes more of it: see tests/trials/layers.py.
#[test]
fn pruning_while_another_kiln_starts_from_the_layer_hurts_nobody() {
    let bench = bench("store-racing");
    let file = recipe(&bench, "racing", tiny::NAME, &names("race", 2));
    build(&bench, &[&file]);
    assert!(bench.run(&["image", "remove", "racing/1.0.0/1"]).status.success());
    for round in 2..5 {
        let building = bench
            .kiln(&["--progress", "none", "build", "--rebuild", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut building = building.unwrap();
        while building.try_wait().unwrap().is_none() {
            prune(&bench, &["--all"]);
        }
        let output = building.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let image = format!("racing/1.0.0/{round}");
        assert_eq!(order(&bench, &image), names("race", 2));
        assert!(bench.run(&["image", "remove", &image]).status.success());
    }
    all_is_well(&bench);
}
