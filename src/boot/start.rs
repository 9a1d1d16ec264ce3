//! One boot: inject, start the machine, wait for the agent's greeting.

use super::class::Class;
use super::error::BootError;
use super::guest::Watch;
use super::ready::{NotReady, Waiting};
use crate::appliance::{Alive, Appliance, BootFiles, DiskFacts, Kit};
use crate::guest::inject::{Route, agent_disk, overlay, seed, smbios};
use crate::guest::session::{Expect, Session};
use crate::guest::{GuestError, agent, nonce};
use crate::machine::{Accelerator, Credential, DirectKernel, Disk, Exit, Machine, MachineSpec, Network};
use crate::model::DiskFormat;
use crate::support::files;
use crate::support::text::printable;
use crate::support::wait::{Impatience, Patience};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

pub(super) const CONSOLE_LINES: usize = 30;
/// Of the console, what a boot's failure is told from.
const CLASS_LINES: usize = 400;
const TELL_EVERY: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SCREENSHOT_LIMIT: Duration = Duration::from_secs(5);
/// Distributions' kernels with their initramfs need at least this, in MiB.
const LEAST_MEMORY: u32 = 128;
/// A console that shows the end may still be writing about it.
const GRACE: Duration = Duration::from_secs(2);
/// From a link that breaks to the end of its machine: QEMU lets go of both, a busy host takes its time, and
/// the last of the console is waited for.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What to boot and how. The same request serves every boot of the guest.
#[derive(Clone, Debug)]
pub struct BootRequest {
    /// The machine; its first disk is the guest's. Kernel and credentials are the route's to fill in.
    pub spec: MachineSpec,
    /// They come behind what is injected: to the guest no other disk changes its name for them.
    pub further: Vec<Disk>,
    /// The machine's own: console, UEFI variables, what is injected.
    pub folder: PathBuf,
    pub route: Route,
    pub cloud_init: CloudInit,
    /// For routes that start the kernel directly: what takes it from the disk.
    pub kit: Kit,
    /// Kernel and initramfs of the first boot, when somebody took them already.
    pub first: Option<BootFiles>,
    /// From the machine's start to the end of the boot.
    pub limit: Duration,
}

/// What becomes of cloud-init in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloudInit {
    /// It is not installed, or finds no seed and does what it does then.
    Alone,
    /// It does not run (route overlay only: by the kernel command line).
    Off,
    /// It brings up the network and does nothing else.
    Build { instance_id: String },
    /// An ordinary first boot.
    FirstBoot { instance_id: String, hostname: String, user_data: Option<Vec<u8>> },
}

impl BootRequest {
    /// For a boot that is no first boot of an instance. cloud-init would wait for data sources and make
    /// users: it brings up the network where nothing else does, and otherwise stays away.
    pub fn hold_cloud_init_back(&mut self, facts: &DiskFacts, instance_id: &str) {
        if facts.cloud_init.is_none() {
            return;
        }
        let networked = facts.own_network || self.spec.network == Network::None;
        self.cloud_init = match self.route {
            Route::Overlay if networked => CloudInit::Off,
            _ => CloudInit::Build { instance_id: instance_id.to_owned() },
        };
    }
}

/// What a machine was started as.
#[derive(Clone, Debug)]
pub(super) struct Started {
    /// The request's, with what was injected.
    pub spec: MachineSpec,
    pub nonce: String,
}

