//! The stand-alone runner: result files, exit codes, going on after a reboot.
//!
//! After a change that is meant: `KILN_BLESS=1 cargo test --test it standalone`, then read the diff.

use super::rig::patience;
use super::s3_store::{Bucket, server};
use kiln::component::Values;
use kiln::component::fetch::s3::Credentials;
use kiln::component::standalone::{self, Given, Outcome, Request, StandaloneError};
use kiln::guest::link::local::LocalGuest;
use std::path::{Path, PathBuf};

struct Runner {
    folder: tempfile::TempDir,
    request: Request,
}

impl Runner {
    fn new(text: &str) -> Runner {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("work")).unwrap();
        std::fs::write(at("doc.yml"), text).unwrap();
        let request = Request {
            documents: vec![Given { path: at("doc.yml"), parameters: Vec::new() }],
            state_directory: at("state"),
            log_directory: at("logs"),
            working_directory: at("work"),
            ..Request::default()
        };
        Runner { folder, request }
    }

    async fn run(&self) -> Result<Outcome, StandaloneError> {
        let guest = LocalGuest::start(&patience()).await.unwrap();
        standalone::run(&self.request, &Values::default(), &guest, &patience()).await
    }

    fn state(&self) -> PathBuf {
        self.request.state_directory.join("interrupted-run.json")
    }

    /// `detailedoutput.json` without times, ids and the folder.
    fn detailed(&self, outcome: &Outcome) -> String {
        let text = std::fs::read_to_string(outcome.folder.join("detailedoutput.json")).unwrap();
        let lines = text.lines().map(|line| match line.split_once("\": \"") {
            Some((key, _)) if key.ends_with("Time") => format!("{key}\": \"TIME\","),
            Some((key, _)) if key.ends_with("\"executionId") => format!("{key}\": \"ID\","),
            _ => line.replace(self.folder.path().to_str().unwrap(), "HERE"),
        });
        lines.map(|l| without_ids(&l) + "\n").collect()
    }
}

/// Ids inside the JSON texts of outputs.
fn without_ids(line: &str) -> String {
    const KEY: &str = r#"{\"executionId\":\""#;
    match line.find(KEY) {
        Some(at) if line.len() > at + KEY.len() + 36 => {
            let (before, after) = line.split_at(at + KEY.len());
            format!("{before}ID{}", &after[36..])
        }
        _ => line.to_owned(),
    }
}

fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/component/golden").join(name);
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == found, "{name} differs:\n{found}");
}

#[tokio::test]
async fn a_run_is_written_down_as_awstoe_does() {
    let text = kiln::component::library::find("hello-world-linux").unwrap().text;
    let runner = Runner::new(text);
    let outcome = runner.run().await.unwrap();
    assert_eq!((outcome.exit_code(), outcome.summary.status), (0, "success"));
    golden("hello-world.json", &runner.detailed(&outcome));
    let folder = outcome.folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(folder.starts_with("TOE_2") && folder.contains("_UTC-0_"), "{folder}");
    let read = |name: &str| std::fs::read_to_string(outcome.folder.join(name)).unwrap();
    assert_eq!(read("D0__doc.yml"), text);
    let console = read("console.log");
    for part in [
        "Info Phase validate\n",
        "Info Stdout: Hello World from the test phase.\n",
        "completed execution successfully",
    ] {
        assert!(console.contains(part), "{console}");
    }
    assert!(!read("application.log").is_empty());
    assert!(!runner.state().exists());
}

