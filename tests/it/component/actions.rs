//! Every file action: inputs, defaults, errors, wildcards, separators. No process is needed for any.

use super::rig::{Rig, exists, output, steps};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// What is there before: a text is a file, `/` a folder, `->x` a link to x.
type Before = &'static [(&'static str, &'static str)];

/// What must be there afterwards; `-` is nothing, `/` a folder, `->x` a link, `0640` a mode.
type After = &'static [(&'static str, &'static str)];

struct Case {
    action: &'static str,
    /// One item's fields.
    inputs: &'static str,
    before: Before,
    /// Part of the failure's message; empty for success.
    fails: &'static str,
    after: After,
}

const fn ok(action: &'static str, inputs: &'static str, before: Before, after: After) -> Case {
    Case { action, inputs, before, fails: "", after }
}

const fn fails(action: &'static str, inputs: &'static str, before: Before, fails: &'static str) -> Case {
    Case { action, inputs, before, fails, after: &[] }
}

const CASES: &[Case] = &[
    // AppendFile
    ok("AppendFile", "path: HERE/a, content: two", &[("a", "one")], &[("a", "onetwo")]),
    ok("AppendFile", "path: a", &[("a", "one")], &[("a", "one")]),
    ok("AppendFile", "path: HERE/a, content: é, encoding: utf-16-BE", &[("a", "")], &[("a", "hex 00e9")]),
    fails("AppendFile", "path: HERE/none, content: x", &[], "there is no file"),
    fails("AppendFile", "path: HERE/d, content: x", &[("d", "/")], "is a folder"),
    // CopyFile
    ok("CopyFile", "source: HERE/a, destination: HERE/b", &[("a", "1")], &[("a", "1"), ("b", "1")]),
    ok("CopyFile", "source: HERE/a, destination: HERE/x/y/", &[("a", "1")], &[("x/y/a", "1")]),
    ok("CopyFile", "source: HERE/a, destination: 'HERE/x/y\\'", &[("a", "1")], &[("x/y/a", "1")]),
    ok("CopyFile", "source: HERE/a, destination: HERE/b", &[("a", "1"), ("b", "2")], &[("b", "1")]),
    fails(
        "CopyFile",
        "source: HERE/a, destination: HERE/b, overwrite: false",
        &[("a", "1"), ("b", "2")],
        "overwrite is false",
    ),
    ok(
        "CopyFile",
        "source: 'HERE/*.c', destination: HERE/out/",
        &[("x.c", "1"), ("y.c", "2"), ("z", "3"), ("f.c", "/")],
        &[("out/x.c", "1"), ("out/y.c", "2"), ("out/z", "-"), ("out/f.c", "-")],
    ),
    ok("CopyFile", "source: 'HERE/*.c', destination: HERE/out", &[("x.c", "1")], &[("out", "1")]),
    fails(
        "CopyFile",
        "source: 'HERE/*.c', destination: HERE/out",
        &[("x.c", "1"), ("y.c", "2")],
        "must be a folder",
    ),
    fails("CopyFile", "source: 'HERE/*.c', destination: HERE/out/", &[], "there is no file"),
    fails("CopyFile", "source: HERE/none, destination: HERE/b", &[], "there is no file"),
    fails("CopyFile", "source: HERE/d, destination: HERE/b", &[("d", "/")], "is no file"),
    fails("CopyFile", "source: HERE/a, destination: HERE/d", &[("a", "1"), ("d", "/")], "is a folder"),
    // MoveFile
    ok("MoveFile", "source: HERE/a, destination: HERE/x/b", &[("a", "1")], &[("a", "-"), ("x/b", "1")]),
    ok(
        "MoveFile",
        "source: 'HERE/a*', destination: HERE/x/",
        &[("a1", "1"), ("a2", "2")],
        &[("a1", "-"), ("x/a1", "1"), ("x/a2", "2")],
    ),
    ok(
        "MoveFile",
        "source: HERE/a, destination: HERE/b",
        &[("a", "1"), ("b", "2")],
        &[("a", "-"), ("b", "1")],
    ),
    fails(
        "MoveFile",
        "source: HERE/a, destination: HERE/b, overwrite: false",
        &[("a", "1"), ("b", "2")],
        "overwrite is false",
    ),
    fails("MoveFile", "source: HERE/none, destination: HERE/b", &[], "there is no file"),
    // CopyFolder
    ok(
        "CopyFolder",
        "source: HERE/d, destination: HERE/e",
        &[("d/s/a", "1")],
        &[("e/s/a", "1"), ("d/s/a", "1")],
    ),
    ok("CopyFolder", "source: HERE/d/, destination: HERE/x/y/", &[("d/a", "1")], &[("x/y/d/a", "1")]),
    ok(
        "CopyFolder",
        "source: HERE/d, destination: HERE/e",
        &[("d/a", "1"), ("e/a", "2"), ("e/b", "3")],
        &[("e/a", "1"), ("e/b", "3")],
    ),
    fails(
        "CopyFolder",
        "source: HERE/d, destination: HERE/e, overwrite: false",
        &[("d/a", "1"), ("e", "/")],
        "overwrite is false",
    ),
    ok(
        "CopyFolder",
        "source: 'HERE/d*', destination: HERE/e/",
        &[("d1/a", "1"), ("d2/b", "2"), ("d3", "x")],
        &[("e/d1/a", "1"), ("e/d2/b", "2"), ("e/d3", "-")],
    ),
    fails("CopyFolder", "source: HERE/none, destination: HERE/e", &[], "there is no folder"),
    fails("CopyFolder", "source: HERE/a, destination: HERE/e", &[("a", "1")], "is no folder"),
    fails("CopyFolder", "source: HERE/d, destination: HERE/a", &[("d", "/"), ("a", "1")], "is no folder"),
    // MoveFolder
    ok("MoveFolder", "source: HERE/d, destination: HERE/x/e", &[("d/a", "1")], &[("d", "-"), ("x/e/a", "1")]),
    ok("MoveFolder", "source: HERE/d, destination: HERE/x/", &[("d/a", "1")], &[("d", "-"), ("x/d/a", "1")]),
    ok(
        "MoveFolder",
        "source: HERE/d, destination: HERE/e",
        &[("d/a", "1"), ("e/b", "2")],
        &[("d", "-"), ("e/a", "1"), ("e/b", "2")],
    ),
    fails(
        "MoveFolder",
        "source: HERE/d, destination: HERE/e, overwrite: false",
        &[("d", "/"), ("e", "/")],
        "overwrite is false",
    ),
    // CreateFile
    ok("CreateFile", "path: HERE/x/y/a", &[], &[("x/y/a", ""), ("x/y/a", "0644")]),
    ok(
        "CreateFile",
        "path: a, content: 'l1\\nl2', permissions: 0640",
        &[],
        &[("a", "l1\\nl2"), ("a", "0640")],
    ),
    ok("CreateFile", "path: HERE/a, content: new", &[("a", "older text")], &[("a", "new")]),
    ok(
        "CreateFile",
        "path: HERE/l, content: new",
        &[("a", "old"), ("l", "->a")],
        &[("a", "new"), ("l", "->a")],
    ),
    ok("CreateFile", "path: HERE/a, content: A, encoding: UTF16", &[], &[("a", "hex 4100")]),
    ok("CreateFile", "path: HERE/a, owner: root, group: 0, permissions: '0777'", &[], &[("a", "0755")]),
    fails("CreateFile", "path: HERE/a, overwrite: false", &[("a", "x")], "overwrite is false"),
    fails("CreateFile", "path: HERE/d", &[("d", "/")], "is a folder"),
    fails("CreateFile", "path: HERE/a, owner: no-such-user", &[], "no-such-user"),
    // CreateFolder
    ok("CreateFolder", "path: HERE/x/y/", &[], &[("x/y", "/"), ("x/y", "0755")]),
    ok(
        "CreateFolder",
        "path: HERE/d, permissions: 0700, owner: root",
        &[("d/a", "1")],
        &[("d/a", "1"), ("d", "0700")],
    ),
    fails("CreateFolder", "path: HERE/d, overwrite: false", &[("d", "/")], "overwrite is false"),
    fails("CreateFolder", "path: HERE/a", &[("a", "1")], "is no folder"),
    // CreateSymlink
    ok("CreateSymlink", "path: HERE/x/l, target: HERE/a", &[("a", "1")], &[("x/l", "1")]),
    ok("CreateSymlink", "path: l, target: a", &[("a", "1")], &[("l", "->a")]),
    ok(
        "CreateSymlink",
        "path: HERE/l, target: HERE/b, force: true",
        &[("a", "1"), ("b", "2"), ("l", "->a")],
        &[("l", "2")],
    ),
    fails("CreateSymlink", "path: HERE/l, target: HERE/a", &[("a", "1"), ("l", "->a")], "force is false"),
    fails(
        "CreateSymlink",
        "path: HERE/b, target: HERE/a, force: true",
        &[("a", "1"), ("b", "2")],
        "is no symbolic link",
    ),
    fails("CreateSymlink", "path: HERE/l, target: HERE/none", &[], "does not exist"),
    // DeleteFile
    ok("DeleteFile", "path: HERE/a", &[("a", "1")], &[("a", "-")]),
    ok(
        "DeleteFile",
        "path: 'HERE/*.t'",
        &[("a.t", "1"), ("b.t", "2"), ("c", "3"), ("s/d.t", "4"), ("e.t", "/")],
        &[("a.t", "-"), ("b.t", "-"), ("c", "3"), ("s/d.t", "4"), ("e.t", "/")],
    ),
    ok("DeleteFile", "path: HERE/l", &[("a", "1"), ("l", "->a")], &[("l", "-"), ("a", "1")]),
    ok("DeleteFile", "path: HERE/none", &[], &[]),
    ok("DeleteFile", "path: 'HERE/none/*'", &[], &[]),
    fails("DeleteFile", "path: HERE/d", &[("d", "/")], "is a folder"),
    // DeleteFolder
    ok("DeleteFolder", "path: HERE/d", &[("d", "/")], &[("d", "-")]),
    ok("DeleteFolder", "path: HERE/d/, force: true", &[("d/a/b", "1")], &[("d", "-")]),
    ok("DeleteFolder", "path: HERE/none", &[], &[]),
    fails("DeleteFolder", "path: HERE/d", &[("d/a", "1")], "not empty"),
    fails("DeleteFolder", "path: HERE/a", &[("a", "1")], "is no folder"),
    // SetFileEncoding
    ok("SetFileEncoding", "path: HERE/a, encoding: utf-32-BE", &[("a", "é")], &[("a", "hex 000000e9")]),
    ok("SetFileEncoding", "path: HERE/a", &[("a", "é")], &[("a", "é")]),
    fails("SetFileEncoding", "path: HERE/none", &[], "there is no file"),
    // Owners and permissions
    ok("SetFileOwner", "path: HERE/a, owner: daemon", &[("a", "1")], &[("a", "owner daemon")]),
    ok(
        "SetFileOwner",
        "path: HERE/l, owner: daemon, group: root",
        &[("a", "1"), ("l", "->a")],
        &[("a", "owner daemon")],
    ),
    fails("SetFileOwner", "path: HERE/a, owner: no-such-user", &[("a", "1")], "no-such-user"),
    fails("SetFileOwner", "path: HERE/a, owner: root, group: no-such-group", &[("a", "1")], "no-such-group"),
    fails("SetFileOwner", "path: HERE/none, owner: root", &[], "there is no file"),
    ok(
        "SetFolderOwner",
        "path: HERE/d, owner: daemon",
        &[("d/a", "1")],
        &[("d", "owner daemon"), ("d/a", "owner daemon")],
    ),
    ok(
        "SetFolderOwner",
        "path: HERE/d, owner: daemon, recursive: false",
        &[("d/a", "1")],
        &[("d", "owner daemon"), ("d/a", "owner root")],
    ),
    fails("SetFolderOwner", "path: HERE/a, owner: root", &[("a", "1")], "is no folder"),
    ok("SetFilePermissions", "path: HERE/a, permissions: 0777", &[("a", "1")], &[("a", "0777")]),
    ok("SetFilePermissions", "path: HERE/a, permissions: '600'", &[("a", "1")], &[("a", "0600")]),
    fails("SetFilePermissions", "path: HERE/none, permissions: 600", &[], "there is no file"),
    ok(
        "SetFolderPermissions",
        "path: HERE/d, permissions: 0700",
        &[("d/a", "1")],
        &[("d", "0700"), ("d/a", "0700")],
    ),
    ok(
        "SetFolderPermissions",
        "path: HERE/d, permissions: 0700, recursive: false",
        &[("d/a", "1")],
        &[("d", "0700"), ("d/a", "0644")],
    ),
    fails("SetFolderPermissions", "path: HERE/none, permissions: 0700", &[], "there is no folder"),
];

