//! Whether this host can build images, and what to do where it cannot.

use std::path::Path;

use crate::appliance::warm::Store;
use crate::base;
use crate::disk;
use crate::machine::accelerator::{self, Choice, Freshness};
use crate::machine::{Accelerator, MachineError, Qemu, default_cpu, firmware};
use crate::model::{Architecture, Failure, FailureKind};
use crate::support::files;
use crate::support::wait::Patience;

/// A Debian base and one build on it stay below this, in bytes.
const COMFORTABLE_SPACE: u64 = 10 << 30;
const LEAST_SPACE: u64 = 2 << 30;
/// One guest with QEMU around it, in bytes.
const COMFORTABLE_MEMORY: u64 = 2 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    /// Builds run; something else does not, or they may not get far.
    Limited,
    /// No build runs.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// One word or two, stable: programs may read it.
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What it is for, or what does not work without it; empty where all is well.
    pub without: String,
    /// What to do, where there is something to do.
    pub cures: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    pub fn builds_can_run(&self) -> bool {
        self.checks.iter().all(|c| c.state != State::Missing)
    }
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Good, found: found.into(), without: String::new(), cures: Vec::new() }
    }

    fn bad(name: &'static str, state: State, found: impl Into<String>, without: &str) -> Check {
        Check { state, without: without.into(), ..Check::good(name, found) }
    }

    fn cure(mut self, cure: impl Into<String>) -> Check {
        self.cures.push(cure.into());
        self
    }
}

/// Looks at everything; takes a few seconds where KVM hangs. `choice` is how builds would run their guests.
/// Fails only when the caller's patience ends.
pub async fn examine(choice: Choice, home: &Path, patience: &Patience) -> Result<Report, MachineError> {
    let architecture = Architecture::HOST;
    let mut checks = Vec::new();
    let qemu = qemu(architecture, patience).await?;
    let has_qemu = qemu.state != State::Missing;
    checks.push(qemu);
    let usable = usable(home);
    if has_qemu {
        // Where there can be no home folder, that is no fault of KVM and QEMU.
        let spare = tempfile::tempdir().ok().filter(|_| usable.is_err());
        let place = spare.as_ref().map_or(home, |folder| folder.path());
        checks.push(kvm(choice, architecture, place, patience).await?);
        checks.push(emulation(choice, architecture, place, patience).await?);
    }
    checks.push(qemu_img(patience).await?);
    checks.push(uefi(architecture));
    checks.push(unpacker());
    checks.push(base_tools(architecture));
    checks.push(namespaces(patience).await);
    checks.push(usable.err().unwrap_or_else(|| space(home)));
    checks.push(warm_states(home));
    checks.extend(memory());
    Ok(Report { checks })
}

/// An ended patience is the caller's business; everything else is a finding.
fn finding<T>(
    result: Result<T, MachineError>,
    patience: &Patience,
) -> Result<Result<T, MachineError>, MachineError> {
    match result {
        Err(error) if !patience.remains() => Err(error),
        other => Ok(other),
    }
}

async fn qemu(architecture: Architecture, patience: &Patience) -> Result<Check, MachineError> {
    Ok(match finding(Qemu::find(architecture, patience).await, patience)? {
        Ok(qemu) => Check::good("qemu", format!("QEMU {} ({})", qemu.version, qemu.program.display())),
        Err(error) => {
            let check = Check::bad("qemu", State::Missing, error.to_string(), "no guest runs without it");
            error.hint().into_iter().fold(check, Check::cure)
        }
    })
}

