//! The messages, as carried in control frames.
//!
//! The host asks, the agent answers. Every request has an id (the frame's),
//! and everything that belongs to it (its output, its credit, its end) carries
//! the same id. Paths are the guest's, as UTF-8 text; a path of the guest that
//! is not UTF-8 is reported with U+FFFD in it and cannot be addressed.

use serde::{Deserialize, Serialize};

/// What the agent is running as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In a guest of an image, started from outside for this boot.
    Guest,
    /// As init of kiln's appliance.
    Appliance,
    /// On this machine, over a socket pair.
    Local,
}

/// Agent to host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    /// First message on a connection (id 0).
    Hello(Hello),
    /// Sign of life, id 0, every `Welcome::beat_ms`.
    Beat { sequence: u64, memory_available: u64 },
    /// An `Exec` has its process (or a `Connect` its connection, with pid 0).
    Started { pid: u32 },
    /// An `Exec` has ended; its output streams are closed before this.
    Exited(Exited),
    /// Any other operation has succeeded.
    Done(Reply),
    /// The operation with this id has failed.
    Failed(Failed),
    /// The host may send this much more input to the request (see `frame::cost`).
    Credit { bytes: u32 },
}

/// Host to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromHost {
    /// Accepts a `Hello` (id 0).
    Welcome { version: u16, beat_ms: u32 },
    /// Turns a `Hello` down (id 0); the agent ends.
    Refused { reason: String },
    /// Instead of a welcome (id 0): the memory that this agent lives in was saved, and this is one of
    /// the machines that go on from it. Answered by another `Hello`, with the new nonce, or `Failed`.
    Renew(Renew),
    /// Do this; the frame's id names the request from here on.
    Request(Box<Operation>),
    /// The agent may send this much more output (both streams together, see `frame::cost`).
    Credit { bytes: u32 },
    /// Signal the process group of a running `Exec`.
    Signal { number: i32 },
    /// New size of the terminal of a running `Exec`.
    Resize(Terminal),
    /// Give the request up: an `Exec`'s group gets SIGTERM and, 5 s later, SIGKILL, its further
    /// output is dropped; anything else stops at the next chunk. The last message still comes.
    Cancel,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub oldest: u16,
    pub newest: u16,
    /// The agent's package version, for messages only.
    pub agent: String,
    /// The nonce handed in for this boot.
    pub nonce: String,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    pub mode: Mode,
}

/// What must not be the same in two guests that go on from one memory. The boot id stays: it is one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renew {
    /// The clock: microseconds since the epoch.
    pub time_us: u64,
    /// Into the kernel's random pool, as good as its length in bits; the generator is seeded anew.
    pub entropy: Vec<u8>,
    /// The nonce of this start.
    pub nonce: String,
    /// For /etc/machine-id, where the guest's own was made at a boot: 32 hexadecimal digits.
    pub machine_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code, or None when a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The agent killed it because `Exec::timeout_ms` ran out.
    pub timed_out: bool,
    /// User and system CPU time of the process and what it waited for, in ms.
    pub cpu_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    NotFound,
    Exists,
    Denied,
    NotEmpty,
    NoSpace,
    ReadOnly,
    /// A user or group name unknown to the guest, a bad mode, a path that is no absolute path ...
    Invalid,
    /// The reply would be larger than its bound.
    TooLarge,
    Cancelled,
    Unsupported,
    Io,
}

/// Why an operation failed, in the guest's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub kind: ErrorKind,
    /// What and where: "open /etc/app.conf: Permission denied".
    pub message: String,
}

