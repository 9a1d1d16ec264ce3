//! The plan of a build: everything resolved and checked, nothing touched.
//!
//! `kiln plan` shows it and `kiln build` follows it: the stages execute these very lists.

mod documents;
mod lanes;
mod parent;

pub use parent::Parent;

use super::breaks::Stop;
use super::host_files::{self, HostFiles};
use super::layers::{self, Layers, Reuse, Surroundings, choice::Entry};
use super::recipe::{Lane, Recipe};
use super::state::Route;
use super::tray;
use crate::catalog::artifact::digest_bytes;
use crate::component::{Component, PlannedStep, World, plan as steps_of};
use crate::distribute::Export;
use crate::machine::accelerator::{Choice, resolve};
use crate::machine::{Accelerator, Qemu, default_cpu};
use crate::model::{Architecture, Failure, FailureKind, Firmware, Stage, Version};
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::{clock, files};
use std::path::Path;

/// Below this much free space on the host no build is begun, in bytes.
pub const HOST_SPACE: u64 = 1 << 30;
/// Below this much free space in the guest's root a plan warns, in bytes.
pub const GUEST_SPACE: u64 = 1 << 30;

/// Phases that run in the machine that becomes the image, and those for the fresh one.
pub const BUILD_PHASES: [&str; 2] = ["build", "validate"];
pub const TEST_PHASES: [&str; 1] = ["test"];

/// What guests are to be run with here.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub choice: Choice,
    /// Where nothing may be run: plan for emulation, for who only wants to see the plan.
    pub only_plan: bool,
    pub processors: u32,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub recipe: Recipe,
    /// What the image gets as things are now; it is taken when the build begins.
    pub version: Version,
    pub parent: Parent,
    /// In recipe order, parameters bound.
    pub components: Vec<Component>,
    /// Rows of those that are components of the catalog.
    pub registered: Vec<Option<i64>>,
    /// What each component brings along, as it was when the plan was made.
    pub files: Vec<Vec<HostFiles>>,
    /// What the recipe says where each component runs.
    lanes: Vec<Lane>,
    pub world: World,
    pub provision: Vec<PlannedStep>,
    pub test: Vec<PlannedStep>,
    pub route: Route,
    pub accelerator: Accelerator,
    /// Why no build can run here as things are, in a plan that is only for show.
    pub unrunnable: Option<Failure>,
    pub cpu: String,
    pub vcpus: u32,
    /// What the build boots with; None starts the disk's kernel directly where that is possible.
    pub firmware: Option<Firmware>,
    /// Of the fresh machines; empty when nothing is tested.
    pub test_firmware: Vec<Firmware>,
    /// Bytes of the image's disk.
    pub disk_size: u64,
    /// Bytes free on the root file system once grown, where the parent's content is known.
    pub guest_free: Option<u64>,
    /// What each component comes to, and from where the build starts.
    pub layers: Layers,
    /// Where somebody is called into the guest.
    pub stops: Vec<Stop>,
    /// Digest of all that shapes the image.
    pub inputs: String,
    /// Works, but perhaps not as meant.
    pub warnings: Vec<Diagnostic>,
}

/// Why there is no plan: what is wrong with what the user wrote, or another failure.
#[derive(Debug)]
pub enum NoPlan {
    Input(Vec<Diagnostic>),
    Failure(Box<Failure>),
}

impl<F: Into<Failure>> From<F> for NoPlan {
    fn from(failure: F) -> NoPlan {
        NoPlan::Failure(Box::new(failure.into()))
    }
}

