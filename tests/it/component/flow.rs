//! Order, attempts, failures, chaining, conditions, loops.

use super::rig::{Rig, output, statuses, steps, succeeded};
use kiln::component::run::{Ending, Status};
use kiln::model::FailureKind;

#[tokio::test]
async fn commands_share_a_shell_and_the_last_one_decides() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Share
  action: ExecuteBash
  inputs:
    commands:
      - X=one
      - 'false'
      - echo \"$? $X $HOME $WORKING_DIRECTORY $(pwd)\"
      - echo oops >&2
      -
- name: Chained
  action: ExecuteBash
  inputs:
    commands: ['echo \"<{{ build.Share.outputs.stdout }}>\"', 'printf \"a\\n\\n\"']",
        ))
        .await;
    succeeded(&report);
    let folder = rig.path("");
    let folder = folder.trim_end_matches('/');
    assert_eq!(output(&report, "Share", "stdout"), format!("1 one /root {folder} {folder}"));
    assert_eq!(output(&report, "Chained", "stdout"), format!("<1 one /root {folder} {folder}>\na\n"));
    assert!(rig.watch.told.contains(&"err oops".to_owned()));
    assert_eq!(std::fs::read_dir(rig.folder.path()).unwrap().count(), 0, "the script's folder is gone");
}

#[tokio::test]
async fn a_document_that_empties_its_folder_goes_on() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Wipe
  action: ExecuteBash
  inputs: {commands: ['rm -rf HERE/*', 'sleep 0.1', 'echo still here']}
- name: After
  action: ExecuteBash
  inputs: {commands: [echo after]}",
        ))
        .await;
    succeeded(&report);
    assert_eq!(output(&report, "Wipe", "stdout"), "still here");
}

#[tokio::test]
async fn a_failure_says_where_and_what() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Breaks
  action: ExecuteBash
  inputs: {commands: ['for i in $(seq 30); do echo line $i; done; exit 3']}
- name: Never
  action: ExecuteBash
  inputs: {commands: ['echo never']}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Breaks failed"]);
    let failure = report.failure.unwrap();
    assert_eq!((failure.exit_code, failure.step.as_deref()), (Some(3), Some("Breaks")));
    assert_eq!(failure.last_lines.len(), 20);
    assert_eq!(failure.last_lines[19], "line 30");
    assert_eq!(failure.kind, FailureKind::Build);
    assert_eq!(failure.position.unwrap().line, 5);
    assert_eq!(failure.message, "step `Breaks` failed: exit status 3");
}

#[tokio::test]
async fn continue_fails_in_the_end_and_ignore_does_not() {
    let mut rig = Rig::new().await;
    let text = |first: &str| {
        steps(&format!(
            "- name: First
  action: ExecuteBash
  onFailure: {first}
  inputs: {{commands: ['exit 1']}}
- name: Second
  action: ExecuteBash
  inputs: {{commands: ['true']}}"
        ))
    };
    let ignored = rig.run(&text("Ignore")).await;
    assert_eq!(statuses(&ignored), ["First ignoredFailure", "Second success"]);
    assert_eq!(ignored.status, Status::SuccessWithIgnoredFailure);
    assert!(ignored.failure.is_none() && ignored.is_success());
    let continued = rig.run(&text("Continue")).await;
    assert_eq!(statuses(&continued), ["First failed", "Second success"]);
    assert_eq!(continued.status, Status::Failed);
    assert_eq!(continued.counts.executed, 2);
    assert!(continued.failure.is_some() && !continued.is_success());
}

#[tokio::test]
async fn attempts_are_used_until_one_succeeds() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Third
  action: ExecuteBash
  maxAttempts: 3
  inputs: {commands: ['echo x >> HERE/count', 'test $(wc -l < HERE/count) -ge 3']}
- name: Never
  action: ExecuteBash
  maxAttempts: 2
  timeoutSeconds: 1
  onFailure: Ignore
  inputs: {commands: ['echo y >> HERE/slow', 'sleep 60']}",
        ))
        .await;
    succeeded(&report);
    assert_eq!(rig.read("count"), "x\nx\nx\n");
    assert_eq!(rig.read("slow"), "y\ny\n");
    let never = report.state.steps().last().unwrap();
    assert_eq!((never.attempts, never.message.as_str()), (2, "it timed out after 1 s"));
    assert!(rig.watch.told.contains(&"attempt 3/3 Third".to_owned()));
}