/// What an agent can do. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Run a command; answered by `Started`, output, `Exited`.
    Exec(Exec),

    // Bulk data: input frames to the agent, output frames from it; an empty data frame ends a stream.
    /// Write a file from the input stream (temp file beside it, then rename: a symbolic link is
    /// replaced, not followed). Done(Written).
    Put(Put),
    /// Send a file's bytes as output. Done(Sent).
    Get {
        path: String,
        offset: u64,
        length: Option<u64>,
    },
    /// Write at an offset of an existing file or block device, from the input stream. Done(Written).
    WriteAt {
        path: String,
        offset: u64,
    },
    /// Add the input stream to the end of a file, which is made (0644) where it is missing. Done(Written).
    Append {
        path: String,
    },
    /// Connect to a port of an address of the guest's own, loopback included; NotFound for any other.
    /// Answered by `Started`; then input goes to the other end and output comes from it, until that
    /// ends. Done(Sent).
    Connect {
        /// 4 or 16 bytes.
        address: Vec<u8>,
        port: u16,
    },
    /// Make many files, folders and links with one request, in their order, up to the first that cannot
    /// be made. Done(Unpacked).
    Unpack(Unpack),
    /// Walk a tree and send one JSON `Entry` per line as output. A folder comes before what is in it,
    /// names in byte order; symbolic links are not followed. Done(Sent).
    Tree(Tree),

    // Small questions and file verbs: one request, one bounded reply.
    Stat {
        path: String,
        follow: bool,
    },
    Hash {
        path: String,
        algorithm: Algorithm,
    },
    /// What is in a folder (or all below it), at most `limit` entries after `after`, in the order
    /// of `Tree`. A reply that would be too large ends earlier, with `more` set. Done(List).
    List {
        path: String,
        recursive: bool,
        after: Option<String>,
        limit: u32,
    },
    /// Keeps modes, times, symbolic links and, as root, owners. A folder is merged into an existing one.
    Copy {
        source: String,
        target: String,
        recursive: bool,
        overwrite: bool,
    },
    /// Across file systems: a copy, then the source is removed.
    Rename {
        source: String,
        target: String,
        overwrite: bool,
    },
    MakeFolder {
        path: String,
        mode: u32,
        parents: bool,
        owner: Option<String>,
        group: Option<String>,
    },
    Remove {
        path: String,
        recursive: bool,
    },
    Symlink {
        path: String,
        target: String,
        replace: bool,
    },
    Chmod {
        path: String,
        mode: u32,
        recursive: bool,
    },
    /// Names or numbers; no group means the user's primary group.
    Chown {
        path: String,
        owner: String,
        group: Option<String>,
        recursive: bool,
    },

    // The system.
    Facts,
    /// Block devices and partitions as the kernel sees them. Done(Devices).
    Devices,
    /// Size and free bytes of the file system that holds the path. Done(Space).
    Space {
        path: String,
    },
    /// Write everything out and hold all further writes to disks until `Thaw`, at most this long (and at
    /// most a minute): then a watchdog lets go. Not on a local link.
    Freeze {
        limit_ms: u32,
    },
    /// Let writes go on. Invalid when the watchdog was first.
    Thaw,
    /// Ask the guest to go down in its ordinary way. Answered before it goes; the appliance has
    /// unmounted everything by then, or says which file system it could not. Not on a local link.
    Power {
        action: PowerAction,
    },

    // Only as init of the appliance.
    /// finit_module with everything it depends on, from the initramfs.
    LoadModules {
        names: Vec<String>,
    },
    /// Read the partition tables again.
    RereadPartitions {
        device: String,
    },
    /// mount(2); the target folder is made where it is missing. Options as in fstab, comma separated.
    Mount {
        source: String,
        target: String,
        filesystem: String,
        options: String,
        read_only: bool,
    },
    /// What is mounted there and below, the last mounted first.
    Unmount {
        target: String,
    },
    /// SIGTERM to every process but the agent, SIGKILL 3 s later. Answered when all are gone.
    EndProcesses,
    /// Bring a network interface up, with an address where one is given.
    Network {
        interface: String,
        address: Option<Address>,
    },
    /// Grow the mounted file system to the end of its device. Done(Space).
    GrowFilesystem {
        target: String,
    },
    /// Make a folder the root of everything that follows (None: the appliance's own root again), so
    /// that paths and links in it mean what they mean in the image.
    ChangeRoot {
        path: Option<String>,
    },
    /// Discard free blocks of the mounted file system. Done(Written) counts bytes.
    Trim {
        target: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// argv; argv[0] is looked up in PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited. Without PATH the agent adds its default.
    pub env: Vec<(String, String)>,
    /// Default "/".
    pub cwd: Option<String>,
    /// Then the process group gets SIGTERM, and SIGKILL 5 s later; None waits for ever.
    pub timeout_ms: Option<u64>,
    /// Keep stdin open for input frames; otherwise it is /dev/null.
    pub stdin: bool,
    /// A terminal (stdout and stderr together) instead of pipes.
    pub terminal: Option<Terminal>,
    /// chroot(2) into this before exec.
    pub root: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    pub path: String,
    pub mode: u32,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub overwrite: bool,
    /// Make missing parent folders (0755).
    pub parents: bool,
}

