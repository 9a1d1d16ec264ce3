//! From a kit to an appliance that answers, and to its end.

use std::path::Path;
use std::time::Duration;

use kiln_protocol::message::{Operation, PowerAction};

use super::wake::Warmth;
use super::{Alive, ApplianceError, Kit};
use crate::guest::session::{Expect, Session};
use crate::guest::{GuestFiles, nonce};
use crate::machine::{Accelerator, DirectKernel, Disk, Exit, Interface, Machine, MachineSpec};
use crate::model::{Architecture, Firmware};
use crate::support::wait::Patience;

const MEMORY_MIB: u32 = 512;

/// For one boot. Until it answers it takes 2 s; under emulation on a host that is busy, many times that.
const START_LIMIT: Duration = Duration::from_secs(300);

/// For the drivers of its disks and the names that these get.
const LISTING_LIMIT: Duration = Duration::from_secs(120);

/// Going down is unmounting.
const END_LIMIT: Duration = Duration::from_secs(120);

const CONSOLE_LINES: usize = 20;

/// kiln's own small guest, running. Dropped, its machine is killed.
pub struct Appliance {
    alive: Alive,
    /// The first disk's device in the appliance, as `/dev/vda`.
    pub(super) disk: String,
    begun: Begun,
}

/// How an appliance came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It booted, and is not one to keep, or another kiln was faster.
    Booted,
    /// It booted, is kept for the next ones, so many bytes of it, and woke from that.
    Kept(u64),
    Woken,
    /// It booted, for what was kept, or was to be, is of no use: why, and what is next.
    Instead(String),
}

impl Begun {
    /// What people are told of.
    pub fn note(&self) -> Option<String> {
        match self {
            Begun::Booted | Begun::Woken => None,
            Begun::Kept(bytes) => {
                Some(format!("kept kiln's appliance warm for the next time: {} MiB", bytes >> 20))
            }
            Begun::Instead(why) => Some(format!("no warm start of kiln's appliance, so it boots: {why}")),
        }
    }
}

impl Appliance {
    /// An appliance of the kit with `disks`; the first one is the disk that jobs work on.
    ///
    /// `folder` is the machine's own: its console is recorded there.
    pub async fn start(
        kit: &Kit,
        disks: Vec<Disk>,
        accelerator: Accelerator,
        folder: &Path,
        patience: &Patience,
    ) -> Result<Appliance, ApplianceError> {
        let small = MachineSpec {
            memory_mib: MEMORY_MIB,
            disks,
            ..MachineSpec::new("kiln-appliance", kit.architecture, accelerator)
        };
        Appliance::start_in(kit, small, folder, patience).await
    }

    /// As [`Appliance::start`], in a machine of the caller's choice: its firmware and kernel are
    /// filled in here.
    pub async fn start_in(
        kit: &Kit,
        mut spec: MachineSpec,
        folder: &Path,
        patience: &Patience,
    ) -> Result<Appliance, ApplianceError> {
        let first = spec.disks.first_mut().expect("an appliance has a disk to work on");
        let serial = first.serial.get_or_insert_with(|| "disk".into()).clone();
        spec.firmware = Firmware::Bios;
        let (alive, begun) = match Warmth::of(kit, &spec, folder, patience).await? {
            Some(warmth) => warmth.start(kit, &spec, patience).await?,
            None => (boot(kit, &spec, folder, patience).await?.0, Begun::Booted),
        };
        // Not before: the memory that others go on from is of an appliance that has seen no disk.
        let mut names: Vec<String> = spec.disks.iter().map(|d| driver(d.interface).to_owned()).collect();
        names.dedup();
        let patience = &patience.at_most(LISTING_LIMIT);
        let listing = || ApplianceError::during("listing its disks");
        alive.act(Operation::LoadModules { names }, patience).await.map_err(listing())?;
        let devices = alive.devices(patience).await.map_err(listing())?;
        let disk = devices.into_iter().find(|d| d.serial.as_deref() == Some(&serial));
        let disk = disk.map(|d| d.path).expect("the kernel has a driver for both kinds of disks");
        Ok(Appliance { alive, disk, begun })
    }

