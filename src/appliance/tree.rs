//! The disk's file systems, mounted as one tree that the agent takes as its root.

use kiln_protocol::message::{EntryKind, Failed, Operation};

use super::facts::Volume;
use super::volumes::Scan;
use super::within::{Budget, resolve};
use super::{Appliance, ApplianceError, DiskProblem, fstab};
use crate::disk::filesystem::Kind;
use crate::disk::gpt::kind;
use crate::guest::{GuestError, GuestFiles};
use crate::support::wait::Patience;

pub(super) const PLACE: &str = "/image";
const FSTAB_LIMIT: u64 = 64 << 10;
/// Paths that are looked at for the mount points of one disk.
const PATHS: usize = 2000;

/// Where a btrfs may keep its root, besides its default subvolume.
const SUBVOLUMES: [&str; 3] = ["@", "@rootfs", "root"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// What is mounted. While it is, every path means what it means in the image.
pub(super) struct Tree {
    /// Index of the root's volume.
    pub root: usize,
    pub filesystem: Kind,
    pub subvolume: Option<String>,
    /// Targets in the appliance, in the order of mounting.
    targets: Vec<String>,
    /// For each of them, as the image sees it, whose files' places on the disk mean something.
    mounts: Vec<Mount>,
    /// A journal was left unplayed, for the disk cannot be written.
    pub needs_recovery: bool,
}

/// A mounted file system of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where the image has it, without a slash at its end: empty for the root.
    pub path: String,
    /// First byte of its volume on the disk. None where a file's content is not just what lies on the
    /// volume: where file systems map places once more, or a journal with content was played.
    pub offset: Option<u64>,
}

/// A volume found to hold a root, and how it was mounted.
struct Found {
    index: usize,
    subvolume: Option<String>,
}

impl Appliance {
    /// Finds the root, mounts it with all that its fstab says, and goes into it.
    pub(super) async fn enter(
        &self,
        scan: &Scan,
        access: Access,
        patience: &Patience,
    ) -> Result<Tree, ApplianceError> {
        let found = self.find_root(scan, patience).await?;
        let volume = &scan.volumes[found.index];
        let filesystem = kind_of(volume);
        let mut tree = Tree {
            root: found.index,
            filesystem,
            subvolume: found.subvolume,
            targets: Vec::new(),
            mounts: Vec::new(),
            needs_recovery: false,
        };
        let options = subvolume_option(tree.subvolume.as_deref());
        self.mount(&mut tree, volume, PLACE.into(), &options, access, patience).await?;
        let mut budget = Budget(PATHS);
        let looking = || ApplianceError::during("looking for mount points");
        let fstab =
            match resolve(self.guest(), PLACE, "/etc/fstab", &mut budget, patience).await.map_err(looking())?
            {
                Some((path, EntryKind::File)) => {
                    self.guest().read_text(&path, FSTAB_LIMIT, patience).await.unwrap_or_default()
                }
                _ => String::new(),
            };
        for line in fstab::lines(&fstab, &scan.volumes) {
            let found =
                resolve(self.guest(), PLACE, &line.target, &mut budget, patience).await.map_err(looking())?;
            // Nothing hides the root, nor what is mounted already.
            if let Some((target, EntryKind::Folder)) = found
                && !tree.targets.contains(&target)
            {
                self.mount(&mut tree, line.volume, target, &line.options, access, patience).await?;
            }
        }
        self.change_root(Some(PLACE), patience).await?;
        Ok(tree)
    }

    /// Leaves the tree and unmounts it. All that was written is on the disk then.
    pub(super) async fn leave(&self, tree: Tree, patience: &Patience) -> Result<(), ApplianceError> {
        drop(tree);
        self.change_root(None, patience).await?;
        self.unmount(PLACE, patience).await
    }

    /// From the tree into the appliance's own root (None), or back.
    pub(super) async fn step_out(&self, patience: &Patience) -> Result<(), ApplianceError> {
        self.change_root(None, patience).await
    }

    pub(super) async fn step_in(&self, patience: &Patience) -> Result<(), ApplianceError> {
        self.change_root(Some(PLACE), patience).await
    }

    /// Where the tree's mounted file systems are, seen from outside of it.
    pub(super) fn places(tree: &Tree) -> &[String] {
        &tree.targets
    }

    pub(super) fn mounts(tree: &Tree) -> &[Mount] {
        &tree.mounts
    }

    async fn find_root(&self, scan: &Scan, patience: &Patience) -> Result<Found, ApplianceError> {
        let declared = |v: &Volume| matches!(v.kind.as_deref(), Some(kind::ROOT_X86_64 | kind::ROOT_AARCH64));
        let mut roots: Vec<(bool, Found)> = Vec::new();
        let mut refused = None;
        for (index, volume) in scan.volumes.iter().enumerate() {
            if !volume.filesystem.as_ref().is_some_and(|f| f.kind.can_be_root()) {
                continue;
            }
            match self.root_on(volume, patience).await {
                Ok(Some(subvolume)) => roots.push((declared(volume), Found { index, subvolume })),
                Ok(None) => {}
                Err(problem @ ApplianceError::Disk(_)) => refused = Some(problem),
                Err(other) => return Err(other),
            }
        }
        if roots.len() > 1 && roots.iter().any(|(declared, _)| *declared) {
            roots.retain(|(declared, _)| *declared);
        }
        match roots.len() {
            1 => Ok(roots.remove(0).1),
            0 => Err(refused.unwrap_or_else(|| no_root(scan).into())),
            _ => {
                let name = |(_, f): &(bool, Found)| scan.volumes[f.index].device.clone();
                Err(DiskProblem::ManyRoots { devices: roots.iter().map(name).collect() }.into())
            }
        }
    }

