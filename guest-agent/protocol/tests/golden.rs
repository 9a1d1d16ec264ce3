//! The bytes of every message, per version of the protocol.
//!
//! `golden/v1.txt` has one line for each: name, header in hexadecimal, JSON.
//! A message whose line changes is a message that an agent or a kiln already
//! out there would misread: then `VERSION` goes up, a `v2.txt` is added, and
//! the old file stays as long as `OLDEST` says so.

use std::fmt::Debug;

use kiln_protocol::frame::{Frame, HEADER, Kind, header};
use kiln_protocol::message::*;
use kiln_protocol::{OLDEST, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;

const ID: u32 = 0x0102_0304;

/// Files of all versions that are spoken, the newest last.
const GOLDEN: &[(u16, &str)] = &[(1, include_str!("golden/v1.txt"))];

fn text(s: &str) -> String {
    s.into()
}

fn entry() -> Entry {
    Entry {
        path: text("/etc/x"),
        kind: EntryKind::Symlink,
        mode: 0o777,
        uid: 1,
        gid: 2,
        size: 3,
        modified: -4,
        target: Some(text("y")),
        sha256: Some(text("ab")),
        extents: None,
    }
}

fn placed() -> Entry {
    Entry {
        kind: EntryKind::File,
        target: None,
        sha256: None,
        extents: Some(vec![Extent(0, 4096, 512)]),
        ..entry()
    }
}

fn operations() -> Vec<Operation> {
    use Operation as O;
    let path = || text("/p");
    vec![
        O::Exec(Exec {
            argv: vec![text("sh"), text("-c"), text("echo \"ü\"\n")],
            env: vec![(text("A"), text("b c"))],
            cwd: Some(text("/tmp")),
            timeout_ms: Some(1500),
            stdin: true,
            terminal: Some(Terminal { rows: 24, columns: 80 }),
            root: Some(text("/mnt")),
        }),
        O::Put(Put {
            path: path(),
            mode: 0o644,
            owner: Some(text("root")),
            group: Some(text("adm")),
            overwrite: true,
            parents: false,
        }),
        O::Get { path: path(), offset: 5, length: Some(6) },
        O::WriteAt { path: path(), offset: 512 },
        O::Append { path: path() },
        O::Connect { address: vec![127, 0, 0, 1], port: 8080 },
        O::Unpack(Unpack {
            source: Some(text("/dev/vdb")),
            items: vec![
                Packed::Folder { path: path(), mode: 0o755 },
                Packed::File { path: text("/p/f"), mode: 0o644, offset: 4096, length: 7 },
                Packed::Symlink { path: text("/p/l"), target: text("f") },
            ],
        }),
        O::Tree(Tree { root: text("/"), digests: true, one_filesystem: true, extents: false }),
        O::Tree(Tree { root: text("/"), digests: false, one_filesystem: false, extents: true }),
        O::Stat { path: path(), follow: true },
        O::Hash { path: path(), algorithm: Algorithm::Sha256 },
        O::List { path: path(), recursive: true, after: Some(text("/p/a")), limit: 10 },
        O::Copy { source: text("/a"), target: text("/b"), recursive: true, overwrite: false },
        O::Rename { source: text("/a"), target: text("/b"), overwrite: true },
        O::MakeFolder { path: path(), mode: 0o755, parents: true, owner: None, group: Some(text("0")) },
        O::Remove { path: path(), recursive: true },
        O::Symlink { path: path(), target: text("../q"), replace: true },
        O::Chmod { path: path(), mode: 0o600, recursive: true },
        O::Chown { path: path(), owner: text("1000"), group: None, recursive: false },
        O::Facts,
        O::Devices,
        O::Space { path: path() },
        O::Freeze { limit_ms: 10_000 },
        O::Thaw,
        O::Power { action: PowerAction::Reboot },
        O::Power { action: PowerAction::PowerOff },
        O::LoadModules { names: vec![text("xfs"), text("btrfs")] },
        O::RereadPartitions { device: text("/dev/vda") },
        O::Mount {
            source: text("/dev/vda1"),
            target: text("/mnt"),
            filesystem: text("ext4"),
            options: text("noatime"),
            read_only: true,
        },
        O::Unmount { target: text("/mnt") },
        O::EndProcesses,
        O::Network {
            interface: text("eth0"),
            address: Some(Address { address: 0x0a00_020f, mask: 0xffff_ff00, gateway: 0x0a00_0202 }),
        },
        O::GrowFilesystem { target: text("/mnt") },
        O::Trim { target: text("/mnt") },
        O::ChangeRoot { path: Some(text("/mnt")) },
    ]
}

/// No wildcard: who adds an operation is sent here by the compiler, and to `operations` by the test below.
fn operation_name(operation: &Operation) -> &'static str {
    use Operation as O;
    match operation {
        O::Exec(_) => "exec",
        O::Put(_) => "put",
        O::Get { .. } => "get",
        O::WriteAt { .. } => "write_at",
        O::Append { .. } => "append",
        O::Connect { .. } => "connect",
        O::Unpack(_) => "unpack",
        O::Tree(Tree { extents: true, .. }) => "tree_extents",
        O::Tree(_) => "tree",
        O::Stat { .. } => "stat",
        O::Hash { .. } => "hash",
        O::List { .. } => "list",
        O::Copy { .. } => "copy",
        O::Rename { .. } => "rename",
        O::MakeFolder { .. } => "make_folder",
        O::Remove { .. } => "remove",
        O::Symlink { .. } => "symlink",
        O::Chmod { .. } => "chmod",
        O::Chown { .. } => "chown",
        O::Facts => "facts",
        O::Devices => "devices",
        O::Space { .. } => "space",
        O::Freeze { .. } => "freeze",
        O::Thaw => "thaw",
        O::Power { action: PowerAction::Reboot } => "power_reboot",
        O::Power { action: PowerAction::PowerOff } => "power_off",
        O::LoadModules { .. } => "load_modules",
        O::RereadPartitions { .. } => "reread_partitions",
        O::Mount { .. } => "mount",
        O::Unmount { .. } => "unmount",
        O::EndProcesses => "end_processes",
        O::Network { .. } => "network",
        O::GrowFilesystem { .. } => "grow_filesystem",
        O::Trim { .. } => "trim",
        O::ChangeRoot { .. } => "change_root",
    }
}