/// Most items of one `Unpack`.
pub const MOST_PACKED: usize = 1000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unpack {
    /// The block device, or file, that holds what the files are to contain; None where all are empty.
    pub source: Option<String>,
    pub items: Vec<Packed>,
}

/// Something that `Unpack` makes, the agent's own user its owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packed {
    /// As `MakeFolder` with `parents`.
    Folder { path: String, mode: u32 },
    /// As `Put` with `overwrite` and `parents`. Its content begins at this byte of the source.
    File { path: String, mode: u32, offset: u64, length: u64 },
    /// As `Symlink` with `replace`.
    Symlink { path: String, target: String },
}

/// IPv4, each as a number: 127.0.0.1 is 0x7f000001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: u32,
    pub mask: u32,
    /// The way out of the network.
    pub gateway: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub root: String,
    /// SHA-256 of regular files.
    pub digests: bool,
    /// Stay on one file system.
    pub one_filesystem: bool,
    /// Where on their devices regular files lie.
    #[serde(skip_serializing_if = "is_false", default)]
    pub extents: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A run of a file's bytes: its first one in the file, its first one on the file system's device, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent(pub u64, pub u64, pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    Reboot,
    PowerOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    File,
    Folder,
    Symlink,
    Other,
}

/// One path: what stat(2) says, and more where it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    pub kind: EntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch.
    pub modified: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
    /// None also where the bytes do not lie on the device as they are read: compressed, not written yet,
    /// inside an inode, in very many pieces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub extents: Option<Vec<Extent>>,
}

/// A block device or partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `/dev/vda`, `/dev/vda1`.
    pub path: String,
    /// The disk that a partition lies on.
    pub parent: Option<String>,
    /// virtio serial or NVMe serial of a disk.
    pub serial: Option<String>,
    /// Bytes.
    pub size: u64,
    /// First byte of a partition on its disk.
    pub offset: u64,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Nothing,
    Written {
        bytes: u64,
    },
    Sent {
        bytes: u64,
    },
    /// So many items were made, and why the next one was not: None when it was the last.
    Unpacked {
        made: u32,
        failed: Option<Failed>,
    },
    /// None: there is no such path.
    Stat(Option<Entry>),
    Hash(String),
    List {
        entries: Vec<Entry>,
        more: bool,
    },
    Facts(Box<Facts>),
    Devices(Vec<Device>),
    Space {
        total: u64,
        free: u64,
    },
}

/// What the agent sees of its system. Texts are cut at 4 KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Lines of /etc/os-release as pairs, quotes removed.
    pub os_release: Vec<(String, String)>,
    pub kernel: String,
    pub architecture: String,
    pub hostname: String,
    pub boot_id: String,
    pub kernel_command_line: String,
    pub processors: u32,
    pub memory_total: u64,
    pub memory_available: u64,
    pub uptime_ms: u64,
    /// PID 1's comm: `systemd`, `kiln-agent` ...
    pub init: String,
    /// Packaged cloud-init is installed (a `cloud-init` binary in PATH).
    pub cloud_init: bool,
}
