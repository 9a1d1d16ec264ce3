//! Reboots, and going on from a kept state.

use super::rig::{Rig, output, statuses, steps, succeeded};
use kiln::component::run::{Ending, Reboots};
use kiln::component::{RunState, plan};

const TWICE: &str = "- name: Before
  action: ExecuteBash
  inputs: {commands: ['echo before >> HERE/log']}
- name: Again
  action: ExecuteBash
  if: {not: {fileExists: HERE/asked}}
  inputs:
    commands:
      - touch HERE/asked
      - echo again >> HERE/log
      - test $(grep -c again HERE/log) -ge 3 || exit 194
      - echo done
- name: Restart
  action: Reboot
- name: After
  action: ExecuteBash
  inputs: {commands: ['echo after >> HERE/log; echo {{ build.Again.outputs.stdout }}']}";

#[tokio::test]
async fn exit_194_runs_the_step_again_and_reboot_goes_on() {
    let mut rig = Rig::new().await;
    let both = [rig.component(&steps(TWICE), &[]), rig.component(&steps(
        "- name: Second\n  action: ExecuteBinary\n  inputs: {path: bash, arguments: [-c, 'test -e HERE/second || { touch HERE/second; exit 194; }']}",
    ), &[])];
    let report = rig.run_all(&both, None, None).await;
    succeeded(&report);
    assert_eq!(rig.read("log"), "before\nagain\nagain\nagain\nafter\n");
    assert_eq!(rig.reboots(), 4);
    assert_eq!(report.state.reboots, 4);
    assert_eq!(output(&report, "After", "stdout"), "done");
    // What was planned is what was run.
    let planned: Vec<String> =
        plan(&both, None).into_iter().map(|p| format!("{} success", p.step_name)).collect();
    assert_eq!(statuses(&report), planned);
    let reboots: Vec<&String> = rig.watch.told.iter().filter(|t| t.starts_with("reboot")).collect();
    assert_eq!(reboots[0], "rebooting Again again=true");
    assert_eq!(reboots[1], "rebooted Again");
    assert_eq!(reboots[4], "rebooting Restart again=false");
    assert_eq!(reboots[5], "rebooted Restart");
}

#[tokio::test]
async fn a_run_goes_on_from_any_kept_state() {
    let mut rig = Rig::new().await;
    rig.options.reboots = Reboots::HandOver;
    let components = [rig.component(&steps(TWICE), &[])];
    let mut report = rig.run_all(&components, None, None).await;
    let mut handed_over = 0;
    while report.ending == Ending::RebootDue {
        handed_over += 1;
        let kept: RunState = serde_json::from_str(rig.watch.kept.last().unwrap()).unwrap();
        report = rig.run_all(&components, None, Some(kept)).await;
    }
    succeeded(&report);
    assert_eq!((handed_over, rig.reboots()), (3, 0));
    assert_eq!(rig.read("log"), "before\nagain\nagain\nagain\nafter\n");
    assert_eq!(statuses(&report), ["Before success", "Again success", "Restart success", "After success"]);
    // From the state after the first step, the rest is run.
    let first: RunState = serde_json::from_str(&rig.watch.kept[0]).unwrap();
    std::fs::remove_file(rig.path("asked")).unwrap();
    rig.options.reboots = Reboots::Guest;
    let report = rig.run_all(&components, None, Some(first)).await;
    succeeded(&report);
    assert_eq!(report.counts.executed, 4);
}

#[tokio::test]
async fn reboots_of_a_document_inside_and_of_a_loop_come_back_to_their_place() {
    let mut rig = Rig::new().await;
    let inner = "schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: One, action: ExecuteBash, inputs: {commands: ['echo one >> log']}}
      - {name: Restart, action: Reboot}
      - {name: Two, action: ExecuteBash, inputs: {commands: ['echo two >> log']}}
";
    std::fs::write(rig.path("inner.yml"), inner).unwrap();
    let report = rig
        .run(&steps(
            "- name: Inside
  action: ExecuteDocument
  inputs: {document: inner.yml}
- name: Loop
  action: ExecuteBash
  loop: {forEach: [a, b]}
  inputs: {commands: ['echo {{ loop.value }} >> log', 'test -e {{ loop.value }} || { touch {{ loop.value }}; exit 194; }', 'echo {{ loop.value }}']}
- name: Restarts
  action: Reboot
  loop: {for: {start: 1, end: 2, updateBy: 1}}",
        ))
        .await;
    succeeded(&report);
    assert_eq!(rig.read("log"), "one\ntwo\na\na\nb\nb\n");
    assert_eq!(rig.reboots(), 5);
    assert_eq!(output(&report, "Loop", "stdout"), "a\nb");
}

#[tokio::test]
async fn a_step_that_never_stops_rebooting_is_stopped() {
    let mut rig = Rig::new().await;
    rig.options.reboot_limit = 2;
    let report =
        rig.run(&steps("- {name: Forever, action: ExecuteBash, inputs: {commands: [exit 194]}}")).await;
    assert_eq!(report.ending, Ending::Stopped);
    assert_eq!(rig.reboots(), 2);
    let failure = report.failure.unwrap();
    assert!(failure.message.contains("rebooted 2 times"));
    assert_eq!((failure.phase.as_deref(), failure.action.as_deref()), (Some("build"), Some("ExecuteBash")));
    assert!(failure.position.is_some());
}

#[tokio::test]
async fn where_no_reboot_can_be_the_wish_for_one_fails_the_step() {
    let mut rig = Rig::new().await;
    rig.options.reboots = Reboots::Refuse("nothing is booted");
    let inner = "schemaVersion: 1.0\nphases: [{name: build, steps: [{name: Restart, action: Reboot}]}]\n";
    std::fs::write(rig.path("inner.yml"), inner).unwrap();
    let report = rig
        .run(&steps(
            "- {name: Asks, action: ExecuteBash, onFailure: Continue, inputs: {commands: [exit 194]}}
- {name: Inside, action: ExecuteDocument, inputs: {document: inner.yml}}
- {name: After, action: ExecuteBash, inputs: {commands: ['true']}}",
        ))
        .await;
    assert_eq!(report.ending, Ending::Ended);
    assert_eq!(statuses(&report), ["Asks failed", "Inside failed"]);
    assert_eq!(rig.reboots(), 0);
    let messages: Vec<&str> = report.state.steps().map(|s| s.message.as_str()).collect();
    assert_eq!(messages[0], "exit status 194 asks for a reboot, but nothing is booted");
    assert!(messages[1].ends_with("it asks for a reboot, but nothing is booted"), "{}", messages[1]);
    let failure = report.failure.unwrap();
    assert_eq!((failure.step.as_deref(), failure.exit_code), (Some("Asks"), Some(194)));
}