#[tokio::test]
async fn phases_run_in_the_documents_order_and_unknown_ones_select_nothing() {
    let mut rig = Rig::new().await;
    let text = "schemaVersion: 1
phases:
  - name: validate
    steps: [{name: Check, action: ExecuteBash, inputs: {commands: [exit 1]}}]
  - name: build
    steps: [{name: Make, action: ExecuteBash, inputs: {commands: ['true']}}]
";
    let both = [rig.component(text, &[]), rig.component(text, &[])];
    let report = rig.run_all(&both[..1], Some(&["build", "validate"]), None).await;
    assert_eq!(statuses(&report), ["Check failed"]);
    assert_eq!(report.failure.unwrap().kind, FailureKind::Test);
    let report = rig.run_all(&both, Some(&["build"]), None).await;
    assert_eq!(statuses(&report), ["Make success", "Make success"]);
    let report = rig.run_all(&both, Some(&["deploy"]), None).await;
    assert!(report.is_success() && report.counts.executed == 0);
}

#[tokio::test]
async fn conditions_decide_once_and_lazily() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Data
  action: CreateFile
  inputs: [{path: HERE/data, content: abc}]
- name: Skipped
  action: ExecuteBash
  if: {fileExists: HERE/data, then: Skip, else: Execute}
  inputs: {commands: ['exit 1']}
- name: Lazy
  action: ExecuteBash
  if:
    or:
      - folderExists: HERE
      - stringEquals: '{{ build.Skipped.outputs.stdout }}'
        value: x
  inputs: {commands: ['echo ran']}
- name: Digest
  action: Assert
  inputs:
    and:
      - fileMD5Equals: 900150983cd24fb0d6963f7d28e17f72
        path: HERE/data
      - fileSHA256Equals: BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD
        path: data
      - not: [{binaryExists: no-such-program}]
      - not: {fileExists: HERE}
- name: Direction
  action: Assert
  inputs: {numberLessThan: 2, value: 1}
- name: Texts
  action: Assert
  inputs:
    and:
      - {stringIsEmpty: ''}
      - {stringIsWhitespace: '  '}
      - {stringEquals: RAN, value: '{{ build.Lazy.outputs.stdout }}'}
      - {patternMatches: '^r[a-z]+$', value: '{{ build.Lazy.outputs.stdout }}'}
- name: NoNumber
  action: Assert
  onFailure: Ignore
  inputs: {numberEquals: 1, value: one}
- name: Aborts
  action: ExecuteBash
  if: {binaryExists: sh, then: Abort}
  inputs: {commands: ['true']}",
        ))
        .await;
    assert_eq!(
        statuses(&report),
        [
            "Data success",
            "Skipped skipped",
            "Lazy success",
            "Digest success",
            "Direction success",
            "Texts success",
            "NoNumber ignoredFailure",
            "Aborts failed"
        ]
    );
    assert_eq!(report.counts.skipped, 1);
}

#[tokio::test]
async fn loops_visit_all_values_and_join_their_outputs() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Counted
  action: ExecuteBash
  loop: {for: {start: 3, end: 1, updateBy: -1}}
  inputs: {commands: ['echo {{ loop.index }}:{{ loop.value }}']}
- name: Listed
  action: CreateFile
  loop: {name: Files, forEach: ['a', '{{ build.Counted.outputs.stdout }}']}
  inputs: [{path: 'HERE/{{ Files.index }}', content: '{{ Files.value }}'}]
- name: Split
  action: ExecuteBash
  loop: {forEach: {list: 'x;y z;', delimiter: ';'}}
  inputs: {commands: ['echo \"[{{ loop.value }}]\"']}
- name: Outside
  action: ExecuteBash
  inputs: {commands: ['echo \"{{ loop.value }}\"']}",
        ))
        .await;
    succeeded(&report);
    assert_eq!(output(&report, "Counted", "stdout"), "0:3\n1:2\n2:1");
    assert_eq!((rig.read("0"), rig.read("1")), ("a".into(), "0:3\n1:2\n2:1".into()));
    assert_eq!(output(&report, "Split", "stdout"), "[x]\n[y z]\n[]");
    assert_eq!(output(&report, "Outside", "stdout"), "{{ loop.value }}");
}

