//! `kiln`: what EC2 Image Builder has no field for.

use super::Export;
use super::component::{Lane, lane};
use crate::disk::writer::ExportFormat;
use crate::model::Firmware;
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Node, Value};
use std::path::Path;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// MiB.
    pub memory: u64,
    /// None: 1 under emulation, else 2.
    pub vcpus: Option<u32>,
    /// What the build boots with; None: the disk's kernel directly, or what the parent can.
    pub firmware: Option<Firmware>,
    /// The fresh machines of the test stage, one after the other; empty: as the build.
    pub test_firmware: Vec<Firmware>,
    pub network: Network,
    /// Where components run that do not say it themselves.
    pub run: Lane,
    pub disk: DiskInterface,
    /// QEMU's name of a CPU model; None: what suits the accelerator.
    pub cpu: Option<String>,
    /// Wake a guest that has booted before, where there is one, instead of booting one.
    pub warm: bool,
    pub timeouts: Timeouts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    None,
    User,
    /// The guest reaches nothing; published ports of `kiln run` still reach it.
    UserRestricted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskInterface {
    Virtio,
    Nvme,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub build: u64,
    /// From power-on to a guest that has settled.
    pub boot: u64,
    /// From asking the guest to go down to its end.
    pub shutdown: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            memory: 1024,
            vcpus: None,
            firmware: None,
            test_firmware: Vec::new(),
            network: Network::User,
            run: Lane::Booted,
            disk: DiskInterface::Virtio,
            cpu: None,
            warm: false,
            timeouts: Timeouts { build: 12 * 3600, boot: 900, shutdown: 300 },
        }
    }
}

impl Network {
    pub fn as_str(self) -> &'static str {
        match self {
            Network::None => "none",
            Network::User => "user",
            Network::UserRestricted => "user-restricted",
        }
    }
}

impl DiskInterface {
    pub fn as_str(self) -> &'static str {
        match self {
            DiskInterface::Virtio => "virtio",
            DiskInterface::Nvme => "nvme",
        }
    }
}

const OWNER: &str = "`kiln`";

pub fn settings(node: &Node, folder: &Path, findings: &mut Findings) -> (Settings, Vec<Export>) {
    let mut settings = Settings::default();
    let Some(mut fields) = Fields::of(node, OWNER, findings) else { return (settings, Vec::new()) };
    if let Some(n) =
        fields.optional("memory").and_then(|n| within(n, "`memory` (MiB)", 128..=1 << 20, findings))
    {
        settings.memory = n;
    }
    settings.vcpus =
        fields.optional("vcpus").and_then(|n| within(n, "`vcpus`", 1..=64, findings)).map(|n| n as u32);
    settings.firmware = fields.optional("firmware").and_then(|n| firmware(n, "`firmware`", findings));
    settings.test_firmware =
        fields.optional("testFirmware").map(|n| firmwares(n, findings)).unwrap_or_default();
    if let Some(n) = fields.optional("network") {
        let choices = [Network::None, Network::User, Network::UserRestricted];
        if let Some(found) = one_of(n, "`network`", &choices, Network::as_str, findings) {
            settings.network = found;
        }
    }
    settings.run = fields.optional("run").and_then(|n| lane(n, findings)).unwrap_or(settings.run);
    if let Some(n) = fields.optional("disk") {
        let choices = [DiskInterface::Virtio, DiskInterface::Nvme];
        if let Some(found) = one_of(n, "`disk`", &choices, DiskInterface::as_str, findings) {
            settings.disk = found;
        }
    }
    settings.cpu = fields.optional("cpu").and_then(|n| cpu(n, findings));
    settings.warm = fields.optional("warm").and_then(|n| findings.boolean(n, "`warm`")).unwrap_or(false);
    if let Some(n) = fields.optional("timeouts") {
        timeouts(n, &mut settings.timeouts, findings);
    }
    let exports = fields.optional("exports").map(|n| exports(n, folder, findings)).unwrap_or_default();
    fields.finish(findings);
    (settings, exports)
}

/// A whole number within bounds.
pub fn within(
    node: &Node,
    what: &str,
    range: std::ops::RangeInclusive<u64>,
    findings: &mut Findings,
) -> Option<u64> {
    let number = findings.integer(node, what)?;
    let found = u64::try_from(number).ok().filter(|n| range.contains(n));
    if found.is_none() {
        let message = format!("{what} is {number}; from {} to {} are allowed", range.start(), range.end());
        findings.error(node.span, "out-of-range", message);
    }
    found
}