fn replies() -> Vec<(&'static str, Reply)> {
    let facts = Facts {
        os_release: vec![(text("ID"), text("debian"))],
        kernel: text("6.1.0"),
        architecture: text("x86_64"),
        hostname: text("h"),
        boot_id: text("b"),
        kernel_command_line: text("quiet"),
        processors: 2,
        memory_total: 1 << 30,
        memory_available: 1 << 29,
        uptime_ms: 12,
        init: text("systemd"),
        cloud_init: true,
    };
    let device = Device {
        path: text("/dev/vda1"),
        parent: Some(text("/dev/vda")),
        serial: Some(text("kiln")),
        size: 1 << 20,
        offset: 2048,
        read_only: false,
    };
    let all = vec![
        Reply::Nothing,
        Reply::Written { bytes: 5 },
        Reply::Sent { bytes: 6 },
        Reply::Unpacked {
            made: 1,
            failed: Some(Failed { kind: ErrorKind::Exists, message: text("/p/f: is a folder") }),
        },
        Reply::Stat(None),
        Reply::Hash(text("ab")),
        Reply::List { entries: vec![entry()], more: true },
        Reply::Facts(Box::new(facts)),
        Reply::Devices(vec![device]),
        Reply::Space { total: 10, free: 4 },
    ];
    let name = |reply: &Reply| match reply {
        Reply::Nothing => "nothing",
        Reply::Written { .. } => "written",
        Reply::Sent { .. } => "sent",
        Reply::Unpacked { .. } => "unpacked",
        Reply::Stat(_) => "stat",
        Reply::Hash(_) => "hash",
        Reply::List { .. } => "list",
        Reply::Facts(_) => "facts",
        Reply::Devices(_) => "devices",
        Reply::Space { .. } => "space",
    };
    all.into_iter().map(|reply| (name(&reply), reply)).collect()
}

fn from_host() -> Vec<(String, FromHost)> {
    let mut all = vec![
        FromHost::Welcome { version: 1, beat_ms: 5000 },
        FromHost::Refused { reason: text("no") },
        FromHost::Renew(Renew {
            time_us: 1_700_000_000_000_001,
            entropy: vec![0, 7, 255],
            nonce: text("m"),
            machine_id: Some(text("0123456789abcdef0123456789abcdef")),
        }),
        FromHost::Credit { bytes: 131_072 },
        FromHost::Signal { number: 2 },
        FromHost::Resize(Terminal { rows: 50, columns: 132 }),
        FromHost::Cancel,
    ];
    all.extend(operations().into_iter().map(|operation| FromHost::Request(Box::new(operation))));
    let name = |message: &FromHost| match message {
        FromHost::Welcome { .. } => text("host.welcome"),
        FromHost::Refused { .. } => text("host.refused"),
        FromHost::Renew(_) => text("host.renew"),
        FromHost::Request(operation) => format!("host.request.{}", operation_name(operation)),
        FromHost::Credit { .. } => text("host.credit"),
        FromHost::Signal { .. } => text("host.signal"),
        FromHost::Resize(_) => text("host.resize"),
        FromHost::Cancel => text("host.cancel"),
    };
    all.into_iter().map(|message| (name(&message), message)).collect()
}

