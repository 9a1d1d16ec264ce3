//! Appliances that wake instead of booting.
//!
//! What is kept is the memory of one that has greeted and has no driver for disks yet. So it is of
//! a kit and of a kind of machine, and of no disk: one that wakes finds its own when it gets the driver.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::start::{Begun, boot, with_kernel};
use super::warm::{Identity, Listed, MEMORY, Record, State, Store, WarmError, file, host_cpu, lay_down};
use super::{Alive, ApplianceError, Kit};
use crate::guest::GuestFiles;
use crate::machine::{Interface, MachineSpec, Qemu, default_cpu, shape};
use crate::support::files::private_folder;
use crate::support::wait::Patience;

/// Raised when appliances are kept at another point.
const GENERATION: u32 = 1;

/// What the memory of a small one takes, and then some. Where so much is not allowed none is kept.
const LEAST: u64 = 256 << 20;

/// After how much time those of other kits and QEMUs go.
const UNUSED: Duration = Duration::from_secs(7 * 86_400);

/// For laying one down. It takes a second, and whoever waits for the appliance does not need it.
const KEEP_LIMIT: Duration = Duration::from_secs(120);

/// What is next where the reason may pass.
const NEXT_TIME: &str = "the next start tries to keep it";

/// What is next where no other start is to try the same in vain.
const GIVEN_UP: &str =
    "not tried again for a day, or until `kiln store prune --all` clears what is kept warm";

/// The part of an identity that only those of appliances have.
const KIT: &str = "kit";

/// Where appliances like one are kept.
pub(super) struct Warmth<'a> {
    store: &'a Store,
    identity: Identity,
    folder: &'a Path,
}