pub fn one_of<T: Copy>(
    node: &Node,
    what: &str,
    choices: &[T],
    name: fn(T) -> &'static str,
    findings: &mut Findings,
) -> Option<T> {
    let names: Vec<&str> = choices.iter().map(|c| name(*c)).collect();
    let found = findings.choice(node, what, &names)?;
    choices.iter().copied().find(|c| name(*c) == found)
}

fn firmware(node: &Node, what: &str, findings: &mut Findings) -> Option<Firmware> {
    one_of(node, what, &[Firmware::Bios, Firmware::Uefi], Firmware::as_str, findings)
}

fn firmwares(node: &Node, findings: &mut Findings) -> Vec<Firmware> {
    let what = "`testFirmware`";
    let mut found = Vec::new();
    let single = [node];
    let items: Vec<&Node> = node.sequence().map_or(single.to_vec(), |s| s.iter().collect());
    for item in items {
        match firmware(item, what, findings) {
            Some(f) if found.contains(&f) => {
                findings.error(item.span, "duplicate", format!("{what} has {f} twice"));
            }
            Some(f) => found.push(f),
            None => {}
        }
    }
    found
}

/// It becomes a part of QEMU's command line, where a comma starts another property.
fn cpu(node: &Node, findings: &mut Findings) -> Option<String> {
    let text = findings.text(node, "`cpu`")?;
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b',' | b'+' | b'='));
    if !good {
        findings
            .error(node.span, "bad-value", format!("`cpu` is `{text}`, which is no CPU model of QEMU"))
            .help = Some("such as `host`, `max` or `qemu64,+aes`; see qemu-system-x86_64 -cpu help".into());
    }
    good.then(|| text.to_owned())
}

fn timeouts(node: &Node, timeouts: &mut Timeouts, findings: &mut Findings) {
    let Some(mut fields) = Fields::of(node, "`timeouts`", findings) else { return };
    for (name, slot, most) in [
        ("build", &mut timeouts.build, 7 * 86_400),
        ("boot", &mut timeouts.boot, 86_400),
        ("shutdown", &mut timeouts.shutdown, 86_400),
    ] {
        if let Some(n) = fields.optional(name)
            && let Some(seconds) = within(n, &format!("`{name}` (seconds)"), 1..=most, findings)
        {
            *slot = seconds;
        }
    }
    fields.finish(findings);
}

/// `[./nginx.raw]`, or `[{format: raw, path: ./nginx.img}]`.
fn exports(node: &Node, folder: &Path, findings: &mut Findings) -> Vec<Export> {
    let mut found: Vec<Export> = Vec::new();
    for item in findings.items(node, "`exports`").unwrap_or_default() {
        let (path, format) = if matches!(item.value, Value::Mapping(_)) {
            let Some(mut fields) = Fields::of(item, "an export", findings) else { continue };
            let path = fields.required("path", findings);
            let format = fields.optional("format");
            fields.finish(findings);
            (path, format)
        } else {
            (Some(item), None)
        };
        let Some((path, text)) = path.and_then(|p| Some((p, findings.text(p, "an export's path")?))) else {
            continue;
        };
        let format = match format {
            Some(node) => {
                one_of(node, "an export's format", &ExportFormat::ALL, ExportFormat::as_str, findings)
            }
            None => {
                let end = Path::new(text).extension().and_then(|e| e.to_str()).unwrap_or_default();
                let format = ExportFormat::of_extension(end);
                if format.is_none() {
                    findings
                        .error(
                            path.span,
                            "bad-value",
                            format!("`{text}` does not say in which format to export"),
                        )
                        .help = Some(
                        "end it in .raw, .qcow2, .vmdk or .vhd, or give {format: raw, path: ...}".into(),
                    );
                }
                format
            }
        };
        if let Some(format) = format {
            let export = Export { format, path: super::beside(folder, text), span: path.span };
            if found.iter().any(|e| e.path == export.path) {
                findings.error(path.span, "duplicate", "two exports have the same path");
            }
            found.push(export);
        }
    }
    found
}