    /// How it came up.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// The guest that it is: everything of [`crate::guest::Guest`] but a reboot.
    pub fn guest(&self) -> &Alive {
        &self.alive
    }

    pub fn machine(&self) -> &Machine {
        &self.alive.machine
    }

    /// Unmounts what is mounted and powers off. The disks are whole when this returns `Ok`.
    pub async fn shutdown(self, patience: &Patience) -> Result<(), ApplianceError> {
        let patience = patience.at_most(END_LIMIT);
        let down = Operation::Power { action: PowerAction::PowerOff };
        self.alive.act(down, &patience).await.map_err(ApplianceError::during("going down"))?;
        match self.alive.machine.wait_exit(&patience).await? {
            Exit::GuestShutdown => Ok(()),
            other => Err(ApplianceError::Ended(other)),
        }
    }
}

/// The machine with its kernel. What is in `nonce` takes its place on the command line.
pub(super) fn with_kernel(spec: &MachineSpec, kit: &Kit, nonce: &str) -> MachineSpec {
    let kernel = DirectKernel {
        kernel: kit.kernel.clone(),
        initrd: Some(kit.initrd.clone()),
        command_line: command_line(kit.architecture, nonce),
    };
    MachineSpec { kernel: Some(kernel), ..spec.clone() }
}

/// An ordinary boot until the agent has greeted, and its nonce. It has a limit of its own.
pub(super) async fn boot(
    kit: &Kit,
    spec: &MachineSpec,
    folder: &Path,
    patience: &Patience,
) -> Result<(Alive, String), ApplianceError> {
    let patience = &patience.at_most(START_LIMIT);
    let nonce = nonce().map_err(|e| ApplianceError::File { path: "/dev/urandom".into(), source: e })?;
    let machine = Machine::start(&with_kernel(spec, kit, &nonce), folder, patience).await?;
    let link = machine.agent_link().expect("a machine has its link until somebody takes it");
    let session = tokio::select! {
        session = Session::connect(link, Expect::new(&nonce), patience) => session,
        exit = machine.wait_exit(patience) => {
            return Err(ApplianceError::NotUp { exit: exit?, console: machine.console_tail(CONSOLE_LINES) });
        }
    };
    match session {
        Ok(session) => Ok((Alive { machine, session }, nonce)),
        Err(source) => Err(silent(&machine, source).await),
    }
}

fn driver(interface: Interface) -> &'static str {
    match interface {
        Interface::Virtio => "virtio_blk",
        Interface::Nvme => "nvme",
    }
}

fn command_line(architecture: Architecture, nonce: &str) -> String {
    let console = match architecture {
        Architecture::X86_64 => "ttyS0",
        Architecture::Aarch64 => "ttyAMA0",
    };
    // A panic is a reset, and a reset the end; what mitigations protect is not in there.
    // On a busy host an emulated timer can miss its check, and the kernel would panic over it. Tests of
    // ciphers that nobody here uses are a tenth of the start.
    let words = "quiet loglevel=3 panic=-1 mitigations=off no_timer_check cryptomgr.notests";
    format!("console={console} {words} kiln.nonce={nonce}")
}

/// A link that breaks is mostly a machine that ends: then the end is what to tell.
async fn silent(machine: &Machine, source: crate::guest::GuestError) -> ApplianceError {
    let moment = Patience::new(Duration::from_secs(2), &Default::default());
    let exit = machine.wait_exit(&moment).await;
    let console = machine.console_tail(CONSOLE_LINES);
    match exit {
        Ok(exit) => ApplianceError::NotUp { exit, console },
        Err(_) => ApplianceError::Silent { source, console },
    }
}