/// `--set [component.]name=value`, one or more of a name for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub component: Option<String>,
    pub name: String,
    pub value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;
    fn from_str(s: &str) -> Result<Setting, String> {
        let (left, value) = s.split_once('=').ok_or_else(|| format!("`{s}` is not NAME=VALUE"))?;
        let (component, name) = match left.rsplit_once('.') {
            Some((component, name)) => (Some(component.to_owned()), name),
            None => (None, left),
        };
        if name.is_empty() || component.as_deref() == Some("") {
            return Err(format!("`{s}` is not [COMPONENT.]NAME=VALUE"));
        }
        Ok(Setting { component, name: name.into(), value: value.into() })
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.component {
            Some(component) => write!(f, "{component}.{}={}", self.name, self.value),
            None => write!(f, "{}={}", self.name, self.value),
        }
    }
}

/// Plans a recipe. `diagnostics` are the recipe's own; warnings of them are passed on.
pub async fn plan(
    recipe: Recipe,
    diagnostics: Vec<Diagnostic>,
    settings: &[Setting],
    host: Host,
    reuse: &Reuse,
    shelf: &Shelf<'_>,
) -> Result<Plan, NoPlan> {
    let mut findings = Findings::new(&recipe.source);
    let mut list = diagnostics;
    let components = documents::load(&recipe, settings, shelf.catalog, &mut findings, &mut list)?;
    let (components, registered): (Vec<_>, Vec<_>) = components.into_iter().unzip();
    let all: Vec<&str> = BUILD_PHASES.into_iter().chain(TEST_PHASES).collect();
    components.iter().for_each(|c| drop(shelf.world.used(c, &all, &mut list)));
    let files = walk_files(&recipe, &mut findings).await;
    let parent = parent::find(&recipe, shelf, &mut findings)?;
    if let Some(parent) = &parent {
        check_against_parent(&recipe, parent, &mut findings);
    }
    list.extend(findings.into_sorted());
    let (Some(parent), false) = (parent, list.iter().any(Diagnostic::is_error)) else {
        return Err(NoPlan::Input(list));
    };
    let home = shelf.catalog.home().root();
    let resolved = resolve(host.choice, parent.architecture, home, &shelf.patience).await;
    let (accelerator, unrunnable) = match resolved {
        Ok(accelerator) => (accelerator, None),
        Err(failure) if host.only_plan => (Accelerator::Tcg, Some(failure)),
        Err(failure) => return Err(failure.into()),
    };
    let provision = steps_of(&components, Some(&BUILD_PHASES));
    let mut test = steps_of(&components, Some(&TEST_PHASES));
    let firmware = recipe.settings.firmware;
    let mut test_firmware = Vec::new();
    if recipe.tests {
        test_firmware.clone_from(&recipe.settings.test_firmware);
        if test_firmware.is_empty() {
            test_firmware.push(firmware.unwrap_or_else(|| parent.preferred_firmware()));
        }
    } else {
        test.clear();
    }
    let cpu = match &recipe.settings.cpu {
        Some(cpu) => cpu.clone(),
        None => {
            let qemu = Qemu::find(parent.architecture, &shelf.patience).await.map_err(|e| e.failure())?;
            default_cpu(parent.architecture, accelerator, qemu.version).to_owned()
        }
    };
    let vcpus = recipe.settings.vcpus.unwrap_or(match accelerator {
        Accelerator::Tcg => 1,
        Accelerator::Kvm => host.processors.clamp(1, 2),
    });
    let disk_size = recipe.volume.as_ref().map_or(parent.virtual_size, |v| v.value);
    let guest_free = parent.free.map(|free| free + disk_size.saturating_sub(parent.virtual_size));
    let lanes = recipe.components.iter().map(|used| lanes::lane_of(&recipe, used)).collect();
    let mut plan = Plan {
        route: Route::new(recipe.tests, !recipe.exports.is_empty()),
        accelerator,
        unrunnable,
        layers: Layers::default(),
        stops: Vec::new(),
        inputs: String::new(),
        warnings: list,
        recipe,
        version: Version::default(),
        parent,
        components,
        registered,
        files,
        lanes,
        world: shelf.world.clone(),
        provision,
        test,
        cpu,
        vcpus,
        firmware,
        test_firmware,
        disk_size,
        guest_free,
    };
    check_reuse(&plan, reuse)?;
    plan.stops = reuse.breaks.iter().map(|b| b.of(&plan)).collect::<Result<_, _>>()?;
    plan.choose_layers(reuse, shelf)?;
    let (name, said) = (&plan.recipe.name, plan.recipe.version);
    plan.version = shelf.catalog.read(|t| t.version_for(name, said, &plan.inputs))?;
    plan.warn_of_little_space();
    Ok(plan)
}

