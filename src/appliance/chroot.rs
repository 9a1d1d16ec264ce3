//! The image as a guest that is not booted: its tree is the root, and around it is what programs
//! expect of a running system. No service of it is started.

use kiln_protocol::message::{Address, EntryKind, ErrorKind, Failed, Operation};

use super::tree::{Access, PLACE};
use super::{Alive, Appliance, ApplianceError, DiskProblem};
use crate::guest::{GuestError, GuestFiles};
use crate::machine::Machine;
use crate::support::wait::Patience;

/// What is mounted around the image's own file systems: source, target, kind, options.
const AROUND: [(&str, &str, &str, &str); 6] = [
    ("proc", "/proc", "proc", "nosuid,nodev,noexec"),
    ("sysfs", "/sys", "sysfs", "nosuid,nodev,noexec"),
    ("devtmpfs", "/dev", "devtmpfs", "nosuid"),
    ("devpts", "/dev/pts", "devpts", "nosuid,noexec,gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "tmpfs", "nosuid,nodev,mode=1777"),
    ("tmpfs", "/run", "tmpfs", "nosuid,nodev,mode=755"),
];

/// Links that udev makes where there is one.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// What every machine on QEMU's user network gets.
const ADDRESS: Address = Address { address: 0x0a00_020f, mask: 0xffff_ff00, gateway: 0x0a00_0202 };
const RESOLVER: &str = "nameserver 10.0.2.3\n";

/// What package scripts of Debian ask before they start a service; 101 is no.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

const TEXT_LIMIT: u64 = 64 << 10;
/// Linux takes no longer host name, in bytes.
const HOST_NAME_LIMIT: usize = 64;

/// An appliance in which the image's tree is the root. Dropped, its machine is killed.
pub struct Chroot {
    appliance: Appliance,
    network: bool,
    /// Folders that the image did not have and that something is mounted on.
    made: Vec<&'static str>,
    stand_ins: Vec<StandIn>,
    notes: Vec<String>,
}

/// A file of kiln's in the place of one of the image.
struct StandIn {
    path: &'static str,
    content: &'static str,
    /// Where the image's own is, if it has one.
    aside: Option<&'static str>,
}

impl Appliance {
    /// Takes the image's tree as the root and makes it fit to run programs in, with the machine's
    /// network card where it has one.
    pub async fn chroot(self, network: bool, patience: &Patience) -> Result<Chroot, ApplianceError> {
        let preparing = |e| ApplianceError::during("preparing the network")(e);
        let bring_up = |interface: &str, address| Operation::Network { interface: interface.into(), address };
        self.guest().act(bring_up("lo", None), patience).await.map_err(preparing)?;
        if network {
            let load = Operation::LoadModules { names: vec!["virtio_net".into()] };
            self.guest().act(load, patience).await.map_err(preparing)?;
            self.guest().act(bring_up("eth0", Some(ADDRESS)), patience).await.map_err(preparing)?;
        }
        let scan = self.scan(patience).await?;
        self.enter(&scan, Access::Write, patience).await?;
        let mut chroot =
            Chroot { appliance: self, network, made: Vec::new(), stand_ins: Vec::new(), notes: Vec::new() };
        chroot.furnish(patience).await?;
        chroot.put_in(patience).await?;
        Ok(chroot)
    }
}

impl Chroot {
    /// The machine, for its console.
    pub fn machine(&self) -> &Machine {
        self.appliance.machine()
    }

    /// What components run in. Nothing was booted, so there is nothing to boot again.
    pub fn guest(&self) -> &Alive {
        self.appliance.guest()
    }

    /// What the user should know of this image before anything runs in it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Puts kiln's files in the place of the image's own.
    pub async fn put_in(&mut self, patience: &Patience) -> Result<(), ApplianceError> {
        if self.network {
            let aside = Some("/etc/.kiln-resolv.conf");
            self.stand_in("/etc/resolv.conf", 0o644, RESOLVER, aside, patience).await?;
        }
        if self.stat("/var/lib/dpkg", patience).await?.is_some() {
            self.stand_in("/usr/sbin/policy-rc.d", 0o755, POLICY, None, patience).await?;
        }
        Ok(())
    }

    /// Gives the image its own files back, as [`Chroot::leave`] does: for a look at the disk meanwhile.
    pub async fn take_out(&mut self, patience: &Patience) -> Result<(), ApplianceError> {
        for stand_in in std::mem::take(&mut self.stand_ins) {
            self.take_back(stand_in, patience).await?;
        }
        Ok(())
    }

    /// Ends every process that was left in there, takes out what was put in, and unmounts all: what
    /// was written is on the disk then, and nothing else.
    pub async fn leave(mut self, patience: &Patience) -> Result<Appliance, ApplianceError> {
        // By the appliance's own /proc: the image's may have been unmounted.
        self.appliance.step_out(patience).await?;
        let end = self.appliance.guest().act(Operation::EndProcesses, patience).await;
        end.map_err(ApplianceError::during("ending what the components left running"))?;
        self.appliance.step_in(patience).await?;
        self.take_out(patience).await?;
        self.appliance.step_out(patience).await?;
        // Those below others go with them.
        for target in ["/proc", "/sys", "/dev", "/run"] {
            self.unmount(format!("{PLACE}{target}"), patience).await?;
        }
        for folder in &self.made {
            let remove = Operation::Remove { path: format!("{PLACE}{folder}"), recursive: false };
            let removed = self.appliance.guest().act(remove, patience).await;
            removed.map_err(ApplianceError::during(format!("removing {folder}")))?;
        }
        self.unmount(PLACE.into(), patience).await?;
        Ok(self.appliance)
    }

    async fn unmount(&self, target: String, patience: &Patience) -> Result<(), ApplianceError> {
        let unmount = Operation::Unmount { target: target.clone() };
        match self.appliance.guest().act(unmount, patience).await {
            // A component has done it already.
            Err(GuestError::Refused(Failed { kind: ErrorKind::Invalid, .. })) => Ok(()),
            Err(source @ GuestError::Refused(_)) => Err(ApplianceError::InUse { source }),
            other => other.map_err(ApplianceError::during(format!("unmounting {target}"))),
        }
    }

    async fn furnish(&mut self, patience: &Patience) -> Result<(), ApplianceError> {
        for (source, target, filesystem, options) in AROUND {
            match self.stat(target, patience).await? {
                Some(EntryKind::Folder) => {}
                Some(_) => return Err(DiskProblem::NoFolder { path: target }.into()),
                // Those below /dev are in no image.
                None if target.starts_with("/dev/") => {}
                None => self.made.push(target),
            }
            let mount = Operation::Mount {
                source: source.into(),
                target: target.into(),
                filesystem: filesystem.into(),
                options: options.into(),
                read_only: false,
            };
            self.act(mount, patience).await?;
        }
        for (path, target) in LINKS {
            let link = Operation::Symlink { path: path.into(), target: target.into(), replace: true };
            self.act(link, patience).await?;
        }
        let lock = Operation::MakeFolder {
            path: "/run/lock".into(),
            mode: 0o1777,
            parents: false,
            owner: None,
            group: None,
        };
        self.act(lock, patience).await?;
        let name = self.text("/etc/hostname", patience).await?;
        let name = name.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
        let name = name.filter(|n| n.len() <= HOST_NAME_LIMIT).unwrap_or("localhost");
        let named = self.appliance.guest().append("/proc/sys/kernel/hostname", name.as_bytes(), patience);
        named.await.map_err(ApplianceError::during("naming the host"))?;
        if self.text("/etc/selinux/config", patience).await?.lines().any(|l| l.trim() == "SELINUX=enforcing")
        {
            let note = "the image uses SELinux, and files that are written in the appliance have no labels: \
                        `touch /.autorelabel` in a component labels them at the first boot";
            self.notes.push(note.into());
        }
        Ok(())
    }

    /// Puts a file in the image's place of it. Without a place to put the image's own aside, that one stays.
    async fn stand_in(
        &mut self,
        path: &'static str,
        mode: u32,
        content: &'static str,
        aside: Option<&'static str>,
        patience: &Patience,
    ) -> Result<(), ApplianceError> {
        let there = self.stat(path, patience).await?.is_some();
        let aside = match (there, aside) {
            (true, None) => return Ok(()),
            (true, Some(aside)) => {
                self.rename(path, aside, patience).await?;
                Some(aside)
            }
            (false, _) => None,
        };
        let written = self.appliance.guest().write(path, mode, content.as_bytes(), patience).await;
        written.map_err(ApplianceError::during(format!("writing {path}")))?;
        self.stand_ins.push(StandIn { path, content, aside });
        Ok(())
    }

    /// The image gets its own back, unless a component has made another one.
    async fn take_back(&self, stand_in: StandIn, patience: &Patience) -> Result<(), ApplianceError> {
        let StandIn { path, content, aside } = stand_in;
        let is_file = self.stat(path, patience).await? == Some(EntryKind::File);
        let untouched = is_file && self.text(path, patience).await? == content;
        match (untouched, aside) {
            (true, Some(aside)) => self.rename(aside, path, patience).await,
            (true, None) => self.remove(path, patience).await,
            (false, Some(aside)) => self.remove(aside, patience).await,
            (false, None) => Ok(()),
        }
    }

    async fn rename(&self, from: &str, to: &str, patience: &Patience) -> Result<(), ApplianceError> {
        self.act(Operation::Rename { source: from.into(), target: to.into(), overwrite: true }, patience)
            .await
    }

    async fn remove(&self, path: &str, patience: &Patience) -> Result<(), ApplianceError> {
        self.act(Operation::Remove { path: path.into(), recursive: false }, patience).await
    }

    async fn act(&self, operation: Operation, patience: &Patience) -> Result<(), ApplianceError> {
        let done = self.appliance.guest().act(operation, patience).await;
        done.map_err(ApplianceError::during("preparing the image to run components"))
    }

    async fn stat(&self, path: &str, patience: &Patience) -> Result<Option<EntryKind>, ApplianceError> {
        let entry = self.appliance.guest().stat(path, false, patience).await;
        Ok(entry.map_err(ApplianceError::during(format!("looking at {path}")))?.map(|e| e.kind))
    }

    /// A text file; empty when there is none, or none that is small.
    async fn text(&self, path: &str, patience: &Patience) -> Result<String, ApplianceError> {
        match self.appliance.guest().read_text(path, TEXT_LIMIT, patience).await {
            Err(GuestError::Refused(_)) => Ok(String::new()),
            text => text.map_err(ApplianceError::during(format!("reading {path}"))),
        }
    }
}
