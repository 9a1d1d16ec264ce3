//! The appliance and its jobs, on small disks of each file system.

use std::path::{Path, PathBuf};

use kiln::appliance::facts::{InitrdKind, PartitionTable};
use kiln::appliance::seal::Group;
use kiln::appliance::{Appliance, ApplianceError, DiskProblem, Kit, read_listing};
use kiln::disk::filesystem::Kind;
use kiln::guest::GuestFiles;
use kiln::machine::{Cache, Disk};
use kiln::model::{Architecture, DiskFormat, Firmware};
use kiln_protocol::message::Operation;

use crate::disks::{Tree, disk, tool};
use crate::support::{Folder, accelerator, patience};

/// Kept from run to run, where the bases are or in the target folder: its kernel is fetched once.
async fn kit() -> Kit {
    let home = std::env::var_os("KILN_TEST_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let store = home.join("appliance");
    Kit::ensure(&store, Architecture::HOST, &patience(600)).await.unwrap()
}

async fn start(folder: &Path, disk: Disk) -> Appliance {
    let machine = folder.join("machine");
    Appliance::start(&kit().await, vec![disk.cache(Cache::Unsafe)], accelerator(), &machine, &patience(300))
        .await
        .unwrap()
}

/// A larger overlay on a raw disk.
fn overlay(disk: &Path, size: u64) -> PathBuf {
    let overlay = disk.with_file_name("overlay.qcow2");
    let (backing, target) = (disk.to_str().unwrap(), overlay.to_str().unwrap());
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", target, &size.to_string()],
        "",
    );
    overlay
}

/// Every file system is found, looked at, grown, and holds what it held.
async fn grows(kind: &str, expected: Kind) {
    let folder = Folder::new(&format!("grow-{kind}"));
    let tree = Tree::new(&folder);
    let raw = disk(&folder, &tree, kind, 320);
    let size = 700 << 20;
    let overlay = overlay(&raw, size);
    let appliance = start(&folder, Disk::new(overlay, DiskFormat::Qcow2)).await;
    let p = patience(300);

    let before = appliance.inspect(&p).await.unwrap();
    assert_eq!((before.size, before.table), (size, PartitionTable::Gpt));
    assert_eq!((before.root.partition, before.root.filesystem), (Some(3), expected));
    assert_eq!((before.os.id.as_str(), before.os.name.as_str()), ("debian", "Debian of the tests"));
    assert_eq!(before.systemd, Some(252));
    let kernel = before.kernel().unwrap();
    assert_eq!((kernel.version.as_str(), kernel.initrd_kind), ("6.1.0-56-test", InitrdKind::InitramfsTools));
    assert_eq!(before.command_line, "root=LABEL=root ro quiet");
    assert_eq!(before.firmware, [Firmware::Uefi]);
    assert!(!before.needs_recovery);

    let files = appliance.boot_files(&folder.join("boot"), &p).await.unwrap();
    assert_eq!(std::fs::read_to_string(files.kernel).unwrap(), "a kernel");
    assert_eq!(std::fs::read_to_string(files.initrd).unwrap(), "an initramfs");

    // The ESP is where fstab has it, by way of a link.
    appliance.list_tree(&folder.join("listing"), &p).await.unwrap();
    let listing = read_listing(&folder.join("listing")).unwrap();
    assert!(listing.iter().any(|e| e.path == "/boot/efi/EFI/BOOT/BOOTX64.EFI"), "{kind}");

    appliance.grow(&p).await.unwrap();
    let after = appliance.inspect(&p).await.unwrap();
    assert!(after.root.total > before.root.total + (300 << 20), "{} {}", before.root.total, after.root.total);
    assert!(after.root.free > before.root.free + (300 << 20));
    assert_eq!(after.kernels, before.kernels);
    // Nothing left to grow is no failure.
    appliance.grow(&p).await.unwrap();
    appliance.shutdown(&p).await.unwrap();
}

#[tokio::test]
async fn an_ext4_root_grows() {
    grows("ext4", Kind::Ext4).await;
}

#[tokio::test]
async fn an_xfs_root_grows() {
    grows("xfs", Kind::Xfs).await;
}

#[tokio::test]
async fn a_btrfs_root_grows() {
    grows("btrfs", Kind::Btrfs).await;
}

const SECRET: &str = "THE-KEY-THAT-NOBODY-MAY-FIND";