fn prepare(folder: &Path, before: Before) {
    for (name, content) in before {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if *content == "/" {
            std::fs::create_dir_all(path).unwrap();
        } else if let Some(target) = content.strip_prefix("->") {
            symlink(target, path).unwrap();
        } else {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        }
    }
}

fn hold(folder: &Path, name: &str, want: &str, case: &str) {
    let path = folder.join(name);
    let meta = path.symlink_metadata();
    let mode = |m: &std::fs::Metadata| format!("{:04o}", m.permissions().mode() & 0o7777);
    if want == "-" {
        assert!(meta.is_err(), "{case}: {name} is there");
        return;
    }
    let meta = meta.unwrap_or_else(|e| panic!("{case}: {name}: {e}"));
    if want == "/" {
        assert!(meta.is_dir(), "{case}: {name}");
    } else if let Some(target) = want.strip_prefix("->") {
        assert_eq!(std::fs::read_link(&path).unwrap().to_str(), Some(target), "{case}");
    } else if let Some(owner) = want.strip_prefix("owner ") {
        assert_eq!(meta.uid(), if owner == "root" { 0 } else { 1 }, "{case}: {name}");
    } else if let Some(hex) = want.strip_prefix("hex ") {
        let bytes: String = std::fs::read(&path).unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(bytes, hex, "{case}");
    } else if want.len() == 4 && want.starts_with('0') {
        assert_eq!(mode(&meta), want, "{case}: {name}");
    } else {
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want, "{case}: {name}");
    }
}