impl<'a> Warmth<'a> {
    /// None: that is not wanted, or machines like this one cannot be kept.
    pub async fn of(
        kit: &'a Kit,
        spec: &MachineSpec,
        folder: &'a Path,
        patience: &Patience,
    ) -> Result<Option<Warmth<'a>>, ApplianceError> {
        let Some(store) = kit.warm.as_ref().filter(|store| store.takes(LEAST)) else { return Ok(None) };
        if spec.disks.iter().any(|disk| disk.interface == Interface::Nvme) {
            return Ok(None);
        }
        let qemu = Qemu::find(spec.architecture, patience).await?;
        let default = default_cpu(spec.architecture, spec.accelerator, qemu.version);
        let cpu = spec.cpu.as_deref().unwrap_or(default);
        let identity = identity(kit, spec, cpu, &qemu.stamp());
        Ok(Some(Warmth { store, identity, folder }))
    }

    /// One that wakes, or boots; the first of its kind boots, is kept, and wakes, which is the proof.
    pub async fn start(
        &self,
        kit: &Kit,
        spec: &MachineSpec,
        patience: &Patience,
    ) -> Result<(Alive, Begun), ApplianceError> {
        let since = Instant::now();
        let mut found = None;
        let woken = match self.store.find(&self.identity) {
            Ok(Some(state)) => self.rouse(found.insert(state), kit, spec, patience).await.map(Some),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        // No machine that knew the disk has written on it, so what did not work is as if it had not been.
        match woken {
            Ok(Some(alive)) => return Ok((alive, Begun::Woken)),
            Ok(None) => {}
            Err(e) => {
                wanted(patience, since)?;
                let (alive, _) = boot(kit, spec, self.folder, patience).await?;
                // Where it cannot boot either, the state may be a good one.
                found.iter().for_each(|state| self.store.remove(state));
                return Ok((alive, Begun::Instead(e.to_string())));
            }
        }
        let (alive, nonce) = boot(kit, spec, self.folder, patience).await?;
        let room = self.store.has_room(spec.memory_mib.into());
        if !room || self.store.is_hopeless(&self.identity) || !knows_no_disk(&alive, patience).await {
            return Ok((alive, Begun::Booted));
        }
        self.keep(alive, &nonce, kit, spec, patience).await
    }

    /// Keeps one that has just booted, and wakes it. Whatever does not work on the way, it boots again.
    async fn keep(
        &self,
        alive: Alive,
        nonce: &str,
        kit: &Kit,
        spec: &MachineSpec,
        patience: &Patience,
    ) -> Result<(Alive, Begun), ApplianceError> {
        let since = Instant::now();
        // In the machine's folder, which whoever tidies up after a dead kiln removes. An earlier boot in it
        // may have left one.
        let staging = self.folder.join("warm");
        let _ = std::fs::remove_dir_all(&staging);
        if let Err(e) = private_folder(&staging) {
            let why = file("cannot make", &staging)(e);
            return Ok((alive, Begun::Instead(format!("{why}; {NEXT_TIME}"))));
        }
        let mut laid = None;
        let limit = patience.at_most(KEEP_LIMIT);
        let woken = match self.lay_by(alive, nonce, &staging, kit, spec, &limit).await {
            Ok(state) => self.rouse(laid.insert(state), kit, spec, patience).await,
            Err(e) => Err(e),
        };
        // One that has no place in the store was of use once.
        let _ = std::fs::remove_dir_all(&staging);
        match woken {
            Ok(alive) => Ok((alive, laid.as_ref().map_or(Begun::Booted, |state| self.comes_of(state)))),
            Err(e) => {
                wanted(patience, since)?;
                let (alive, _) = boot(kit, spec, self.folder, patience).await?;
                // What could not even be kept may be so the next time: a disk was full, a host was busy.
                if let Some(state) = laid.filter(State::is_kept) {
                    self.store.remove(&state);
                    self.store.give_up(&self.identity);
                }
                let next = match self.store.is_hopeless(&self.identity) {
                    true => GIVEN_UP,
                    false => NEXT_TIME,
                };
                Ok((alive, Begun::Instead(format!("{e}; {next}"))))
            }
        }
    }

    async fn lay_by(
        &self,
        alive: Alive,
        nonce: &str,
        staging: &Path,
        kit: &Kit,
        spec: &MachineSpec,
        patience: &Patience,
    ) -> Result<State, WarmError> {
        let memory = lay_down(alive, &staging.join(MEMORY), patience).await?;
        let title = format!("kiln's appliance, {} MiB", spec.memory_mib);
        let started = with_kernel(spec, kit, nonce);
        Record::new(&title, &self.identity, nonce, &started, memory).write(staging)?;
        let state = self.store.add(staging, &self.identity)?;
        if state.is_kept() {
            self.make_way();
        } else if self.store.too_large(&state).is_some() {
            self.store.give_up(&self.identity);
        }
        Ok(state)
    }

    /// What there is to say of one that has woken from what it left.
    fn comes_of(&self, state: &State) -> Begun {
        match self.store.too_large(state) {
            _ if state.is_kept() => Begun::Kept(state.bytes()),
            Some(e) => Begun::Instead(format!("{e}; {GIVEN_UP}")),
            // Another kiln was faster, and has told of it.
            None => Begun::Booted,
        }
    }

    async fn rouse(
        &self,
        state: &State,
        kit: &Kit,
        spec: &MachineSpec,
        patience: &Patience,
    ) -> Result<Alive, WarmError> {
        // Its kernel is in the memory, its nonce is about to be another one: only its shape counts.
        let mut spec = with_kernel(spec, kit, "");
        if let (Some(kernel), Some(line)) = (&mut spec.kernel, &state.record().command_line) {
            kernel.command_line.clone_from(line);
        }
        Ok(state.rouse(&spec, self.folder, None, patience).await?.0)
    }

    /// What no appliance of this kit and this QEMU wakes from goes, once nobody else does either.
    fn make_way(&self) {
        let (now, all) = (SystemTime::now(), self.store.list());
        self.store.remove_all(all.iter().filter(|l| is_stale(l, &self.identity, now)));
    }
}

/// Whether anybody still waits for it, whatever limits the ways to it have.
fn wanted(patience: &Patience, since: Instant) -> Result<(), ApplianceError> {
    Ok(patience.check("kiln's appliance", since)?)
}

/// Another kit's or QEMU's, and unused for long: kilns of two kinds may share a home.
fn is_stale(listed: &Listed, ours: &Identity, now: SystemTime) -> bool {
    let differs = |name: &str| listed.parts.get(name) != ours.parts.get(name);
    let other = listed.parts.contains_key(KIT) && (differs(KIT) || differs("qemu"));
    other && !differs("architecture") && now.duration_since(listed.used).is_ok_and(|age| age >= UNUSED)
}

/// A kernel that has the driver built in has seen the disk: its memory is of that one. One that does not
/// answer is not to be kept either, and says so to who asks for its disk.
async fn knows_no_disk(alive: &Alive, patience: &Patience) -> bool {
    alive.devices(&patience.at_most(KEEP_LIMIT)).await.is_ok_and(|devices| devices.is_empty())
}