/// A tree with what a machine leaves. Everything under `gone` has to go.
fn used(folder: &Path) -> (Tree, Vec<&'static str>) {
    let gone = vec![
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub",
        "root/.ssh/authorized_keys",
        "home/a/.ssh/authorized_keys",
        "home/a/.bash_history",
        "etc/hostname",
        "etc/sudoers.d/90-cloud-init-users",
        "var/lib/cloud/instance/user-data.txt",
        "var/lib/systemd/random-seed",
        "var/log/journal/0123/system.journal",
        "var/log/syslog",
        "var/log/syslog.1",
        "var/log/cloud-init-output.log",
        "var/lib/dhcp/dhclient.eth0.leases",
        "var/tmp/work/TOE_1/x",
        "var/tmp/.hidden",
        "tmp/file",
        "work/TOE_2/console.log",
        "work/perform_cleanup",
        "srv/dumps/core",
    ];
    let tree = Tree::new(folder);
    for path in &gone {
        tree.file(path, &format!("{SECRET} {path}"));
    }
    tree.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    tree.file("var/log/wtmp", "who was here");
    tree.file("var/log/dpkg.log", "what was installed");
    tree.file("etc/ssh/sshd_config", "kept");
    tree.file("usr/sbin/sshd", "");
    tree.file("work/mine", "kept");
    // An absolute link means a place in the image, not in the appliance.
    tree.link("var/crash", "/srv/dumps");
    (tree, gone)
}

#[tokio::test]
async fn a_sealed_disk_is_clean_down_to_its_free_blocks() {
    let folder = Folder::new("seal");
    let (tree, gone) = used(&folder);
    let raw = disk(&folder, &tree, "ext4", 64);
    let appliance = start(&folder, Disk::new(&raw, DiskFormat::Raw)).await;
    let p = patience(300);
    let report = appliance.seal("/work", &p).await.unwrap();
    assert!(report.kept.is_empty());
    assert!(report.notes[0].contains("ssh-keygen"), "{report}");
    let paths: Vec<&str> = report.cleaned.iter().map(|c| c.path.as_str()).collect();
    assert!(paths.contains(&"/etc/machine-id") && paths.contains(&"/var/lib/cloud/instance"), "{paths:?}");
    // Sealing what is sealed does nothing.
    let again = appliance.seal("/work", &p).await.unwrap();
    assert_eq!(again.cleaned, []);
    appliance.shutdown(&p).await.unwrap();

    let root = folder.join("root");
    let (input, output) = (format!("if={}", raw.display()), format!("of={}", root.display()));
    tool("dd", &[&input, &output, "bs=1M", "skip=36", "count=64", "status=none"], "");
    let root_path = root.to_str().unwrap();
    tool("e2fsck", &["-fn", root_path], "");
    let say = |command: &str| tool("debugfs", &["-R", command, root_path], "");
    for path in gone {
        assert_eq!(say(&format!("cat /{path}")), "", "{path}");
    }
    assert_eq!(say("cat /etc/machine-id"), "");
    assert!(say("stat /etc/machine-id").contains("Type: regular"));
    assert_eq!(say("cat /var/log/dpkg.log"), "what was installed");
    assert_eq!(say("cat /work/mine"), "kept");
    assert!(!holds_secret(&raw), "a secret is still in the raw disk");
}

/// Whether it is anywhere in the file; zeroes, which are most of it, are passed over quickly.
fn holds_secret(raw: &Path) -> bool {
    const BLOCK: usize = 1 << 16;
    let (bytes, zeroes) = (std::fs::read(raw).unwrap(), vec![0; BLOCK]);
    let full = |at: &usize| bytes[*at..].len() < BLOCK || bytes[*at..at + BLOCK] != zeroes;
    (0..bytes.len()).step_by(BLOCK).filter(full).any(|at| {
        // It may begin in the block before.
        let (from, to) = (at.saturating_sub(SECRET.len()), (at + BLOCK + SECRET.len()).min(bytes.len()));
        bytes[from..to].windows(SECRET.len()).any(|w| w == SECRET.as_bytes())
    })
}

