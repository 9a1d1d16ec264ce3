//! What a build starts with: the disk and the machine that it is changed in.

use super::key::Part;
use crate::build::plan::Plan;
use crate::machine::firmware::firmware_code;
use crate::model::Firmware;

/// Raised when kiln makes other disks of the same inputs.
const GENERATION: u32 = 1;

/// Not in it: memory size, vCPUs, paths, times.
pub fn start(plan: &Plan) -> Vec<Part> {
    let settings = &plan.recipe.settings;
    let mut parts = vec![
        Part::new("base image", format!("sha256:{}", plan.parent.digest)),
        Part::new("disk size", plan.disk_size.to_string()),
        Part::new("cpu", plan.cpu.clone()),
        Part::new("disk interface", settings.disk.as_str()),
        Part::new("network", settings.network.as_str()),
        Part::new("working directory", plan.recipe.working_directory.clone()),
        Part::new("firmware", plan.firmware.map_or("none", |f| f.as_str())),
        Part::new("generation", GENERATION.to_string()),
    ];
    if plan.firmware == Some(Firmware::Uefi)
        && let Some(code) = firmware_code(plan.architecture())
    {
        parts.push(Part::digest("firmware code", &code));
    }
    // The same name is another processor on another host.
    if plan.cpu.split(',').next().is_some_and(|model| model == "host") {
        parts.push(Part::digest("host processor", host_processor().as_bytes()));
    }
    parts
}

/// Model and features of the first processor; both spellings of /proc/cpuinfo.
fn host_processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let wanted = ["model name", "flags", "CPU implementer", "CPU part", "Features"];
    first
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .collect::<Vec<_>>()
        .join("\n")
}