/// Where plans find what recipes name.
pub struct Shelf<'a> {
    pub catalog: &'a crate::catalog::Catalog,
    pub bases: &'a crate::base::Store,
    /// Handed on to the plan.
    pub world: &'a World,
    pub patience: crate::support::wait::Patience,
}

/// Off the runtime's threads: digesting takes as long as reading does.
async fn walk_files(recipe: &Recipe, findings: &mut Findings) -> Vec<Vec<HostFiles>> {
    let mut all = Vec::new();
    for component in &recipe.components {
        let mut brought = Vec::new();
        for used in &component.files {
            let (source, destination) = (used.source.value.clone(), used.destination.value.clone());
            match tokio::task::spawn_blocking(move || host_files::walk(&source, &destination)).await {
                Ok(Ok(files)) => brought.push(files),
                Ok(Err(e)) => {
                    let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                    findings.error(used.source.span, "bad-file", format!("{e}{cause}"));
                }
                Err(e) => std::panic::resume_unwind(e.into_panic()),
            }
        }
        all.push(brought);
    }
    all
}

fn check_against_parent(recipe: &Recipe, parent: &Parent, findings: &mut Findings) {
    let wanted = recipe.settings.firmware.iter().chain(&recipe.settings.test_firmware);
    for firmware in wanted {
        if !parent.firmware.contains(firmware) {
            let message = format!("`{}` cannot be booted with {firmware}", parent.name);
            findings.error(recipe.parent.span, "no-firmware", message);
        }
    }
    if parent.architecture != Architecture::HOST && crate::guest::agent::binary(parent.architecture).is_none()
    {
        let message = format!(
            "this kiln carries no agent for {} guests such as `{}`",
            parent.architecture, parent.name
        );
        findings.error(recipe.parent.span, "no-agent", message).help =
            Some("build kiln with KILN_AGENT_AARCH64 (cargo xtask agent)".into());
    }
    if let Some(volume) = &recipe.volume
        && volume.value < parent.virtual_size
    {
        let have = parent.virtual_size.div_ceil(1 << 30);
        let message =
            format!("`volumeSize` is smaller than the disk of `{}`, which has {have} GiB", parent.name);
        findings.error(volume.span, "too-small", message).help =
            Some(format!("disks only grow: {have} or more"));
    }
}

/// A component that nothing is to be reused from on has to be there.
fn check_reuse(plan: &Plan, reuse: &Reuse) -> Result<(), Failure> {
    let Some(name) = &reuse.none_from else { return Ok(()) };
    if layers::position(plan.components.iter().map(|c| c.label.as_str()), name).is_some() {
        return Ok(());
    }
    let labels: Vec<&str> = plan.components.iter().map(|c| c.label.as_str()).collect();
    let message = format!("the recipe has no component {name}");
    Err(Failure::new(FailureKind::Input, message).hint(format!("It has: {}.", labels.join(", "))))
}

impl Plan {
    /// Steps over all stages; those of tests once per firmware.
    pub fn step_count(&self) -> u32 {
        (self.to_provision().count() + self.test.len() * self.test_firmware.len()) as u32
    }

    /// The steps that run before seal: those of components that no layer has.
    pub fn to_provision(&self) -> impl Iterator<Item = &PlannedStep> {
        self.provision.iter().filter(|step| step.component >= self.layers.done())
    }