    /// Whether a volume holds a root: Some(None) by default, Some(Some(subvolume)) in one of a btrfs.
    async fn root_on(
        &self,
        volume: &Volume,
        patience: &Patience,
    ) -> Result<Option<Option<String>>, ApplianceError> {
        let others = SUBVOLUMES.iter().map(|name| Some((*name).to_owned()));
        let several = kind_of(volume) == Kind::Btrfs;
        for subvolume in std::iter::once(None).chain(others.filter(|_| several)) {
            let mut trial = Tree {
                root: 0,
                filesystem: kind_of(volume),
                subvolume: None,
                targets: Vec::new(),
                mounts: Vec::new(),
                needs_recovery: false,
            };
            let options = subvolume_option(subvolume.as_deref());
            match self.mount(&mut trial, volume, PLACE.into(), &options, Access::Read, patience).await {
                Ok(()) => {}
                Err(ApplianceError::Disk(_)) if subvolume.is_some() => continue,
                Err(error) => return Err(error),
            }
            let mut found = false;
            for name in ["etc/os-release", "usr/lib/os-release"] {
                let path = format!("{PLACE}/{name}");
                let entry = self.guest().stat(&path, false, patience).await;
                found |= entry.map_err(ApplianceError::during("looking for the root"))?.is_some();
            }
            self.unmount(PLACE, patience).await?;
            if found {
                return Ok(Some(subvolume));
            }
        }
        Ok(None)
    }

    async fn mount(
        &self,
        tree: &mut Tree,
        volume: &Volume,
        target: String,
        options: &str,
        access: Access,
        patience: &Patience,
    ) -> Result<(), ApplianceError> {
        let kind = kind_of(volume);
        if kind != Kind::Ext4 {
            let load = Operation::LoadModules { names: vec![kind.as_str().into()] };
            let loaded = self.guest().act(load, patience).await;
            loaded.map_err(ApplianceError::during(format!("loading the {} driver", kind.as_str())))?;
        }
        // A journal cannot be replayed on a disk that cannot be written; then what the files say must do.
        let without_journal = match kind {
            Kind::Ext4 => Some("noload"),
            Kind::Xfs => Some("norecovery"),
            Kind::Btrfs => Some("rescue=nologreplay"),
            _ => None,
        };
        let ways = std::iter::once(None).chain(without_journal.filter(|_| access == Access::Read).map(Some));
        let mut reason = String::new();
        for way in ways {
            let options: Vec<&str> = [options].into_iter().chain(way).filter(|o| !o.is_empty()).collect();
            let mount = Operation::Mount {
                source: volume.device.clone(),
                target: target.clone(),
                filesystem: kind.as_str().into(),
                options: options.join(","),
                read_only: access == Access::Read,
            };
            match self.guest().act(mount, patience).await {
                Ok(()) => {
                    tree.needs_recovery |= way.is_some();
                    tree.mounts.push(Mount {
                        path: target.strip_prefix(PLACE).unwrap_or(&target).to_owned(),
                        offset: lies_plainly(volume).then_some(volume.offset),
                    });
                    tree.targets.push(target);
                    return Ok(());
                }
                // The first refusal is the one that means something.
                Err(GuestError::Refused(Failed { message, .. })) if reason.is_empty() => reason = message,
                Err(GuestError::Refused(_)) => {}
                Err(other) => return Err(ApplianceError::during("mounting")(other)),
            }
        }
        let (device, filesystem) = (volume.device.clone(), kind.as_str());
        Err(match access {
            Access::Read => DiskProblem::Unmountable { device, filesystem, reason },
            Access::Write => DiskProblem::ReadOnly { device, filesystem, reason },
        }
        .into())
    }

    async fn unmount(&self, target: &str, patience: &Patience) -> Result<(), ApplianceError> {
        let unmount = Operation::Unmount { target: target.into() };
        self.guest()
            .act(unmount, patience)
            .await
            .map_err(ApplianceError::during(format!("unmounting {target}")))
    }

    async fn change_root(&self, path: Option<&str>, patience: &Patience) -> Result<(), ApplianceError> {
        let change = Operation::ChangeRoot { path: path.map(str::to_owned) };
        self.guest().act(change, patience).await.map_err(ApplianceError::during("going into the image"))
    }
}

fn kind_of(volume: &Volume) -> Kind {
    volume.filesystem.as_ref().map_or(Kind::Other("nothing"), |f| f.kind)
}

fn lies_plainly(volume: &Volume) -> bool {
    match &volume.filesystem {
        Some(filesystem) => match filesystem.kind {
            Kind::Ext4 => !filesystem.dirty,
            // Its journal holds nothing of files.
            kind => kind == Kind::Xfs,
        },
        None => false,
    }
}

fn subvolume_option(subvolume: Option<&str>) -> String {
    subvolume.map(|name| format!("subvol={name}")).unwrap_or_default()
}

fn no_root(scan: &Scan) -> DiskProblem {
    let wrapped = |v: &Volume| match kind_of(v) {
        Kind::Lvm => Some("an LVM volume group"),
        Kind::Luks => Some("an encrypted volume (LUKS)"),
        Kind::Raid => Some("a software RAID"),
        _ => None,
    };
    let found = scan.volumes.iter().find_map(|v| wrapped(v).map(|what| (what, v.device.clone())));
    if let Some((what, device)) = found {
        return DiskProblem::Wrapped { what, device };
    }
    let names: Vec<String> = scan
        .volumes
        .iter()
        .map(|v| v.filesystem.as_ref().map_or("something unknown", |f| f.kind.as_str()).into())
        .collect();
    let found = if names.is_empty() { "no partition".into() } else { names.join(", ") };
    DiskProblem::NoRoot { found }
}
