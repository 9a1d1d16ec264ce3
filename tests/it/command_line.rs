//! The command line as such.

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_has_seen_enough_is_no_defect() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["--format", "json", "base", "list", "--home"])
        .arg(home.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
}

/// What `kiln completion` prints for a shell, in a file.
fn completion(shell: &str, folder: &std::path::Path) -> std::path::PathBuf {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln")).args(["completion", shell]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let path = folder.join(shell);
    std::fs::write(&path, output.stdout).unwrap();
    path
}

#[test]
fn completions_are_good_in_their_shells() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str], script: &std::path::Path| {
        let output = Command::new(words[0]).args(&words[1..]).arg(script).env("HOME", folder.path()).output();
        let output = output.unwrap_or_else(|e| panic!("{}: {e}", words[0]));
        let (said, complained) =
            [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned()).into();
        assert!(output.status.success() && complained.is_empty(), "{words:?}: {complained}");
        said
    };
    let [bash, zsh, fish] = ["bash", "zsh", "fish"].map(|shell| completion(shell, folder.path()));
    run(&["bash", "-n"], &bash);
    run(&["zsh", "-n"], &zsh);
    run(&["fish", "--no-execute"], &fish);
    // And what they offer behind `kiln image ex`.
    let offer =
        ". \"$0\"; COMP_WORDS=(kiln image ex) COMP_CWORD=2; _kiln kiln ex image; echo \"${COMPREPLY[*]}\"";
    assert_eq!(run(&["bash", "-c", offer], &bash), "export\n");
    let offered = run(&["fish", "--no-config", "-c", "source $argv[1]; complete -C 'kiln image ex'"], &fish);
    assert!(offered.starts_with("export\t"), "{offered}");
    let offered = run(&["zsh", "-f", "-c", "compdef() { :; }; . \"$0\"; whence -w _kiln"], &zsh);
    assert_eq!(offered, "_kiln: function\n");
}