#[tokio::test]
async fn a_loop_has_one_time_budget_and_is_retried_from_its_start() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Slow
  action: ExecuteBash
  timeoutSeconds: 4
  maxAttempts: 2
  loop: {for: {start: 1, end: 5, updateBy: 1}}
  inputs: {commands: ['echo {{ loop.value }} >> HERE/visits', 'sleep 0.3', 'test {{ loop.value }} != 3 || test $(grep -c 3 HERE/visits) -gt 1 || sleep 60']}",
        ))
        .await;
    succeeded(&report);
    let visits: Vec<String> = rig.read("visits").lines().map(str::to_owned).collect();
    // The third visit of the first attempt does not get to its end.
    assert_eq!(visits, ["1", "2", "3", "1", "2", "3", "4", "5"]);
    let slow = report.state.steps().next().unwrap();
    assert_eq!(slow.attempts, 2);
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_time() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Long
  action: Assert
  timeoutSeconds: 1
  loop: {for: {start: 0, end: 2147483648, updateBy: 1}}
  inputs: {stringIsEmpty: ''}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Long timedOut"]);
    assert_eq!(report.failure.unwrap().kind, FailureKind::TimedOut);
}

#[tokio::test]
async fn references_of_every_kind_resolve() {
    let mut rig = Rig::new().await;
    std::fs::write(
        rig.path("values.json"),
        r#"{"parameters": {"/plain": "p", "/name": "/plain", "/pass": {"value": "hunter22", "secret": true}},
            "metadata": {"instance-id": "i-1"}, "context": {"accountId": "123456789012", "region": "here-1"}}"#,
    )
    .unwrap();
    rig.values = kiln::component::Values::load(rig.path("values.json").as_ref()).unwrap();
    rig.options.environment = vec![("IMAGE_PHASE".into(), "BUILDING".into())];
    let text = "schemaVersion: 1.0
constants:
  - Code: {type: string, value: 7}
parameters:
  - Where: {type: string, default: here}
  - Param: {type: string}
phases:
  - name: build
    steps:
      - name: Refs
        action: ExecuteBash
        inputs:
          commands:
            - echo '{{ Code }} {{ Where }} {{Param}} {{ env:IMAGE_PHASE }} {{ context:phase }}.{{ context:step }} {{ context:osPlatform }}'
            - echo '{{ aws:ssm:/plain }} {{ aws:ssm:resolve(aws:ssm:/name) }} {{ aws:imds:instance-id }}'
            - echo '{{ context:accountId }} {{ context:region }}'
            - echo 'login with {{ aws:ssm:/pass }}'
      - name: Inputs
        action: ExecuteBash
        inputs: {commands: ['echo {{ build.Made.inputs[1].path }}']}
      - name: Unset
        action: ExecuteBash
        onFailure: Ignore
        inputs: {commands: ['echo {{ env:NOPE }}']}
      - name: NoValue
        action: ExecuteBash
        onFailure: Ignore
        inputs: {commands: ['echo {{ aws:ssm:/none }}']}
";
    let text = text.replace(
        "      - name: Inputs",
        "      - name: Made\n        action: CreateFile\n        inputs: [{path: HERE/one}, {path: 'HERE/{{ Where }}'}]\n      - name: Inputs",
    );
    let component = rig.component(&text, &[("Param", "$HOME"), ("Unknown", "x")]);
    let report = rig.run_all(&[component], None, None).await;
    succeeded(&report);
    assert_eq!(
        output(&report, "Refs", "stdout"),
        "7 here $HOME BUILDING build.Refs linux\np p i-1\n123456789012 here-1\nlogin with hunter22"
    );
    assert!(rig.watch.told.contains(&"out login with ******".to_owned()), "{:?}", rig.watch.told);
    let detailed = kiln::component::records::detailed_output(&report.state);
    assert!(!detailed.contains("hunter22"), "{detailed}");
    assert_eq!(output(&report, "Inputs", "stdout"), rig.path("here"));
    let messages: Vec<&str> = report.state.steps().map(|s| s.message.as_str()).collect();
    assert!(messages[3].contains("no `NOPE`"), "{messages:?}");
    assert!(messages[4].contains("no value for the parameter /none (--values FILE"), "{messages:?}");
}

