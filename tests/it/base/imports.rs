//! Hostile disks: refused, named, bounded in memory and time, and nothing is changed.

use super::{Rig, tool};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Imports a file; it must be refused with these words, soon, and leave nothing.
async fn refused(rig: &Rig, words: &str, parts: &[&str]) {
    let begun = std::time::Instant::now();
    let before: Vec<PathBuf> = rig.left();
    let ended = rig.kiln(&format!("base import {words}")).await;
    assert_eq!(ended.code, Some(2), "{words}: {ended:?}");
    let file = words.split(' ').next().unwrap();
    for part in parts.iter().chain([&file]) {
        assert!(ended.err.contains(part), "{words}: {part}: {}", ended.err);
    }
    assert!(begun.elapsed().as_secs() < 60, "{words}: {:?}", begun.elapsed());
    assert_eq!(rig.left(), before, "{words}");
}

/// Writes over bytes of a file.
fn patch(rig: &Rig, name: &str, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(rig.path(name)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[tokio::test]
async fn names_of_other_files_lead_nowhere() {
    let rig = Rig::new();
    let here = rig.folder.path();
    tool(here, "qemu-img create -q -f qcow2 -u -F raw -b /etc/shadow backing.qcow2 1M");
    refused(&rig, "backing.qcow2", &["its backing file `/etc/shadow`", "could be any file of this machine"])
        .await;
    refused(&rig, "backing.qcow2 --flatten", &["`/etc/shadow`, which is not just the name of a file"]).await;
    for (name, backing) in
        [("up.qcow2", "../home.raw"), ("deep.qcow2", "a/b.raw"), ("net.qcow2", "nbd:localhost:1")]
    {
        tool(here, &format!("qemu-img create -q -f qcow2 -u -F raw -b {backing} {name} 1M"));
        refused(&rig, &format!("{name} --flatten"), &["not just the name of a file in the same folder"])
            .await;
    }
    tool(here, "qemu-img create -q -f qcow2 -o data_file=secret data.qcow2 1M");
    rig.file("secret", vec![7; 1 << 20]);
    refused(&rig, "data.qcow2 --flatten", &["the data file that holds its content"]).await;
    for (name, extent) in
        [("flat.vmdk", "RW 2048 FLAT \"/etc/shadow\" 0"), ("split.vmdk", "RW 2048 SPARSE \"../x.vmdk\"")]
    {
        let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n";
        rig.file(name, format!("{text}{extent}\n"));
        refused(&rig, name, &["no VMDK that holds its own data"]).await;
    }
    assert_eq!(std::fs::read(rig.path("secret")).unwrap(), vec![7; 1 << 20]);
}

#[tokio::test]
async fn tables_that_lie_are_found_out() {
    let rig = Rig::new();
    let here = rig.folder.path();
    for name in ["huge", "large", "refcounts", "selfcount", "l1self", "l2loop"] {
        tool(here, &format!("qemu-img create -q -f qcow2 {name}.qcow2 1M"));
        let mut write = std::process::Command::new("qemu-io");
        write.args(["-f", "qcow2", "-c", "write 0 1M"]).arg(rig.path(&format!("{name}.qcow2")));
        assert!(write.output().unwrap().status.success());
    }
    patch(&rig, "huge.qcow2", 24, &(8u64 << 60).to_be_bytes());
    refused(&rig, "huge.qcow2", &["looking at it failed"]).await;
    patch(&rig, "large.qcow2", 24, &(1u64 << 56).to_be_bytes());
    refused(&rig, "large.qcow2", &[]).await;

    let u64_at = |name: &str, at: u64| {
        let mut bytes = [0; 8];
        std::fs::File::open(rig.path(name)).unwrap().read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    // A table of reference counts that is its own first block, and counts that count the table of mappings.
    let table = u64_at("refcounts.qcow2", 48);
    patch(&rig, "refcounts.qcow2", table, &table.to_be_bytes());
    refused(&rig, "refcounts.qcow2", &["is damaged"]).await;
    let mappings = u64_at("selfcount.qcow2", 40);
    patch(&rig, "selfcount.qcow2", table, &mappings.to_be_bytes());
    refused(&rig, "selfcount.qcow2", &["is damaged"]).await;
    // The first level of mappings as its own second level, and a second level full of itself.
    const OWN: u64 = 1 << 63;
    patch(&rig, "l1self.qcow2", mappings, &(OWN | mappings).to_be_bytes());
    refused(&rig, "l1self.qcow2", &["is damaged"]).await;
    let second = u64_at("l2loop.qcow2", mappings) & !OWN;
    for entry in 0..16 {
        patch(&rig, "l2loop.qcow2", second + entry * 8, &(OWN | second).to_be_bytes());
    }
    refused(&rig, "l2loop.qcow2", &["is damaged"]).await;
}

#[tokio::test]
async fn what_is_short_or_noise_is_refused() {
    let rig = Rig::new();
    let here = rig.folder.path();
    let noise: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    tool(here, "qemu-img create -q -f raw whole.raw 8M");
    patch(&rig, "whole.raw", 1 << 20, &noise);
    for format in ["qcow2", "vmdk", "vhd", "vhdx"] {
        rig.file(&format!("noise.{format}"), &noise);
        refused(&rig, &format!("noise.{format}"), &[]).await;
        let options = match format {
            "vmdk" => "vmdk -o subformat=streamOptimized",
            "vhd" => "vpc",
            other => other,
        };
        tool(here, &format!("qemu-img convert -f raw -O {options} whole.raw short.{format}"));
        let length = std::fs::metadata(rig.path(&format!("short.{format}"))).unwrap().len();
        let file = std::fs::File::options().write(true).open(rig.path(&format!("short.{format}"))).unwrap();
        file.set_len(length / 2).unwrap();
        refused(&rig, &format!("short.{format}"), &[]).await;
    }
    rig.file("empty.raw", "");
    refused(&rig, "empty.raw", &["0 bytes"]).await;
    rig.file("noise.img", &noise);
    refused(&rig, "noise.img", &["its name does not say what it is"]).await;
}

/// One member of a tar archive.
fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..263].copy_from_slice(b"ustar\0");
    block.extend(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

#[tokio::test]
async fn paths_in_an_ova_mean_nothing() {
    let rig = Rig::new();
    let end = vec![0; 1024];
    let ova = |name: &str, members: &[Vec<u8>]| rig.file(name, [members.concat(), end.clone()].concat());
    let noise = vec![9u8; 70_000];
    for (name, path) in
        [("up.ova", "../../../tmp/kiln-test-evil.vmdk"), ("root.ova", "/tmp/kiln-test-evil.vmdk")]
    {
        ova(name, &[member(path, b'0', "", &noise)]);
        let ended = rig.kiln(&format!("base import {name}")).await;
        // What it holds is looked at, where kiln put it.
        ended.failed(2, &["disk.vmdk is not what it should be"]);
        assert!(!std::path::Path::new("/tmp/kiln-test-evil.vmdk").exists());
        assert!(rig.left().is_empty(), "{:?}", rig.left());
    }
    for (name, kind) in [("symbolic.ova", b'2'), ("hard.ova", b'1'), ("device.ova", b'3')] {
        ova(name, &[member("disk.vmdk", kind, "/etc/shadow", b"")]);
        refused(&rig, name, &["holds no .vmdk disk"]).await;
    }
    // A link, and then a file that would be written through it.
    ova("through.ova", &[member("d", b'2', "/tmp", b""), member("d/kiln-test-evil.vmdk", b'0', "", &noise)]);
    rig.kiln("base import through.ova").await.failed(2, &["disk.vmdk is not what it should be"]);
    assert!(!std::path::Path::new("/tmp/kiln-test-evil.vmdk").exists());
    let mut claims = member("big.vmdk", b'0', "", b"x");
    claims[124..135].copy_from_slice(b"77777777777");
    ova("claims.ova", &[claims]);
    refused(&rig, "claims.ova", &["cut short"]).await;
    rig.file("noise.ova", &noise);
    refused(&rig, "noise.ova", &["a tar archive is expected"]).await;
}

/// What could be read for ever is not begun with, and a failure is of its own class.
#[tokio::test]
async fn what_is_no_disk_is_told_before_it_is_read() {
    let rig = Rig::new();
    let here = rig.folder.path();
    rig.kiln("base import nope.qcow2").await.failed(5, &["there is no file nope.qcow2"]);
    tool(here, "mkfifo pipe.raw pipe");
    std::os::unix::fs::symlink("/dev/zero", rig.path("zero.raw")).unwrap();
    refused(&rig, "pipe.raw", &["no regular file and no block device"]).await;
    refused(&rig, "pipe", &["no regular file and no block device"]).await;
    refused(&rig, "zero.raw", &["no regular file and no block device"]).await;
    // Most file systems hold no file of that length, the one in memory does.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let large = memory.path().join("large.raw");
    std::fs::File::create(&large).unwrap().set_len(7 << 60).unwrap();
    refused(&rig, large.to_str().unwrap(), &["has 8070450532247928832 bytes", "16 TiB"]).await;
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn a_disk_that_a_machine_writes_to_is_in_use() {
    let rig = Rig::new();
    rig.file("busy.raw", vec![7; 1 << 20]);
    let mut writer = tokio::process::Command::new("qemu-io");
    writer.args(["-f", "raw", "busy.raw"]).current_dir(rig.folder.path()).kill_on_drop(true);
    writer.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    // Its prompt: the file is open.
    let mut prompt = [0; 1];
    let read = writer.stdout.as_mut().unwrap().read_exact(&mut prompt);
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap().unwrap();
    let ended = rig.kiln("base import busy.raw --firmware bios").await;
    ended.failed(6, &["busy.raw is in use by another process", "End the machine"]);
    writer.kill().await.unwrap();
    rig.kiln("base import busy.raw --firmware bios").await.failed(0, &[]);
}

#[tokio::test]
async fn a_raw_disk_that_starts_like_qcow2_stays_raw() {
    let rig = Rig::new();
    let here = rig.folder.path();
    tool(here, "qemu-img create -q -f qcow2 -u -F raw -b /etc/shadow inner.raw 1M");
    let mut content = std::fs::read(rig.path("inner.raw")).unwrap();
    content.resize(1 << 20, 0);
    rig.file("inner.raw", &content);
    let record = rig.kiln("--format json base import inner.raw --firmware bios").await.json();
    assert_eq!((&record["virtualSize"], &record["origin"]["format"]), (&(1 << 20).into(), &"raw".into()));
    let disk = record["disk"].as_str().unwrap();
    tool(here, &format!("qemu-img convert -f qcow2 -O raw {disk} back.raw"));
    assert_eq!(std::fs::read(rig.path("back.raw")).unwrap(), content);
}

#[tokio::test]
async fn backing_files_in_the_same_folder_are_followed_on_request() {
    let rig = Rig::new();
    let here = rig.folder.path();
    let content: Vec<u8> = (0..1 << 20).map(|i: u32| (i >> 9) as u8).collect();
    rig.file("one.raw", &content);
    tool(here, "qemu-img create -q -f qcow2 -F raw -b one.raw two.qcow2");
    refused(&rig, "two.qcow2 --firmware bios", &["its backing file `one.raw`", "--flatten"]).await;
    let record = rig.kiln("--format json base import two.qcow2 --firmware bios --flatten").await.json();
    tool(here, &format!("qemu-img convert -f qcow2 -O raw {} back.raw", record["disk"].as_str().unwrap()));
    assert_eq!(std::fs::read(rig.path("back.raw")).unwrap(), content);
    std::fs::remove_file(rig.path("one.raw")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", rig.path("one.raw")).unwrap();
    refused(&rig, "two.qcow2 --firmware bios --flatten", &["no regular file"]).await;
}