/// Everything that the memory of an appliance depends on. The shape has the machine, and nothing of
/// a disk but its kind.
fn identity(kit: &Kit, spec: &MachineSpec, cpu: &str, qemu: &str) -> Identity {
    let parts = [
        ("generation", GENERATION.to_string()),
        (KIT, kit.digest.clone()),
        ("architecture", spec.architecture.to_string()),
        ("accelerator", spec.accelerator.to_string()),
        ("hostCpu", host_cpu(spec.accelerator).unwrap_or_default()),
        ("qemu", qemu.into()),
        ("shape", shape(&with_kernel(spec, kit, ""), cpu)),
    ];
    Identity::of(parts.map(|(name, value)| (name.to_owned(), value)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Accelerator, Cache, Disk, Network};
    use crate::model::{Architecture, DiskFormat};

    #[test]
    fn others_go_when_nobody_uses_them() {
        let named = |parts: &[(&str, &str)]| {
            let parts = parts.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            Identity::of(parts.collect())
        };
        let ours = named(&[(KIT, "k"), ("qemu", "7"), ("architecture", "x86_64"), ("shape", "s")]);
        let now = SystemTime::now();
        let stale = |parts: &[(&str, &str)], unused: Duration| {
            let Identity { digest, parts } = named(parts);
            let used = now - unused;
            let listed = Listed { identity: digest, title: String::new(), parts, bytes: 1, created: 0, used };
            is_stale(&listed, &ours, now)
        };
        let other_kit = [(KIT, "l"), ("qemu", "7"), ("architecture", "x86_64"), ("shape", "s")];
        let other_qemu = [(KIT, "k"), ("qemu", "8"), ("architecture", "x86_64"), ("shape", "s")];
        let lately = UNUSED - Duration::from_secs(60);
        for other in [other_kit, other_qemu] {
            assert!(stale(&other, UNUSED) && !stale(&other, lately), "{other:?}");
        }
        let same = [(KIT, "k"), ("qemu", "7"), ("architecture", "x86_64"), ("shape", "another")];
        let foreign = [(KIT, "m"), ("qemu", "7"), ("architecture", "aarch64"), ("shape", "s")];
        let guest = [("disk", "d"), ("qemu", "8"), ("architecture", "x86_64"), ("shape", "s")];
        for stays in [same, foreign, guest] {
            assert!(!stale(&stays, 2 * UNUSED), "{stays:?}");
        }
    }

    #[test]
    fn a_memory_is_of_a_kit_and_a_machine_and_of_no_disk() {
        let kit = |digest: &str, folder: &str| Kit {
            architecture: Architecture::X86_64,
            kernel: format!("{folder}/kernel").into(),
            initrd: format!("{folder}/initrd").into(),
            digest: digest.into(),
            warm: None,
        };
        let spec = || MachineSpec {
            disks: vec![Disk::new("/a", DiskFormat::Qcow2)],
            ..MachineSpec::new("m", Architecture::X86_64, Accelerator::Tcg)
        };
        let of = |kit: &Kit, spec: MachineSpec| identity(kit, &spec, "max", "7.2.22").digest;
        let one = of(&kit("k", "/home"), spec());
        let disk = Disk::new("/b", DiskFormat::Qcow2).cache(Cache::Unsafe);
        let same =
            MachineSpec { name: "other".into(), disks: vec![disk], limit: Default::default(), ..spec() };
        assert_eq!(of(&kit("k", "/moved"), same), one);

        let mut others = vec![
            of(&kit("other", "/home"), spec()),
            identity(&kit("k", "/home"), &spec(), "max,-cx16", "7.2.22").digest,
            identity(&kit("k", "/home"), &spec(), "max", "7.2.23").digest,
        ];
        let user = Network::User { restricted: false, forwards: Vec::new() };
        let machines = [
            MachineSpec { memory_mib: 128, ..spec() },
            MachineSpec { vcpus: 2, ..spec() },
            MachineSpec { accelerator: Accelerator::Kvm, ..spec() },
            MachineSpec { architecture: Architecture::Aarch64, ..spec() },
            MachineSpec { network: user, ..spec() },
            MachineSpec { disks: [spec().disks, vec![Disk::new("/c", DiskFormat::Raw)]].concat(), ..spec() },
            MachineSpec { disks: vec![Disk::new("/a", DiskFormat::Raw)], ..spec() },
            MachineSpec { disks: vec![Disk::new("/a", DiskFormat::Qcow2).read_only()], ..spec() },
            MachineSpec {
                disks: vec![Disk::new("/a", DiskFormat::Qcow2).interface(Interface::Nvme)],
                ..spec()
            },
        ];
        others.extend(machines.map(|spec| of(&kit("k", "/home"), spec)));
        others.push(one);
        let all = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), all, "each of them has a name of its own");
    }
}