#[tokio::test]
async fn every_way_to_end_has_its_spelling() {
    let runner = Runner::new(
        "schemaVersion: 1.0
description: All ways to end
phases:
  - name: build
    steps:
      - name: Nested
        action: ExecuteDocument
        inputs: {document: inner.yml, phases: build}
      - name: Skipped
        action: ExecuteBinary
        if: {fileExists: inner.yml, then: Skip}
        inputs: {path: 'true'}
      - name: Ignored
        action: ExecuteBinary
        onFailure: Ignore
        inputs: {path: 'false'}
      - name: Looped
        action: ExecuteBinary
        loop: {name: Words, forEach: [a, b]}
        inputs: {path: echo, arguments: ['{{ Words.value }}']}
      - name: Secret
        action: ExecuteBash
        disableLogging: true
        inputs: {commands: ['echo hunter22']}
      - name: Slow
        action: ExecuteBinary
        onFailure: Continue
        timeoutSeconds: 1
        inputs: {path: sleep, arguments: ['30']}
      - name: Failed
        action: ExecuteBash
        inputs: {commands: ['echo so; echo wrong >&2; exit 4']}
      - name: Never
        action: Reboot
",
    );
    let inner = "schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: File, action: CreateFile, inputs: [{path: made, content: x, permissions: 0600}]}
";
    std::fs::write(runner.request.working_directory.join("inner.yml"), inner).unwrap();
    let outcome = runner.run().await.unwrap();
    assert_eq!((outcome.exit_code(), outcome.summary.status), (1, "timedOut"));
    let s = &outcome.summary;
    let counts =
        (s.executed_step_count, s.failed_step_count, s.ignored_failed_step_count, s.skipped_step_count);
    assert_eq!(counts, (6, 2, 1, 1));
    assert!(s.failure_message.ends_with("doc.yml failed!"), "{}", s.failure_message);
    golden("every-end.json", &runner.detailed(&outcome));
    let console = std::fs::read_to_string(outcome.folder.join("console.log")).unwrap();
    assert!(!console.contains("hunter22"), "{console}");
    for part in [
        "failure - Execution failed!",
        "Info Step: Slow\n",
        "Info ErrorMessage: step `Slow` failed: it timed out",
    ] {
        assert!(console.contains(part), "{console}");
    }
}