fn from_agent() -> Vec<(String, FromAgent)> {
    let hello = Hello {
        oldest: 1,
        newest: 1,
        agent: text("0.1.0"),
        nonce: text("n"),
        boot_id: text("b"),
        architecture: text("aarch64"),
        mode: Mode::Appliance,
    };
    let mut all = vec![
        FromAgent::Hello(hello),
        FromAgent::Beat { sequence: 9, memory_available: 1024 },
        FromAgent::Started { pid: 77 },
        FromAgent::Exited(Exited { code: None, signal: Some(15), timed_out: true, cpu_ms: 20 }),
        FromAgent::Credit { bytes: 65_548 },
    ];
    all.extend(
        error_kinds()
            .into_iter()
            .map(|kind| FromAgent::Failed(Failed { kind, message: text("open /etc/x: Permission denied") })),
    );
    all.extend(replies().into_iter().map(|(_, reply)| FromAgent::Done(reply)));
    let reply_names = replies();
    let name = |message: &FromAgent| match message {
        FromAgent::Hello(_) => text("agent.hello"),
        FromAgent::Beat { .. } => text("agent.beat"),
        FromAgent::Started { .. } => text("agent.started"),
        FromAgent::Exited(_) => text("agent.exited"),
        FromAgent::Done(done) => {
            let known = reply_names.iter().find(|(_, reply)| reply == done);
            format!("agent.done.{}", known.expect("made from the list").0)
        }
        FromAgent::Failed(failed) => format!("agent.failed.{:?}", failed.kind).to_lowercase(),
        FromAgent::Credit { .. } => text("agent.credit"),
    };
    all.into_iter().map(|message| (name(&message), message)).collect()
}

fn error_kinds() -> Vec<ErrorKind> {
    use ErrorKind as K;
    let all = [
        K::NotFound,
        K::Exists,
        K::Denied,
        K::NotEmpty,
        K::NoSpace,
        K::ReadOnly,
        K::Invalid,
        K::TooLarge,
        K::Cancelled,
        K::Unsupported,
        K::Io,
    ];
    for kind in all {
        // A new kind stops the compiler here: it goes into the list above, too.
        match kind {
            K::NotFound | K::Exists | K::Denied | K::NotEmpty | K::NoSpace | K::ReadOnly => {}
            K::Invalid | K::TooLarge | K::Cancelled | K::Unsupported | K::Io => {}
        }
    }
    all.into()
}

fn line(name: &str, message: &impl Serialize) -> String {
    let json = serde_json::to_string(message).unwrap();
    let head = header(Kind::Control, ID, json.len());
    let head: String = head.iter().map(|b| format!("{b:02x}")).collect();
    format!("{name} {head} {json}\n")
}

/// Every line of the file reads as a message of this type, and as the one we know by that name.
fn reads_back<M: DeserializeOwned + PartialEq + Debug>(file: &str, prefix: &str, known: &[(String, M)]) {
    for line in file.lines().filter(|line| line.starts_with(prefix)) {
        let mut parts = line.splitn(3, ' ');
        let (name, head, json) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(head.len(), HEADER * 2, "{name}");
        let message: M = serde_json::from_str(json).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = known.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(message, expected.1, "{name}");
    }
}

#[test]
fn the_bytes_of_this_version_have_not_changed() {
    let mut now = String::new();
    from_host().iter().for_each(|(name, message)| now += &line(name, message));
    from_agent().iter().for_each(|(name, message)| now += &line(name, message));
    now += &line("entry", &entry());
    now += &line("entry_placed", &placed());
    let (version, golden) = GOLDEN.last().unwrap();
    assert_eq!(*version, VERSION);
    assert!(now == *golden, "tests/golden/v{VERSION}.txt says otherwise; now it would be:\n{now}");
}

#[test]
fn messages_of_every_version_still_spoken_are_understood() {
    assert_eq!(GOLDEN.first().unwrap().0, OLDEST);
    for (_, file) in GOLDEN {
        reads_back(file, "host.", &from_host());
        reads_back(file, "agent.", &from_agent());
        reads_back(file, "entry", &[(text("entry"), entry()), (text("entry_placed"), placed())]);
    }
}

#[test]
fn every_operation_is_in_the_list() {
    let names: Vec<&str> = operations().iter().map(operation_name).collect();
    // Both of `Power` and of `Tree` count.
    assert_eq!(names.len(), 35, "a new operation goes into `operations`: {names:?}");
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn a_message_that_is_none_is_an_error_and_not_a_guess() {
    for json in [
        "",
        "{}",
        "null",
        "{\"request\":{\"fly\":{}}}",
        "{\"credit\":{\"bytes\":-1}}",
        "{\"credit\":{\"bytes\":4294967296}}",
    ] {
        assert!(serde_json::from_str::<FromHost>(json).is_err(), "{json}");
        assert!(serde_json::from_str::<FromAgent>(json).is_err(), "{json}");
    }
}

#[test]
fn the_largest_ordinary_chunk_fits_a_frame() {
    let frame = Frame { kind: Kind::Output, id: 1, payload: vec![0; kiln_protocol::frame::CHUNK] };
    assert_eq!(frame.encode().len(), HEADER + kiln_protocol::frame::CHUNK);
}
