//! A plan, for people and for programs.

use crate::build::host_files::HostFiles;
use crate::build::layers::Why;
use crate::build::plan::Plan;
use crate::build::recipe::Lane;
use crate::component::{Component, Iterations, PlannedStep};
use crate::model::Stage;
use crate::support::size::count;
use serde_json::{Value, json};
use std::fmt::Write;

const MIB: u64 = 1 << 20;

fn mib(bytes: u64) -> String {
    match bytes / MIB {
        n if n >= 1024 && n % 1024 == 0 => format!("{} GiB", n / 1024),
        n if n >= 10_240 => format!("{:.1} GiB", n as f64 / 1024.0),
        n => format!("{n} MiB"),
    }
}

/// What each stage will do, in a line; steps follow below provision and test.
fn stage_text(plan: &Plan, stage: Stage) -> String {
    let s = &plan.recipe.settings;
    match stage {
        Stage::Prepare if plan.layers.resume.is_some() => {
            let resume = plan.layers.resume.as_ref().expect("just looked");
            let (after, build) = (&resume.layer.component, &resume.layer.build);
            format!("overlay on the layer after {after}, made by {build}")
        }
        Stage::Prepare if plan.disk_size > plan.parent.virtual_size => {
            format!(
                "overlay on {}, grown from {} to {}",
                plan.parent.name,
                mib(plan.parent.virtual_size),
                mib(plan.disk_size)
            )
        }
        Stage::Prepare => format!("overlay on {} ({})", plan.parent.name, mib(plan.parent.virtual_size)),
        Stage::Boot if plan.layers.is_complete() => "nothing to boot for".into(),
        Stage::Boot => format!(
            "{}, {}, {} vCPU, {} MiB, cpu {}, disk {}, network {}",
            match (plan.first_lane(), plan.firmware) {
                (Lane::Appliance, _) => "kiln's appliance, nothing of the image is started",
                (Lane::Booted, None) => "kernel started directly",
                (Lane::Booted, Some(firmware)) => firmware.as_str(),
            },
            plan.accelerator,
            plan.vcpus,
            s.memory,
            plan.cpu,
            s.disk.as_str(),
            s.network.as_str()
        ),
        Stage::Provision => count(plan.to_provision().count(), "step"),
        Stage::Seal => "power off, clean the disk of this machine's traces".into(),
        Stage::Capture => "digest and keep the disk".into(),
        Stage::Test => {
            let firmware: Vec<&str> = plan.test_firmware.iter().map(|f| f.as_str()).collect();
            format!("{} steps in a fresh machine under {}", plan.test.len(), firmware.join(", then "))
        }
        Stage::Distribute => {
            let files: Vec<String> =
                plan.recipe.exports.iter().map(|e| format!("{} to {}", e.format, e.path.display())).collect();
            files.join(", ")
        }
    }
}

fn steps_of(plan: &Plan, stage: Stage) -> Vec<&PlannedStep> {
    match stage {
        Stage::Provision => plan.to_provision().collect(),
        Stage::Test => plan.test.iter().collect(),
        _ => Vec::new(),
    }
}

/// Why a component runs, or where its work comes from; nothing where layers have no part in it.
fn layer_text(plan: &Plan, index: usize) -> Option<String> {
    let label = &plan.components[index].label;
    match plan.layers.why.get(index)? {
        None => Some(format!("{label}: in the layer")),
        Some(Why::Reason(_)) if plan.lane(index).is_none() => None,
        Some(Why::Reason(reason)) => Some(format!("{label} runs: {reason}")),
        Some(Why::Follows) => None,
    }
}

/// What happens within a stage, in order.
fn below(plan: &Plan, stage: Stage) -> Vec<String> {
    if stage != Stage::Provision {
        return steps_of(plan, stage).into_iter().map(|s| step_text(s, None)).collect();
    }
    let mut lines = Vec::new();
    for (index, (component, files)) in plan.components.iter().zip(&plan.files).enumerate() {
        lines.extend(layer_text(plan, index));
        if index < plan.layers.done() {
            continue;
        }
        lines.extend(files.iter().map(|files| format!("{} brings {files}", component.label)));
        let lane = plan.lane(index);
        let steps = plan.provision.iter().filter(|s| s.component == index);
        lines.extend(steps.map(|s| step_text(s, lane)));
    }
    lines
}

pub fn human(plan: &Plan) -> String {
    let mut t = String::new();
    let recipe = &plan.recipe;
    let _ =
        writeln!(t, "{} {} from {} ({})", recipe.name, plan.version, plan.parent.name, plan.architecture());
    for stage in plan.route.stages() {
        let _ = writeln!(t, "  {:<11}{}", stage.as_str(), stage_text(plan, *stage));
        for line in below(plan, *stage) {
            let _ = writeln!(t, "             {line}");
        }
    }
    match plan.guest_free {
        Some(free) => {
            let _ = writeln!(t, "  free space on the guest's root before the first step: {}", mib(free));
        }
        None => {
            let _ = writeln!(
                t,
                "  free space on the guest's root: known once a build has looked at {}",
                plan.parent.name
            );
        }
    }
    let _ = writeln!(t, "  inputs {}", &plan.inputs[..16]);
    t
}

