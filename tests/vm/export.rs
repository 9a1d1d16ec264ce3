//! `kiln image export`: what its options do, what it refuses, and what is left when it does not end well.

use crate::build::Bench;
use crate::disks::tool;
use crate::tiny;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The image's disk is some 10 MiB, 6 of them noise.
const DOCUMENT: &str = "name: noise
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Noise, action: ExecuteBash, inputs: {commands: ['dd if=/dev/urandom of=/noise bs=65536 count=96']}}
";

/// A home with the image `small/1.0.0/1`, and an empty folder to export to.
fn bench(test: &str) -> (Bench, PathBuf) {
    let bench = Bench::without_bases(test);
    tiny::import(&bench);
    bench.write("noise.yml", DOCUMENT);
    let recipe = format!(
        "name: small\nversion: 1.0.0\nparentImage: {}\ncomponents: [./noise.yml]\nkiln: {{run: appliance}}\n\
         imageTestsConfiguration: {{imageTestsEnabled: false}}\n",
        tiny::NAME
    );
    bench.write("recipe.yaml", &recipe);
    let built = bench.run(&["build", "recipe.yaml"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let out = bench.folder.join("out");
    std::fs::create_dir(&out).unwrap();
    (bench, out)
}

/// All names in a folder, those of unfinished files, too.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The exit code, and what was said on standard error.
fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn several_formats_at_once_and_none_that_is_in_the_way() {
    let (bench, out) = bench("export");
    let all = ["qcow2", "qcow2-zstd", "raw", "vmdk", "vhd", "vhd-dynamic"];
    let mut words = vec!["image", "export", "small/1.0.x", "--output", "out"];
    words.extend(all.iter().flat_map(|format| ["--to", format]));
    let told = bench.json(&words);
    assert_eq!(told["image"], "small/1.0.0/1");
    let files = told["files"].as_array().unwrap();
    assert_eq!(files.iter().map(|f| f["format"].as_str().unwrap()).collect::<Vec<_>>(), all);
    for file in files {
        let path = bench.folder.join(file["path"].as_str().unwrap());
        let driver = match file["format"].as_str().unwrap() {
            "qcow2-zstd" => "qcow2",
            "vhd" | "vhd-dynamic" => "vpc",
            other => other,
        };
        let (raw, path) = (out.join("small.raw"), path.to_str().unwrap());
        tool("qemu-img", &["compare", "-q", "-f", "raw", "-F", driver, raw.to_str().unwrap(), path], "");
        let info: Value =
            serde_json::from_str(&tool("qemu-img", &["info", "--output=json", "-f", driver, path], ""))
                .unwrap();
        assert_eq!(info["virtual-size"], file["virtualSize"], "{file}");
        assert_eq!(std::fs::metadata(path).unwrap().len(), file["bytes"], "{file}");
        assert!(file["allocatedBytes"].as_u64() >= Some(6 << 20), "{file}");
    }
    let expected =
        ["small.dynamic.vhd", "small.qcow2", "small.raw", "small.vhd", "small.vmdk", "small.zstd.qcow2"];
    assert_eq!(names(&out), expected);

    // One of two is there: neither is written, and what is there stays.
    std::fs::remove_file(out.join("small.raw")).unwrap();
    std::fs::write(out.join("small.vmdk"), "mine").unwrap();
    let both = ["image", "export", "small", "--to", "raw", "--to", "vmdk", "-o", "out"];
    let (code, said) = ended(&bench.run(&both));
    assert!(code == Some(6) && said.contains("out/small.vmdk exists already"), "{code:?} {said}");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(out.join("small.vmdk")).unwrap(), b"mine");
    assert!(!out.join("small.raw").exists());
    let forced = bench.run(&[&both[..], &["--force"]].concat());
    let said = String::from_utf8_lossy(&forced.stdout).into_owned();
    assert!(forced.status.success(), "{forced:?}");
    assert!(said.lines().any(|l| l.starts_with("small/1.0.0/1 as vmdk: out/small.vmdk (")), "{said}");
    assert!(out.join("small.raw").exists() && names(&out).len() == expected.len());

    // Without any option: qcow2, here.
    assert!(bench.run(&["image", "export", "small"]).status.success());
    assert!(bench.folder.join("small.qcow2").is_file());
}

#[test]
fn what_cannot_be_exported_says_why_and_leaves_nothing() {
    let (bench, out) = bench("export-refused");
    let refused: [(&[&str], i32, &str); 5] = [
        (&["small", "--to", "vdi"], 2, "nothing is exported as `vdi`: qcow2, qcow2-zstd, raw, vmdk, vhd"),
        (&["small", "--to", "raw", "--to", "raw"], 2, "out/small.raw is named twice"),
        (&["smell", "--to", "raw"], 5, "smell"),
        (&["small/1.0.0/2", "--to", "raw"], 5, "small/1.0.0/2"),
        (&["small", "--to", "raw", "--output", "none/a.raw"], 5, "there is no folder none"),
    ];
    for (words, expected, message) in refused {
        let mut words = [&["image", "export"], words].concat();
        if !words.contains(&"--output") {
            words.extend(["--output", "out"]);
        }
        let (code, said) = ended(&bench.run(&words));
        assert!(code == Some(expected) && said.contains(message), "{words:?}: {code:?} {said}");
        // What is no format is no command line either: that is said in one form.
        if !words.contains(&"vdi") {
            let told = bench.json(&words)["error"]["message"].to_string();
            assert!(told.contains(message), "{told}");
        }
    }
    assert_eq!(names(&out), [""; 0]);

    // A file system of 4 MiB, in a mount namespace that ends with the command.
    let root = rustix::process::geteuid().is_root();
    let kiln = bench.kiln(&["image", "export", "small", "--to", "raw", "--to", "vmdk", "-o", "out"]);
    let script = "mount -t tmpfs -o size=4m none out; \"$@\" || code=$?; ls -A out; exit ${code:-0}";
    let full = Command::new("unshare")
        .arg("--mount")
        .args(["--user", "--map-root-user"].iter().filter(|_| !root))
        .args(["sh", "-ec", script, "sh"])
        .arg(kiln.get_program())
        .args(kiln.get_args())
        .current_dir(&*bench.folder)
        .output()
        .unwrap();
    let (code, said) = ended(&full);
    assert!(code == Some(7) && said.contains("not enough space in out"), "{code:?} {said}");
    assert_eq!(String::from_utf8_lossy(&full.stdout), "", "left in the folder");
}

/// The block server stops before it serves: the export is then surely under way.
#[test]
fn ctrl_c_leaves_nothing() {
    let (bench, out) = bench("export-cancelled");
    let bin = bench.folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let real = tool("sh", &["-c", "command -v qemu-nbd"], "");
    let mark = bench.folder.join("reading-back");
    let script = format!("#!/bin/sh\n: > '{}'\nkill -STOP $$\nexec {real}", mark.display());
    let program = bin.join("qemu-nbd");
    std::fs::write(&program, script.trim_end().to_owned() + " \"$@\"\n").unwrap();
    tool("chmod", &["+x", program.to_str().unwrap()], "");
    std::fs::write(out.join("small.vmdk"), "mine").unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let words = ["image", "export", "small", "--to", "raw", "--to", "vmdk", "-o", "out", "--force"];
    let kiln = bench.kiln(&words).env("PATH", path).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !mark.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no file was read back");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(names(&out).len(), 3, "two unfinished files beside the one that is there");
    let pid = rustix::process::Pid::from_child(&kiln);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (code, said) = ended(&kiln.wait_with_output().unwrap());
    assert!(code == Some(130) && said.contains("was stopped"), "{code:?} {said}");
    assert_eq!(names(&out), ["small.vmdk"]);
    assert_eq!(std::fs::read(out.join("small.vmdk")).unwrap(), b"mine");
}
