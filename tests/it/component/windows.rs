//! Windows documents: checked and planned completely; run they are not, and say so.

use super::rig::{Rig, steps};
use kiln::component::{Document, Platform, Rules, plan};
use kiln::support::source::Source;

const TEXT: &str = "- name: Shell
  action: ExecutePowerShell
  loop: {for: {start: 1, end: 10, updateBy: 4}}
  inputs: {commands: ['$ErrorActionPreference = \"Stop\"', Get-Service -Name W32Time]}
- name: File
  action: ExecutePowerShell
  inputs: {file: 'C:\\setup.ps1'}
- name: Install
  action: InstallMSI
  if: {not: {fileExists: 'C:\\Tool\\tool.exe'}}
  inputs:
    path: 'C:\\pkg\\tool.msi'
    reboot: Skip
    logFile: 'C:\\logs\\tool.log'
    logOptions: '*VX'
    properties: {COMPANYNAME: '\"Example Ltd\"', REBOOT: ReallySuppress}
- name: Remove
  action: UninstallMSI
  inputs: {path: 's3://pkg/tool.msi', reboot: Allow}
- name: Keys
  action: SetRegistry
  inputs:
    - {path: 'HKLM:\\SOFTWARE\\Example', name: Retries, value: 3, type: DWORD}
    - {path: 'HKEY_CURRENT_USER\\Example', name: List, value: [a, b], type: MULTI_SZ}
- name: Log
  action: ExecutePowerShell
  inputs: {commands: ['echo {{ build.Install.outputs.msiExitCode }} {{ build.Keys.inputs[1].name }}']}
- name: Patch
  action: UpdateOS
  inputs: {include: [KB1234567], exclude: ['*Preview*']}";

#[test]
fn windows_documents_are_planned() {
    let document =
        Document::parse(&Source::new("w.yml", steps(TEXT)), &Rules::default()).unwrap_or_else(|all| {
            panic!("{}", all.iter().map(|d| d.render()).collect::<String>());
        });
    assert_eq!(document.platform, Platform::Windows);
    let component =
        kiln::component::Component::bind("w", document, &[], kiln::component::Strictness::Recipe).unwrap();
    let shown: Vec<String> = plan(&[component], Some(&["build"]))
        .into_iter()
        .map(|p| {
            format!("{}.{} {} {:?} if={}", p.phase_name, p.step_name, p.action, p.iterations, p.conditional)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "build.Shell ExecutePowerShell Times(3) if=false",
            "build.File ExecutePowerShell Once if=false",
            "build.Install InstallMSI Once if=true",
            "build.Remove UninstallMSI Once if=false",
            "build.Keys SetRegistry Once if=false",
            "build.Log ExecutePowerShell Once if=false",
            "build.Patch UpdateOS Once if=false",
        ]
    );
}

#[tokio::test]
async fn a_windows_action_says_that_it_cannot_be_run() {
    let mut rig = Rig::new().await;
    let report = rig.run(&steps(TEXT)).await;
    let message = report.failure.unwrap().message;
    assert!(message.contains("needs a Windows guest, which this kiln cannot drive yet"), "{message}");
}