fn step_text(step: &PlannedStep, lane: Option<Lane>) -> String {
    let mut text =
        format!("{} {}/{} ({})", step.component_name, step.phase_name, step.step_name, step.action);
    match step.iterations {
        Iterations::Once => {}
        Iterations::Times(n) => text.push_str(&format!(", {n} times")),
        Iterations::Unknown => text.push_str(", in a loop"),
    }
    if step.conditional {
        text.push_str(", on a condition");
    }
    if lane == Some(Lane::Appliance) {
        text.push_str(", in the appliance");
    }
    text
}

pub fn json(plan: &Plan) -> Value {
    let stages: Vec<Value> = plan
        .route
        .stages()
        .iter()
        .map(|stage| {
            let steps: Vec<Value> = steps_of(plan, *stage).into_iter().map(step_json).collect();
            json!({"stage": stage.as_str(), "text": stage_text(plan, *stage), "steps": steps})
        })
        .collect();
    let component = |(index, component): (usize, &Component)| {
        let why = match plan.layers.why.get(index) {
            Some(Some(Why::Reason(reason))) => Some(reason.as_str()),
            Some(Some(Why::Follows)) => Some("a component before it runs"),
            _ => None,
        };
        json!({
            "name": component.label,
            "run": plan.lane(index).map(Lane::as_str),
            "key": plan.layers.keys[index + 1],
            "layer": index < plan.layers.done(),
            "why": why,
        })
    };
    let components: Vec<Value> = plan.components.iter().enumerate().map(component).collect();
    let files: Vec<Value> = plan
        .components
        .iter()
        .zip(&plan.files)
        .flat_map(|(component, files)| files.iter().map(|f| files_json(&component.label, f)))
        .collect();
    json!({
        "name": plan.recipe.name.as_str(),
        "version": plan.version.to_string(),
        "architecture": plan.architecture().as_str(),
        "parent": {"name": plan.parent.name, "digest": plan.parent.digest, "virtualSize": plan.parent.virtual_size},
        "accelerator": plan.accelerator.as_str(),
        "unrunnable": plan.unrunnable.as_ref().map(|f| f.to_string()),
        "cpu": plan.cpu,
        "vcpus": plan.vcpus,
        "memoryMib": plan.recipe.settings.memory,
        "firmware": plan.firmware.map(|f| f.as_str()),
        "testFirmware": plan.test_firmware.iter().map(|f| f.as_str()).collect::<Vec<_>>(),
        "diskSize": plan.disk_size,
        "guestFree": plan.guest_free,
        "inputs": plan.inputs,
        "files": files,
        "components": components,
        "stages": stages,
        "warnings": plan.warnings.iter().map(|w| w.json()).collect::<Vec<_>>(),
    })
}

fn files_json(component: &str, files: &HostFiles) -> Value {
    json!({
        "component": component,
        "source": files.source,
        "destination": files.destination,
        "files": files.file_count(),
        "bytes": files.bytes(),
        "digest": files.digest(),
    })
}

fn step_json(step: &PlannedStep) -> Value {
    json!({
        "component": step.component_name,
        "phase": step.phase_name,
        "step": step.step_name,
        "action": step.action,
        "conditional": step.conditional,
        "iterations": match step.iterations {
            Iterations::Once => Some(1),
            Iterations::Times(n) => Some(n),
            Iterations::Unknown => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::plan::tests::{Bench, RECIPE};

    /// The text of a plan, and with it the order of everything a build does, is pinned.
    #[tokio::test]
    async fn a_plan_reads_as_pinned() {
        let bench = Bench::new();
        let text = format!("{RECIPE}  # and two files\n");
        let text = text.replace("kiln: {", "kiln: {exports: [out/web.raw, out/web.qcow2], ");
        let plan = bench.good(&text, &[]).await;
        let said = human(&plan).replace(&bench.root().display().to_string(), "HOME");
        let want = "\
web 1.0.0 from debian-12 (x86_64)
  prepare    overlay on debian-12, grown from 2 GiB to 4 GiB
  boot       kernel started directly, tcg, 1 vCPU, 1024 MiB, cpu max, disk virtio, network user
  provision  2 steps
             site runs: there is no layer of it yet
             site build/Write (ExecuteBash)
             site validate/Check (ExecuteBash)
  seal       power off, clean the disk of this machine's traces
  capture    digest and keep the disk
  test       1 steps in a fresh machine under bios, then uefi
             site test/Fetch (ExecuteBash)
  distribute raw to HOME/out/web.raw, qcow2 to HOME/out/web.qcow2
  free space on the guest's root: known once a build has looked at debian-12
";
        assert_eq!(said.lines().take(13).map(|l| format!("{l}\n")).collect::<String>(), want);
        let in_the_lane = bench.good(&text.replace("kiln: {", "kiln: {run: appliance, "), &[]).await;
        let said = human(&in_the_lane);
        assert!(
            said.contains("  boot       kiln's appliance, nothing of the image is started, tcg"),
            "{said}"
        );
        assert!(said.contains("site build/Write (ExecuteBash), in the appliance\n"), "{said}");
        assert!(said.contains("site test/Fetch (ExecuteBash)\n"), "tests are always booted: {said}");
        assert_eq!(json(&in_the_lane)["components"][0]["run"], "appliance");
        let json = json(&plan);
        assert_eq!(json["components"][0]["run"], "booted");
        assert_eq!(json["stages"].as_array().unwrap().len(), 7);
        assert_eq!(json["stages"][2]["steps"][0]["step"], "Write");
    }
}
