//! The command line as such.

use kiln::catalog::artifact::{Artifact, digest_bytes};
use kiln::catalog::image::{Image, NewImage};
use kiln::catalog::{Catalog, CatalogError, Transaction, home::Home};
use kiln::model::{Architecture, ImageStatus};
use std::process::{Command, Stdio};

/// kiln in this home, on a machine that has no QEMU.
fn command(home: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(["--format", "json", "--home"]).arg(home).args(arguments);
    command.env_remove("KILN_ACCEL").env("PATH", "/nowhere").current_dir(home);
    command
}

/// Runs it; returns the exit code, and what is on stdout.
fn kiln(home: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(home, arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first image of this name, with `then` done to it.
fn begun(
    home: &std::path::Path,
    name: &str,
    then: impl FnOnce(&Transaction, Image) -> Result<(), CatalogError>,
) {
    let catalog = Catalog::open(Home::new(home)).unwrap();
    let parent = home.join("parent");
    std::fs::write(&parent, "parent").unwrap();
    let digest = digest_bytes(b"parent");
    catalog.store_file(&parent, "qcow2", &digest).unwrap();
    let done = catalog.write(|t| {
        let (digest, format) = (digest.clone(), "qcow2".to_owned());
        t.add_artifact(&Artifact { digest, format, bytes: 6, virtual_size: 6, backing: None, file: None })?;
        let (name, version) = (name.parse().unwrap(), "1.0.0".parse().unwrap());
        let image = t.add_image(&NewImage {
            recipe: t.register_recipe(&name, version, "d", "data")?,
            name,
            version,
            architecture: Architecture::HOST,
            inputs: "k".into(),
            parent_name: "debian-12".into(),
            parent: digest_bytes(b"parent"),
            components: Vec::new(),
            tags: Vec::new(),
            parent_image: None,
            details: "{}".into(),
        })?;
        then(t, image)
    });
    done.unwrap();
}

/// The rows of docs/exit-codes.md that need no guest.
#[test]
fn exit_codes_are_those_of_the_table() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("recipe.yaml"), "name: n\nversion: one\n").unwrap();
    std::fs::write(home.path().join("disk.raw"), vec![0; 1 << 20]).unwrap();
    // An image that is still at work, as another kiln would have it.
    begun(home.path(), "busy", |_, _| Ok(()));
    let table: [(i32, &str, &[&str]); 11] = [
        (0, "", &["image", "list"]),
        (2, "", &["image", "lst"]),
        (2, "", &["build", "--no-such-option"]),
        (2, "", &["run", "none", "--memory", "1T"]),
        (5, "NotFound", &["run", "none", "--memory", "1G"]),
        (2, "Input", &["plan", "recipe.yaml"]),
        (5, "NotFound", &["image", "show", "none"]),
        (5, "NotFound", &["log", "none"]),
        (5, "NotFound", &["report", "none"]),
        (6, "Conflict", &["image", "export", "busy"]),
        (7, "Environment", &["base", "import", "disk.raw", "--name", "none"]),
    ];
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md")).unwrap();
    for (code, kind, arguments) in table {
        let (got, said) = kiln(home.path(), arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {said}");
        let row = match kind {
            "" => format!("| {code} | "),
            _ => {
                let error = &serde_json::from_str::<serde_json::Value>(&said).unwrap()["error"];
                assert_eq!((&error["kind"], &error["exitCode"]), (&kind.into(), &code.into()), "{said}");
                assert!(error["class"].is_null());
                format!("| {code} | `{kind}` |")
            }
        };
        assert!(documented.contains(&row), "{row}");
    }
}

/// An image whose tests failed has a disk; who means it says its number.
#[test]
fn only_an_available_image_runs_by_its_name() {
    let home = tempfile::tempdir().unwrap();
    begun(home.path(), "limps", |t, image| {
        let holds = r#"{"holds": {"nocloud": false, "initramfsTools": true, "bios": true, "uefi": false},
                        "memory": 256, "cpu": "max", "interface": "virtio"}"#;
        t.set_disk(image.id, &image.parent.clone().unwrap(), holds)?;
        t.set_status(image.id, ImageStatus::Failed, Some("a test failed"))
    });
    for name in ["limps", "limps/1.0.0", "limps/1.x.x"] {
        let (code, said) = kiln(home.path(), &["run", name]);
        assert!(code == Some(6) && said.contains("limps/1.0.0/1 is FAILED, and there is no"), "{said}");
    }
    // The one that is meant goes on to what this machine lacks.
    let output = command(home.path(), &["run", "limps/1.0.0/1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(said, "note: image limps/1.0.0/1 is FAILED, not AVAILABLE (a test failed)\n");
}

#[test]
fn what_cannot_be_printed_is_no_defect() {
    let home = tempfile::tempdir().unwrap();
    let list = |to: Stdio| {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        kiln.args(["--format", "json", "base", "list", "--home"]).arg(home.path());
        let output = kiln.stdout(to).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(list(writer.into()), (Some(141), String::new()));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, said) = list(full.into());
    assert_eq!(code, Some(7), "{said}");
    assert!(said.starts_with("error: cannot write to standard output: No space left on device"), "{said}");
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