#[tokio::test]
async fn every_row_of_the_file_actions_holds_without_any_program() {
    let mut rig = Rig::new().await;
    let root = rig.folder.path().to_owned();
    let is_root = root.metadata().unwrap().uid() == 0;
    // Nothing can be started: there is no path to look in.
    rig.options.environment = vec![("PATH".into(), String::new())];
    for (i, case) in CASES.iter().enumerate() {
        let asks_owner = case.inputs.contains("owner");
        if asks_owner && !is_root {
            continue;
        }
        let name = format!("case {i}: {} {}", case.action, case.inputs);
        let folder = root.join(format!("c{i}"));
        std::fs::create_dir(&folder).unwrap();
        prepare(&folder, case.before);
        rig.options.working_directory = folder.to_str().unwrap().into();
        let inputs = case.inputs.replace("HERE", folder.to_str().unwrap());
        let text = steps(&format!("- name: Step\n  action: {}\n  inputs: [{{{inputs}}}]", case.action));
        let report = rig.run(&text).await;
        match report.failure {
            None => assert!(case.fails.is_empty(), "{name}: should fail with {}", case.fails),
            Some(failure) => {
                assert!(!case.fails.is_empty(), "{name}: {failure}");
                let found = failure.message.to_lowercase().contains(case.fails);
                assert!(found, "{name}: {failure}");
            }
        }
        case.after.iter().for_each(|(path, want)| hold(&folder, path, want, &name));
    }
}