async fn kvm(
    choice: Choice,
    architecture: Architecture,
    home: &Path,
    patience: &Patience,
) -> Result<Check, MachineError> {
    let looked = accelerator::probe(architecture, home, Freshness::Now, patience).await;
    let unusable = match finding(looked, patience)? {
        Ok(None) => return Ok(Check::good("kvm", "usable: a trial guest came to its end")),
        Ok(Some(unusable)) => unusable,
        Err(error) => {
            return Ok(Check::bad(
                "kvm",
                State::Missing,
                error.failure().to_string(),
                "it could not be tried",
            ));
        }
    };
    let (state, without) = match choice {
        Choice::Tcg => (State::Limited, "guests are run in emulation, as you chose: about ten times slower"),
        Choice::Auto | Choice::Kvm => (State::Missing, "builds stop before they begin"),
    };
    let check = Check::bad("kvm", state, format!("not usable: {}", unusable.explain()), without);
    let check = check.cure(unusable.cure());
    Ok(if choice == Choice::Tcg { check } else { check.cure(accelerator::EMULATE) })
}

async fn emulation(
    choice: Choice,
    architecture: Architecture,
    home: &Path,
    patience: &Patience,
) -> Result<Check, MachineError> {
    let looked = accelerator::emulation_works(architecture, home, patience).await;
    let said = match finding(looked, patience)? {
        Ok(Ok(())) => {
            let version = Qemu::find(architecture, patience).await?.version;
            let cpu = default_cpu(architecture, Accelerator::Tcg, version);
            return Ok(Check::good(
                "emulation",
                format!("works: a trial guest came to its end (CPU `{cpu}`)"),
            ));
        }
        Ok(Err(said)) => said,
        Err(error) => error.failure().to_string(),
    };
    let state = if choice == Choice::Tcg { State::Missing } else { State::Limited };
    let found = format!("QEMU does not run a trial guest: {said}");
    Ok(Check::bad("emulation", state, found, "`--accel tcg` does not work")
        .cure("Install QEMU anew, or another version of it."))
}

async fn qemu_img(patience: &Patience) -> Result<Check, MachineError> {
    match disk::tool_version(patience).await {
        Ok(version) => Ok(Check::good("qemu-img", version)),
        Err(error) if !patience.remains() => Err(error.into()),
        Err(error) => {
            let failure = Failure::from_error(FailureKind::Environment, &error);
            let check = Check::bad(
                "qemu-img",
                State::Missing,
                failure.to_string(),
                "no disk image is made without it",
            );
            Ok(check.cure(
                "Install it: `apt install qemu-utils` (Debian, Ubuntu) or `dnf install qemu-img` (Fedora).",
            ))
        }
    }
}

fn uefi(architecture: Architecture) -> Check {
    match firmware::find(architecture) {
        Ok(found) => Check::good("uefi", found.code.display().to_string()),
        Err(missing) => {
            let check = Check::bad("uefi", State::Limited, missing.to_string(), "guests boot by BIOS only");
            check.cure(missing.hint())
        }
    }
}

/// Debian 13 packs the modules of its kernels.
fn unpacker() -> Check {
    match files::on_path("xz") {
        true => Check::good("xz", "there"),
        false => Check::bad("xz", State::Limited, "missing", "kernels with packed modules cannot be used")
            .cure("Install it: `apt install --no-install-recommends xz-utils`."),
    }
}