    pub fn architecture(&self) -> Architecture {
        self.parent.architecture
    }

    /// Keys of all that goes in, the layer to start from, and the digest of it all with the tests.
    fn choose_layers(&mut self, reuse: &Reuse, shelf: &Shelf) -> Result<(), Failure> {
        let secret = shelf.catalog.home().secret()?;
        let around = Surroundings {
            catalog: shelf.catalog,
            world: &self.world,
            secret: &secret,
            today: &clock::date(clock::now_ms()),
            version: self.recipe.version.exact().map(|v| v.to_string()),
            network: self.recipe.settings.network == super::recipe::Network::User,
        };
        let entries: Vec<Entry> = (0..self.components.len())
            .map(|index| {
                let (component, lane) = (&self.components[index], self.lane(index));
                let inputs = around.inputs(component, &BUILD_PHASES, lane, &self.files[index]);
                let wishes = self.recipe.components[index].wishes;
                Entry { label: component.label.clone(), inputs, wishes, idle: lane.is_none() }
            })
            .collect();
        let tested = |component| around.inputs(component, &TEST_PHASES, None, &[]).parts;
        let tests: Vec<_> = self.components.iter().filter(|_| self.recipe.tests).map(tested).collect();
        let firmware: Vec<_> = self.test_firmware.iter().map(|f| f.as_str()).collect();
        let recipe = self.recipe.name.slug();
        // Where the build is to stop it has to run.
        let most = self.stops.iter().map(|stop| stop.component).min();
        let most = most.unwrap_or(entries.len());
        self.layers = Layers::choose(layers::start(self), entries, &recipe, reuse, most, shelf.catalog)?;
        let all = serde_json::json!([self.layers.keys.last(), firmware, layers::keys(&[], &tests)]);
        self.inputs = digest_bytes(all.to_string().as_bytes());
        Ok(())
    }

    fn warn_of_little_space(&mut self) {
        let Some(free) = self.guest_free.filter(|free| *free < GUEST_SPACE) else { return };
        let span = self.recipe.volume.as_ref().map_or(self.recipe.parent.span, |v| v.span);
        let mut findings = Findings::new(&self.recipe.source);
        let message = format!("the guest's root has {} MiB free before the first step", free >> 20);
        findings.warning(span, "little-space", message).help =
            Some("more: blockDeviceMappings: [{ebs: {volumeSize: GIB}}]".into());
        self.warnings.extend(findings.list);
    }

    /// The files that the recipe wants written; what is there is replaced.
    pub fn exports(&self) -> impl Iterator<Item = Export> {
        self.recipe.exports.iter().map(|e| Export { format: e.format, target: e.path.clone(), replace: true })
    }

    /// # Errors
    /// A file of `exports` could not be written.
    pub fn check_exports(&self) -> Result<(), Failure> {
        self.exports().try_for_each(|e| Ok(e.check()?))
    }

    /// Bytes that the build puts on a disk of their own for the guest: at most, as one that wakes has none,
    /// and which does is found out only then.
    fn most_packed(&self) -> u64 {
        match self.route.stages().contains(&Stage::Provision) {
            true => tray::held(self.files[self.layers.done()..].iter().flatten()),
            false => 0,
        }
    }

    /// # Errors
    /// The host's disk has too little left for this build.
    pub fn check_host_space(&self, home: &Path) -> Result<(), Failure> {
        let free = files::free_space(home).unwrap_or(u64::MAX);
        let needed = HOST_SPACE.saturating_add(self.most_packed());
        if free >= needed {
            return Ok(());
        }
        let message = format!(
            "{} has {} MiB free; this build needs {} MiB at least",
            home.display(),
            free >> 20,
            needed >> 20
        );
        Err(Failure::new(FailureKind::Environment, message)
            .hint("Free some space (kiln image list, kiln image remove NAME), or use another --home."))
    }
}

#[cfg(test)]
pub(crate) mod tests;