/// Starts a machine and returns when its agent has greeted.
pub(super) async fn start(
    request: &BootRequest,
    first: bool,
    watch: &dyn Watch,
    patience: &Patience,
) -> Result<(Alive, Started), BootError> {
    let nonce = nonce().map_err(|source| BootError::File { path: "/dev/urandom".into(), source })?;
    let spec = inject(request, &nonce, first, watch, patience).await?;
    let machine = Machine::start(&spec, &request.folder, patience).await?;
    watch.machine(machine.identity(), machine.folder());
    let link = machine.agent_link().expect("a machine has its link until somebody takes it");
    let begun = Instant::now();
    let connecting = Session::connect(link, Expect::new(&nonce), patience);
    tokio::pin!(connecting);
    let mut looks = 0;
    let session = loop {
        tokio::select! {
            biased;
            session = &mut connecting => break session,
            exit = machine.wait_exit(patience) => {
                return Err(down_with(request, &machine, Some(exit?)).await);
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if is_decided(&machine) {
            tokio::time::sleep(GRACE).await;
            return Err(down_with(request, &machine, machine.exited()).await);
        }
        looks += 1;
        if looks % TELL_EVERY != 0 {
            continue;
        }
        let at = machine.console_tail(1).pop().unwrap_or_default();
        let what = format!("the guest's agent; the console is at `{}`", printable(&at, 120));
        watch.waiting(Waiting { what, since: begun.elapsed() });
    };
    match session {
        Ok(session) => Ok((Alive { machine, session }, Started { spec, nonce })),
        Err(GuestError::Impatience(cancelled @ Impatience::Cancelled { .. })) => Err(cancelled.into()),
        Err(source) => {
            let lost = matches!(source, GuestError::Lost { .. });
            if let Some(exit) = end_soon(&machine, lost, patience).await {
                return Err(down_with(request, &machine, Some(exit)).await);
            }
            let class = class(request, &machine, machine.exited().as_ref());
            let screenshot = screenshot(request, &machine).await;
            Err(BootError::Silent { class, source, console: told(&machine), screenshot })
        }
    }
}

/// The request's machine with everything in it that the route needs.
async fn inject(
    request: &BootRequest,
    nonce: &str,
    first: bool,
    watch: &dyn Watch,
    patience: &Patience,
) -> Result<MachineSpec, BootError> {
    let architecture = request.spec.architecture;
    let agent = agent::binary(architecture).ok_or(BootError::NoAgent(architecture))?;
    std::fs::create_dir_all(&request.folder)
        .map_err(|source| BootError::File { path: request.folder.clone(), source })?;
    let mut spec = request.spec.clone();
    let mut attach = |name: &str, serial: &str, bytes: &[u8]| {
        let path = request.folder.join(name);
        write(&path, bytes)?;
        spec.disks.push(Disk::new(path, DiskFormat::Raw).read_only().serial(serial));
        Ok::<(), BootError>(())
    };
    attach("agent.disk", agent_disk::SERIAL, &agent_disk::image(nonce, agent))?;
    let launch = request.route == Route::Seed;
    let image = match &request.cloud_init {
        CloudInit::Alone | CloudInit::Off if !launch => None,
        CloudInit::Alone | CloudInit::Off => {
            Some(seed::Seed { instance_id: "kiln", launch, purpose: seed::Purpose::Build }.image()?)
        }
        CloudInit::Build { instance_id } => {
            Some(seed::Seed { instance_id, launch, purpose: seed::Purpose::Build }.image()?)
        }
        CloudInit::FirstBoot { instance_id, hostname, user_data } => {
            let purpose = seed::Purpose::FirstBoot { hostname, user_data: user_data.as_deref() };
            Some(seed::Seed { instance_id, launch, purpose }.image()?)
        }
    };
    if let Some(image) = image {
        attach("seed.disk", "kiln-seed", &image)?;
    }
    spec.disks.extend(request.further.iter().cloned());
    match request.route {
        Route::Seed => {}
        Route::Smbios => {
            spec.credentials.push(Credential { name: smbios::NAME.into(), value: smbios::value() });
        }
        Route::Overlay => spec.kernel = Some(kernel(request, first, watch, patience).await?),
    }
    Ok(spec)
}

/// Kernel and initramfs of the disk as it is now, with the launcher appended.
async fn kernel(
    request: &BootRequest,
    first: bool,
    watch: &dyn Watch,
    patience: &Patience,
) -> Result<DirectKernel, BootError> {
    let files = match &request.first {
        Some(files) if first => files.clone(),
        _ => {
            watch.note("taking kernel and initramfs from the disk");
            let disk = Disk { serial: None, ..request.spec.disks[0].clone() };
            let folder = request.folder.join("appliance");
            let accelerator = request.spec.accelerator;
            let appliance =
                Appliance::start(&request.kit, vec![disk], accelerator, &folder, patience).await?;
            watch.machine(appliance.machine().identity(), appliance.machine().folder());
            appliance.begun().note().iter().for_each(|note| watch.note(note));
            let target = request.folder.join("boot");
            std::fs::create_dir_all(&target)
                .map_err(|source| BootError::File { path: target.clone(), source })?;
            let files = appliance.boot_files(&target, patience).await?;
            appliance.shutdown(patience).await?;
            files
        }
    };
    let initrd = std::fs::read(&files.initrd)
        .map_err(|source| BootError::File { path: files.initrd.clone(), source })?;
    let path = request.folder.join("initrd");
    write(&path, &overlay::append(&initrd))?;
    let mut command_line = files.command_line;
    if request.cloud_init == CloudInit::Off {
        command_line.push_str(" cloud-init=disabled");
    }
    if request.spec.accelerator == Accelerator::Tcg {
        // The first guard against hardware that is not there, at an emulated price; the second panics
        // when the host is too busy to emulate a timer in time.
        command_line.push_str(" mitigations=off no_timer_check");
    }
    Ok(DirectKernel { kernel: files.kernel, initrd: Some(path), command_line })
}

/// A link that breaks is mostly a machine that ends: then the end is what to tell.
pub(super) async fn end_soon(machine: &Machine, lost: bool, patience: &Patience) -> Option<Exit> {
    let limit = if lost { END_LIMIT } else { GRACE };
    machine.wait_exit(&Patience::new(limit, &patience.cancel)).await.ok()
}

/// The failure of a machine that has ended, or that its console gives up on.
pub(super) async fn down_with(request: &BootRequest, machine: &Machine, exit: Option<Exit>) -> BootError {
    let screenshot = match exit {
        None => screenshot(request, machine).await,
        Some(_) => None,
    };
    let class = class(request, machine, exit.as_ref());
    BootError::Down { class, exit, console: told(machine), screenshot }
}

/// The failure of a guest whose agent greeted, and whose boot did not come to its end.
pub(super) async fn not_ready_with(request: &BootRequest, machine: &Machine, source: NotReady) -> BootError {
    let class = class(request, machine, None);
    let screenshot = screenshot(request, machine).await;
    BootError::NotReady { class, source, console: told(machine), screenshot }
}

/// The console's last lines, and the one that tells the class: a panic writes much about itself.
fn told(machine: &Machine) -> Vec<String> {
    let all = machine.console_tail(CLASS_LINES);
    let mut lines = all[all.len().saturating_sub(CONSOLE_LINES)..].to_vec();
    if let Some(sign) = Class::sign(&all)
        && lines.iter().all(|line| line != sign)
    {
        lines.insert(0, sign.to_owned());
    }
    lines
}

/// Returns when the console shows that this boot comes to nothing.
pub(super) async fn decided(machine: &Machine) {
    while !is_decided(machine) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tokio::time::sleep(GRACE).await;
}

fn is_decided(machine: &Machine) -> bool {
    Class::is_decided(&machine.console_tail(CLASS_LINES))
}

fn class(request: &BootRequest, machine: &Machine, exit: Option<&Exit>) -> Class {
    let console = machine.console_tail(CLASS_LINES);
    match Class::of(&console, exit) {
        // Firmware and boot loader were passed by. A kernel that has no room dies before its first word.
        Class::FirmwareLoop
            if request.route == Route::Overlay
                && console.is_empty()
                && request.spec.memory_mib < LEAST_MEMORY =>
        {
            Class::OutOfMemory
        }
        Class::FirmwareLoop if request.route == Route::Overlay => Class::RebootUnasked,
        class => class,
    }
}

async fn screenshot(request: &BootRequest, machine: &Machine) -> Option<PathBuf> {
    if !request.spec.screen {
        return None;
    }
    let path = request.folder.join("screen.png");
    let patience = Patience::new(SCREENSHOT_LIMIT, &Default::default());
    machine.screenshot(&path, &patience).await.ok().map(|_| path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BootError> {
    files::write_atomic(path, bytes).map_err(|source| BootError::File { path: path.into(), source })
}