#[tokio::test]
async fn files_are_listed_and_read() {
    let mut rig = Rig::new().await;
    prepare(rig.folder.path(), &[("d/b.log", "1"), ("d/a.log", "2"), ("d/s/c.log", "3"), ("d/x", "é\n")]);
    let report = rig
        .run(&steps(
            "- name: Flat
  action: ListFiles
  inputs: [{path: HERE/d, fileNamePattern: '*.log'}]
- name: Deep
  action: ListFiles
  inputs: [{path: HERE/d, recursive: true}]
- name: Read
  action: ReadFile
  inputs: [{path: HERE/d/x, printFileContent: true}, {path: HERE/d/a.log}]
- name: Joined
  action: ExecuteBash
  inputs: {commands: ['printf \"%s\" \"{{ build.Read.outputs.content }}\"', 'echo {{ build.Read.outputs[1].content }}']}
- name: Nowhere
  action: ListFiles
  inputs: [{path: HERE/none}]",
        ))
        .await;
    let path = |n: &str| rig.path(n);
    assert_eq!(output(&report, "Flat", "files"), format!("{},{}", path("d/a.log"), path("d/b.log")));
    let deep = ["d/a.log", "d/b.log", "d/s/c.log", "d/x"].map(path).join(",");
    assert_eq!(output(&report, "Deep", "files"), deep);
    assert_eq!(output(&report, "Read", "content"), "é\n|2");
    assert_eq!(output(&report, "Joined", "stdout"), "é\n\n22");
    assert!(rig.watch.told.contains(&"out é".to_owned()));
    assert!(report.failure.unwrap().message.contains("there is no folder"));
}

#[tokio::test]
async fn programs_get_their_arguments_as_they_are() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Bare
  action: ExecuteBinary
  inputs: {path: printf, arguments: ['%s|', 'a b', '$HOME', '*', '{{ context:step }}']}
- name: Missing
  action: ExecuteBinary
  onFailure: Ignore
  inputs: {path: /no/such/program}
- name: Killed
  action: ExecuteBash
  inputs: {commands: ['kill -9 $$']}",
        ))
        .await;
    assert_eq!(output(&report, "Bare", "stdout"), "a b|$HOME|*|Bare|");
    let missing = report.state.steps().nth(1).unwrap();
    assert!(missing.message.contains("/no/such/program"), "{}", missing.message);
    assert!(report.failure.unwrap().message.contains("signal 9"));
    assert!(!exists(&rig.path("script.sh")));
}