fn base_tools(architecture: Architecture) -> Check {
    let missing = base::missing_tools(architecture);
    if missing.is_empty() {
        return Check::good("base-tools", "all there");
    }
    let names: Vec<&str> = missing.iter().map(|m| m.what).collect();
    let mut packages: Vec<&str> = missing.iter().map(|m| m.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let found = format!("missing: {}", names.join(", "));
    Check::bad("base-tools", State::Limited, found, "`kiln base build` does not work")
        .cure(format!("Install them: `apt install --no-install-recommends {}`.", packages.join(" ")))
}

async fn namespaces(patience: &Patience) -> Check {
    match base::can_isolate(patience).await {
        Ok(()) => Check::good("namespaces", "kiln can make its own"),
        Err(error) => {
            let failure = Failure::from(error);
            let check = Check::bad(
                "namespaces",
                State::Limited,
                failure.to_string(),
                "`kiln base build` does not work",
            );
            failure.hints.into_iter().fold(check, Check::cure)
        }
    }
}

/// Whether the home folder can be made and written to.
fn usable(home: &Path) -> Result<(), Check> {
    let made = std::fs::create_dir_all(home.join("tmp"));
    made.and_then(|()| tempfile::tempfile_in(home.join("tmp"))).map(drop).map_err(|e| {
        let found = format!("the home folder {} cannot be made or written to: {e}", home.display());
        Check::bad("space", State::Missing, found, "builds have nowhere to write")
            .cure("Choose another folder with --home DIR or KILN_HOME.")
    })
}

fn space(home: &Path) -> Check {
    let free = match files::free_space(home) {
        Ok(free) => free,
        Err(e) => {
            let found = format!("{}: {e}", home.display());
            return Check::bad("space", State::Missing, found, "builds have nowhere to write")
                .cure("Choose another folder with --home DIR or KILN_HOME.");
        }
    };
    let found = format!("{} free in {}", gib(free), home.display());
    let cure = "Free some, or choose a folder on another disk with --home DIR or KILN_HOME.";
    match free {
        COMFORTABLE_SPACE.. => Check::good("space", found),
        LEAST_SPACE.. => {
            Check::bad("space", State::Limited, found, "a base and a few builds need 10 GiB").cure(cure)
        }
        _ => Check::bad("space", State::Missing, found, "no build fits in less than 2 GiB").cure(cure),
    }
}

/// For who wonders where the space is: they may go at any time.
fn warm_states(home: &Path) -> Check {
    let store = Store::new(home, 0);
    let all = store.list();
    let bytes = all.iter().map(|l| l.bytes).sum();
    let found = format!(
        "{} guests and appliances kept after their boot, {} in {}",
        all.len(),
        gib(bytes),
        store.folder().display()
    );
    Check::good("warm-states", found)
}

fn memory() -> Option<Check> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let bytes = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10;
    let found = format!("{} available", gib(bytes));
    Some(if bytes >= COMFORTABLE_MEMORY {
        Check::good("memory", found)
    } else {
        Check::bad("memory", State::Limited, found, "a guest of 1 GiB needs up to 2 GiB of the host")
            .cure("End other programs, or give guests less memory.")
    })
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn everything_is_looked_at_and_every_fault_has_a_cure() {
        let home = tempfile::tempdir().unwrap();
        let patience = Patience::new(Duration::from_secs(120), &CancellationToken::new());
        let report = examine(Choice::Tcg, home.path(), &patience).await.unwrap();
        let names: Vec<&str> = report.checks.iter().map(|c| c.name).collect();
        let all = [
            "qemu",
            "kvm",
            "emulation",
            "qemu-img",
            "uefi",
            "xz",
            "base-tools",
            "namespaces",
            "space",
            "warm-states",
            "memory",
        ];
        assert_eq!(names, all);
        for check in &report.checks {
            let bad = check.state != State::Good;
            assert!(bad != check.cures.is_empty() && bad != check.without.is_empty(), "{check:?}");
        }
        // Where tests run there is QEMU, and emulation was chosen.
        assert!(report.builds_can_run(), "{report:?}");
    }

    #[tokio::test]
    async fn a_home_folder_that_cannot_be_is_the_only_fault() {
        let patience = Patience::new(Duration::from_secs(120), &CancellationToken::new());
        let report = examine(Choice::Tcg, Path::new("/proc/none/kiln"), &patience).await.unwrap();
        let missing: Vec<&Check> = report.checks.iter().filter(|c| c.state == State::Missing).collect();
        let [check] = missing[..] else { panic!("{report:?}") };
        assert!(check.found.contains("/proc/none/kiln") && check.found.contains("No such file"), "{check:?}");
        assert!(check.cures[0].contains("--home"), "{check:?}");
    }

    #[tokio::test]
    async fn a_cancelled_look_is_no_finding() {
        let home = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let patience = Patience::unlimited(&cancel);
        let error = examine(Choice::Auto, home.path(), &patience).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Cancelled);
    }
}