#[tokio::test]
async fn a_reboot_is_asked_for_and_the_same_command_goes_on() {
    let text = "schemaVersion: 1.0
phases:
  - name: build
    steps:
      - name: Twice
        action: ExecuteBash
        inputs: {commands: ['echo x >> count', 'test $(wc -l < count) -ge 2 || exit 194']}
      - {name: Restart, action: Reboot}
      - {name: After, action: ExecuteBash, inputs: {commands: ['cat count']}}
";
    let mut runner = Runner::new(text);
    let first = runner.run().await.unwrap();
    assert_eq!(first.exit_code(), 194);
    // What was passed anew does not count while a run is interrupted.
    std::fs::write(&runner.request.documents[0].path, "schemaVersion: 9").unwrap();
    let second = runner.run().await.unwrap();
    assert_eq!((second.exit_code(), &second.folder), (194, &first.folder));
    runner.request.phases = vec!["test".into()];
    let last = runner.run().await.unwrap();
    assert_eq!((last.exit_code(), last.summary.executed_step_count), (0, 3));
    assert_eq!(last.summary.execution_id, first.summary.execution_id);
    golden("rebooted.json", &runner.detailed(&last));
    assert!(!runner.state().exists());
    let console = std::fs::read_to_string(last.folder.join("console.log")).unwrap();
    assert_eq!(console.matches("Rebooting the system now").count(), 2);
    assert_eq!(console.matches("System has rebooted successfully").count(), 2);
    // Now the document that is there is looked at.
    let error = runner.run().await.unwrap_err();
    assert!(matches!(error, StandaloneError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn nothing_runs_while_something_is_wrong() {
    let mut runner = Runner::new(
        "schemaVersion: 1.0
parameters:
  - Kind: {type: string, default: a, allowedValues: [a, b]}
phases:
  - name: build
    steps: [{name: Touch, action: CreateFile, inputs: [{path: '{{ Kind }}'}]}]
",
    );
    let bad = runner.folder.path().join("bad.yml");
    std::fs::write(&bad, "schemaVersion: 1.0\nphases: []\n").unwrap();
    runner.request.documents.push(Given { path: bad, parameters: Vec::new() });
    assert!(matches!(runner.run().await, Err(StandaloneError::Invalid(_))));
    runner.request.documents.pop();
    runner.request.parameters = vec![("Kind".into(), "c".into())];
    let error = runner.run().await.unwrap_err().to_string();
    assert!(error.contains("a, b"), "{error}");
    assert_eq!(std::fs::read_dir(&runner.request.working_directory).unwrap().count(), 0);
    // A document's own value wins over the one for all.
    runner.request.documents[0].parameters = vec![("Kind".into(), "b".into())];
    runner.request.phases = vec!["nothing".into()];
    let outcome = runner.run().await.unwrap();
    assert_eq!((outcome.exit_code(), outcome.summary.executed_step_count), (0, 0));
    runner.request.phases.clear();
    assert_eq!(runner.run().await.unwrap().exit_code(), 0);
    assert!(runner.request.working_directory.join("b").exists());
}

/// As under nohup, or in the background of a script: what is meant for kiln is not for its programs.
#[test]
fn a_program_hears_ctrl_c_though_kiln_was_started_deaf_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let document = "name: ctrl-c\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
                    - {name: Interrupt, action: ExecuteBash, inputs: {commands: ['kill -INT $$', exit 0]}}\n";
    std::fs::write(folder.path().join("doc.yml"), document).unwrap();
    let run = |before: &str| {
        let line = format!("{before} exec \"$0\" --home home component run --documents doc.yml");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_kiln")]).current_dir(folder.path());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = run("trap '' INT;");
    assert_eq!(code, Some(1), "the step was not interrupted: {said}");
    assert_eq!(run("").0, Some(1));
}

/// kiln itself, with the keys of the store.
fn kiln(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Credentials::Keys(keys) = &server().settings.credentials else { panic!("the store has keys") };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(["--home", "home", "component"]).args(arguments).current_dir(folder);
    command.env("AWS_ACCESS_KEY_ID", &keys.id).env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    command.env("AWS_ENDPOINT_URL_S3", server().settings.endpoint.as_ref().unwrap());
    let output = command.env("AWS_REGION", "us-east-1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn documents_and_settings_may_lie_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket("standalone");
    let document = "schemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
                    - {name: Say, action: ExecuteBash, inputs: {commands: [echo hello]}}\n";
    bucket.put("doc.yml", document.as_bytes());
    bucket.put("bad.yml", b"schemaVersion: 2.0\nphases: []\n");
    bucket.put("large.yml", &vec![b'#'; (1 << 20) + 1]);
    bucket.put("run.json", br#"{"documents": [{"path": "s3://standalone/doc.yml"}], "phases": "build"}"#);
    let ran = |arguments: &[&str]| {
        let all = [&["run", "--working-directory", ".", "--log-directory", "."], arguments].concat();
        let (code, said, errors) = kiln(folder.path(), &all);
        assert_eq!(code, Some(0), "{arguments:?}: {errors}");
        assert!(said.contains("\"executedStepCount\": 1"), "{said}");
    };
    ran(&["--documents", "s3://standalone/doc.yml", "--document-s3-bucket-owner", "123456789012"]);
    ran(&["--config", "s3://standalone/run.json"]);
    let (code, said, _) = kiln(folder.path(), &["validate", "--documents", "s3://standalone/doc.yml"]);
    assert_eq!((code, said.as_str()), (Some(0), "Validation successful.\n"));
    let arn = "arn:aws:imagebuilder:eu-west-1:123456789012:component/base/1.0.0/1";
    for (arguments, part) in [
        (&["validate", "s3://standalone/bad.yml"][..], "--> s3://standalone/bad.yml:1:16"),
        (&["validate", "s3://standalone/none.yml"], "cannot be read: the store answered NoSuchKey (404)"),
        (&["validate", "s3://standalone/large.yml"], "it has more than 1048576 bytes"),
        (&["validate", "s3://standalone/doc.yml", "--document-s3-bucket-owner", "me"], "no account number"),
        (&["validate", arn], "is not known here"),
        (&["run", "-d", "s3://standalone/none.yml"], "cannot be read: the store answered NoSuchKey (404)"),
        (&["run", "-c", "s3://standalone/none.json"], "cannot fetch the settings file"),
        (&["run", "-d", "s3://standalone/doc.yml", "-b", "logs"], "`--log-s3-bucket-name` has no effect"),
        (&["run", "-d", "s3://standalone/doc.yml", "--cw-log-group", "g"], "`--cw-log-group` has no effect"),
    ] {
        let (code, said, errors) = kiln(folder.path(), arguments);
        assert!(code == Some(2) && errors.contains(part), "{arguments:?} {code:?}: {said}{errors}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().flatten().filter(|e| e.file_name() != "home").count(),
        2,
        "only the two good runs have a log folder"
    );
}
