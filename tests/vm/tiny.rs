//! A base image of a few MiB: bash, busybox and an os-release, on one file system without partitions.
//! Nothing can boot it; components run in it in the appliance.

use crate::build::Bench;
use crate::disks::tool;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub const NAME: &str = "tiny";

const FOLDERS: [&str; 13] = [
    "bin",
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/sbin",
    "var",
    "var/lib",
    "var/lib/dpkg",
];
const FILES: [(&str, &str); 6] = [
    ("etc/os-release", "ID=tiny\nVERSION_ID=1\nPRETTY_NAME=\"Tiny of the tests\"\n"),
    ("etc/hostname", "tiny-host\n"),
    ("etc/machine-id", ""),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/resolv.conf", "nameserver 192.0.2.1\n"),
];
const APPLETS: [&str; 14] = [
    "cat", "chroot", "dd", "grep", "head", "hostname", "id", "ls", "mkdir", "mkswap", "rm", "sleep",
    "swapon", "touch",
];

/// Makes the root's tree and imports it as a base image. Returns the tree, for comparison.
pub fn import(bench: &Bench) -> PathBuf {
    let tree = bench.folder.join("tiny");
    for folder in FOLDERS {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::fs::set_permissions(tree.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    for (path, text) in FILES {
        std::fs::write(tree.join(path), text).unwrap();
    }
    copy(&["/bin/bash-static", "/usr/bin/bash-static"], &tree.join("bin/bash"));
    copy(&["/bin/busybox", "/usr/bin/busybox"], &tree.join("bin/busybox"));
    for applet in APPLETS {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    symlink("bash", tree.join("bin/sh")).unwrap();
    let raw = bench.folder.join("tiny.raw");
    std::fs::File::create(&raw).unwrap().set_len(32 << 20).unwrap();
    let (from, to) = (tree.to_str().unwrap(), raw.to_str().unwrap());
    tool("mke2fs", &["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", from, to], "");
    let output = bench.run(&["base", "import", to, "--name", NAME, "--firmware", "bios"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    tree
}

/// Both lie where /usr is merged and where it is not; only static ones run without libraries.
fn copy(from: &[&str], to: &Path) {
    let found = from.iter().find(|path| Path::new(path).exists());
    let found = found.unwrap_or_else(|| panic!("one of {from:?} is needed: cargo xtask test installs it"));
    std::fs::copy(found, to).unwrap();
}