/// As on ext4, by what a checker of the file system and the disk's own bytes say.
async fn is_sealed(kind: &str, root_mib: u64, check: &[&str]) {
    let folder = Folder::new(&format!("seal-{kind}"));
    let (tree, gone) = used(&folder);
    let raw = disk(&folder, &tree, kind, root_mib);
    assert!(holds_secret(&raw), "a secret is there before");
    let appliance = start(&folder, Disk::new(&raw, DiskFormat::Raw)).await;
    let p = patience(300);
    let report = appliance.seal("/work", &p).await.unwrap();
    assert!(report.kept.is_empty());
    appliance.list_tree(&folder.join("listing"), &p).await.unwrap();
    let listing = read_listing(&folder.join("listing")).unwrap();
    let is_there = |path: &str| listing.iter().any(|e| e.path == format!("/{path}"));
    for path in gone {
        assert!(!is_there(path), "{kind}: {path}");
    }
    assert!(is_there("work/mine") && is_there("var/log/dpkg.log") && is_there("etc/machine-id"), "{kind}");
    appliance.shutdown(&p).await.unwrap();

    let root = folder.join("root");
    let (input, output) = (format!("if={}", raw.display()), format!("of={}", root.display()));
    let count = format!("count={root_mib}");
    tool("dd", &[&input, &output, "bs=1M", "skip=36", &count, "conv=sparse", "status=none"], "");
    tool(check[0], &[&check[1..], &[root.to_str().unwrap()]].concat(), "");
    assert!(!holds_secret(&raw), "{kind}: a secret is still in the raw disk");
}

#[tokio::test]
async fn an_xfs_disk_is_sealed() {
    is_sealed("xfs", 320, &["xfs_repair", "-n", "-f"]).await;
}

#[tokio::test]
async fn a_btrfs_disk_is_sealed() {
    is_sealed("btrfs", 160, &["btrfs", "check", "--readonly"]).await;
}

#[tokio::test]
async fn markers_keep_what_they_name_and_go() {
    let folder = Folder::new("seal-markers");
    let (tree, _) = used(&folder);
    tree.file("work/skip_cleanup_ssh_files", "");
    tree.file("work/skip_cleanup_toe_files", "");
    let raw = disk(&folder, &tree, "btrfs", 160);
    let appliance = start(&folder, Disk::new(&raw, DiskFormat::Raw)).await;
    let p = patience(300);
    let report = appliance.seal("/work/", &p).await.unwrap();
    assert_eq!(report.kept, [Group::Ssh, Group::Toe]);
    let (guest, place) = (appliance.guest(), "/mnt");
    let mount = Operation::Mount {
        source: "/dev/vda3".into(),
        target: place.into(),
        filesystem: "btrfs".into(),
        options: String::new(),
        read_only: true,
    };
    guest.act(mount, &p).await.unwrap();
    let key = guest.read_text(&format!("{place}/root/.ssh/authorized_keys"), 1000, &p).await.unwrap();
    assert!(key.starts_with(SECRET));
    let left = guest.list(&format!("{place}/work"), false, 100, &p).await.unwrap();
    let names: Vec<&str> = left.iter().map(|e| e.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["TOE_2", "mine"]);
    appliance.shutdown(&p).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_was_not_shut_down_is_looked_at_and_left_as_it_is() {
    let folder = Folder::new("torn");
    let raw = disk(&folder, &Tree::new(&folder), "ext4", 64);
    // As after a power failure: the journal has to be replayed, which a read-only disk does not allow.
    let root = folder.join("root");
    let (disk_path, root_path) = (raw.to_str().unwrap(), root.to_str().unwrap());
    tool(
        "dd",
        &[
            &format!("if={disk_path}"),
            &format!("of={root_path}"),
            "bs=1M",
            "skip=36",
            "count=64",
            "status=none",
        ],
        "",
    );
    tool("debugfs", &["-w", "-R", "feature +needs_recovery", root_path], "");
    tool(
        "dd",
        &[
            &format!("if={root_path}"),
            &format!("of={disk_path}"),
            "bs=1M",
            "seek=36",
            "conv=notrunc",
            "status=none",
        ],
        "",
    );
    let before = kiln::disk::sha256(&raw, &patience(60)).await.unwrap();
    let appliance = start(&folder, Disk::new(&raw, DiskFormat::Raw).read_only()).await;
    let p = patience(300);
    let facts = appliance.inspect(&p).await.unwrap();
    assert!(facts.needs_recovery);
    assert!(facts.volumes[2].filesystem.as_ref().unwrap().dirty);
    let error = appliance.seal("/tmp", &p).await.unwrap_err();
    let problem = matches!(&error, ApplianceError::Disk(DiskProblem::ReadOnly { filesystem: "ext4", .. }));
    assert!(problem, "{error}");
    appliance.shutdown(&p).await.unwrap();
    assert_eq!(kiln::disk::sha256(&raw, &patience(60)).await.unwrap(), before);
}