#[tokio::test]
async fn a_megabyte_is_what_can_be_chained() {
    let mut rig = Rig::new().await;
    let report = rig
        .run(&steps(
            "- name: Big
  action: ExecuteBash
  inputs: {commands: ['head -c 3000000 /dev/zero | tr \"\\0\" x']}
- name: Use
  action: ExecuteBash
  inputs: {commands: ['echo {{ build.Big.outputs.stdout }}']}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Big success", "Use failed"]);
    assert!(report.failure.unwrap().message.contains("1 MiB"));
    let logged: usize = rig.watch.told.iter().filter_map(|l| l.strip_prefix("out ")).map(str::len).sum();
    assert_eq!(logged, 3_000_000);
}

#[tokio::test]
async fn documents_inside_documents_run_and_stop_at_their_bounds() {
    let mut rig = Rig::new().await;
    std::fs::write(
        rig.path("inner.yml"),
        "schemaVersion: 1.0
parameters:
  - Word: {type: string, default: none}
phases:
  - name: build
    steps: [{name: Say, action: ExecuteBash, inputs: {commands: ['echo {{ Word }} >> inner-ran']}}]
  - name: test
    steps: [{name: Fail, action: ExecuteBash, inputs: {commands: ['exit 9']}}]
",
    )
    .unwrap();
    let this = "schemaVersion: 1.0\nphases: [{name: build, steps: [{name: Again, action: ExecuteDocument, inputs: {document: self.yml}}]}]\n";
    std::fs::write(rig.path("self.yml"), this).unwrap();
    let report = rig
        .run(&steps(
            "- name: Inside
  action: ExecuteDocument
  inputs: {document: ./inner.yml, phases: build, parameters: [{name: Word, value: hello}]}
- name: Failing
  action: ExecuteDocument
  onFailure: Ignore
  inputs: {document: HERE/inner.yml}
- name: Cycle
  action: ExecuteDocument
  onFailure: Ignore
  inputs: {document: self.yml}
- name: Missing
  action: ExecuteDocument
  onFailure: Ignore
  inputs: {document: nowhere.yml}
- name: Summary
  action: Assert
  inputs: {stringEquals: '1', value: '{{ build.Inside.outputs.executedStepCount }}'}",
        ))
        .await;
    succeeded(&report);
    assert_eq!(rig.read("inner-ran"), "hello\nnone\n");
    let steps: Vec<_> = report.state.steps().collect();
    assert!(steps[0].nested.is_some());
    assert!(steps[1].message.contains("exit status 9"), "{}", steps[1].message);
    assert!(steps[2].message.contains("runs itself"), "{}", steps[2].message);
    assert!(steps[3].message.contains("there is no file"), "{}", steps[3].message);
    assert_eq!(report.ending, Ending::Ended);
}

#[tokio::test]
async fn a_cancelled_run_stops_at_once() {
    let mut rig = Rig::new().await;
    rig.options.secrets = vec!["hunter22".into()];
    let step = "- name: Sleep\n  action: ExecuteBinary\n  onFailure: Ignore\n  inputs: {path: /bin/sh, arguments: ['-c', 'sleep 60; exit 1', hunter22]}";
    let component = rig.component(&steps(step), &[]);
    let cancel = tokio_util::sync::CancellationToken::new();
    let patience = kiln::support::wait::Patience::unlimited(&cancel);
    let components = [component];
    let job = kiln::component::Job {
        components: &components,
        phases: None,
        options: &rig.options,
        provider: &rig.values,
    };
    let begun = std::time::Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cancel.cancel();
    });
    let report = kiln::component::run(job, None, &rig.guest, &mut rig.watch, &patience).await;
    assert_eq!(report.ending, Ending::Stopped);
    let failure = report.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert!(!format!("{failure:?}").contains("hunter22"), "{failure:?}");
    assert!(begun.elapsed().as_secs() < 20);
}

/// The example in JSON, as it is in the repository.
#[tokio::test]
async fn a_document_in_json_chains_its_steps() {
    let mut rig = Rig::new().await;
    let text = include_str!("../../../examples/components/chaining.json");
    for (channel, last) in [("stable", "release-1.4-stable.txt"), ("beta", "release-1.4-beta.txt")] {
        let component = rig.component(text, &[("Channel", channel)]);
        assert!(component.document.warnings.is_empty(), "{:?}", component.document.warnings);
        let report = rig.run_all(&[component], None, None).await;
        succeeded(&report);
        assert!(rig.read(&format!("notes/{last}")).starts_with("1: release of 1.4-"));
    }
}
