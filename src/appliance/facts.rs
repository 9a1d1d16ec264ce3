//! What the appliance finds on a disk.

use crate::disk::filesystem::{self, Filesystem};
use crate::model::{Architecture, Firmware};

/// Everything about a disk that decides how it boots, grows and is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Bytes of the disk.
    pub size: u64,
    pub table: PartitionTable,
    /// In the order of their places; a disk without partitions is one volume.
    pub volumes: Vec<Volume>,
    pub root: Root,
    pub os: OsRelease,
    /// Of the programs on it; None when there is none that kiln knows.
    pub architecture: Option<Architecture>,
    /// systemd's version, None without systemd.
    pub systemd: Option<u32>,
    /// It brings its /etc/machine-id along; otherwise the first boot makes one.
    pub machine_id: bool,
    pub cloud_init: Option<CloudInit>,
    /// Whether the network comes up without cloud-init.
    pub own_network: bool,
    /// QEMU's guest agent is installed.
    pub guest_agent: bool,
    /// The one that the disk starts by itself first.
    pub kernels: Vec<Kernel>,
    /// What the disk's boot loader hands to the kernel; at least a `root=`.
    pub command_line: String,
    /// Ways in which the disk can start by itself.
    pub firmware: Vec<Firmware>,
    /// A file system was not unmounted in order: its journal holds what the files do not.
    pub needs_recovery: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionTable {
    Gpt,
    Mbr,
    /// One file system from the first byte on.
    None,
}

/// A partition, or the whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its device in the appliance.
    pub(super) device: String,
    /// Of the partition, from 1.
    pub number: Option<u32>,
    /// Bytes.
    pub offset: u64,
    pub size: u64,
    /// The partition's type, lower case with dashes; None outside a GPT.
    pub kind: Option<String>,
    pub(super) partition_uuid: Option<String>,
    pub(super) partition_label: Option<String>,
    /// None when kiln does not recognise what is in it.
    pub filesystem: Option<Filesystem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Of its partition; None on a disk without partitions.
    pub partition: Option<u32>,
    pub filesystem: filesystem::Kind,
    /// Of a btrfs, where the root is not its default one.
    pub subvolume: Option<String>,
    /// Bytes.
    pub total: u64,
    pub free: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `debian`, `ubuntu`, `fedora`.
    pub id: String,
    /// `12`; empty for a rolling one.
    pub version: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudInit {
    /// It runs at boot, and looks at a NoCloud seed.
    pub takes_seed: bool,
}

/// A kernel and its initramfs, as paths in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As in the names of its files: `6.1.0-56-cloud-amd64`.
    pub version: String,
    pub image: String,
    pub initrd: Option<String>,
    pub initrd_kind: InitrdKind,
}

/// Who makes the image's initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitrdKind {
    InitramfsTools,
    Dracut,
    Unknown,
}

impl DiskFacts {
    /// The kernel that the disk starts, if it has its initramfs.
    pub fn kernel(&self) -> Option<&Kernel> {
        self.kernels.first().filter(|k| k.initrd.is_some())
    }

    pub fn boots_with(&self, firmware: Firmware) -> bool {
        self.firmware.contains(&firmware)
    }
}
