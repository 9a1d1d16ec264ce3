//! Installs what kiln and its tests use, from the distribution's own packages.

use crate::shell::{self, Result, command, which};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What the tests run against as S3.
const MOTO: &str = "moto[s3,iam]==5.2.5";

#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    Demo,
    Test,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
    /// What Python's venv needs, which Debian keeps in a package of its own.
    Ensurepip,
}

struct Need {
    sign: Sign,
    package: &'static str,
    why: &'static str,
    tests_only: bool,
}

use Sign::{Ensurepip, File, Program};

const fn need(sign: Sign, package: &'static str, why: &'static str) -> Need {
    Need { sign, package, why, tests_only: false }
}

const fn for_tests(sign: Sign, package: &'static str, why: &'static str) -> Need {
    Need { sign, package, why, tests_only: true }
}

const NEEDS: &[Need] = &[
    need(Program("cc"), "gcc", "links kiln"),
    need(File("/usr/lib/x86_64-linux-gnu/libc.a"), "libc6-dev", "the guest agent is linked statically"),
    need(Program("qemu-system-x86_64"), "qemu-system-x86", "runs the guests"),
    need(Program("qemu-img"), "qemu-utils", "makes, converts and checks disk images"),
    need(File("/usr/share/OVMF/OVMF_CODE_4M.fd"), "ovmf", "UEFI firmware for x86_64 guests"),
    need(Program("xz"), "xz-utils", "unpacks the modules of Debian 13's kernels"),
    need(Program("mmdebstrap"), "mmdebstrap", "makes Debian base images from packages"),
    need(Program("mke2fs"), "e2fsprogs", "makes a base image's file system without mounting it"),
    need(Program("mkfs.vfat"), "dosfstools", "makes the EFI system partition"),
    need(Program("mcopy"), "mtools", "fills the EFI system partition without mounting it"),
    need(Program("sfdisk"), "fdisk", "partitions a base image"),
    need(Program("grub-mkimage"), "grub-common", "makes a base image bootable by BIOS and UEFI"),
    need(File("/usr/lib/grub/i386-pc"), "grub-pc-bin", "boots a base image by BIOS"),
    need(File("/usr/lib/grub/x86_64-efi"), "grub-efi-amd64-bin", "boots a base image by UEFI"),
    need(Program("unshare"), "util-linux", "makes a base image's tree apart from the host"),
    need(Program("mount"), "mount", "gives a base image's tree its /proc and /dev"),
    need(Program("newuidmap"), "uidmap", "makes a base image without root"),
    need(
        File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        "debian-archive-keyring",
        "checks Debian's packages",
    ),
    for_tests(Program("mkfs.xfs"), "xfsprogs", "makes the xfs disks of the tests"),
    for_tests(Program("mkfs.btrfs"), "btrfs-progs", "makes the btrfs disks of the tests"),
    for_tests(Program("cpio"), "cpio", "reads back the archives that kiln writes"),
    for_tests(File("/bin/bash-static"), "bash-static", "the shell of the tests' smallest base image"),
    for_tests(Program("busybox"), "busybox-static", "the tools of the tests' smallest base image"),
    for_tests(Program("dnf"), "dnf", "the package manager of the other family, which documents ask"),
    for_tests(Program("rpmbuild"), "rpm", "makes the packages of tests, and the databases of them"),
    for_tests(Program("createrepo_c"), "createrepo-c", "makes the repository that dnf asks in tests"),
    for_tests(Program("gpg"), "gnupg", "signs what the tests pull"),
    for_tests(Program("gpgv"), "gpgv", "checks vendors' signatures"),
    for_tests(Program("zsh"), "zsh", "reads the completion script that is for it"),
    for_tests(Program("fish"), "fish", "reads the completion script that is for it"),
    for_tests(Program("nix-instantiate"), "nix-bin", "reads flake.nix"),
    for_tests(Program("python3"), "python3", "runs the benchmarks"),
    for_tests(Program("depmod"), "kmod", "orders the modules of the benchmark's smallest guest"),
    for_tests(Program("ssh"), "openssh-client", "reaches the guests that benchmarks compare with"),
    for_tests(Ensurepip, "python3-venv", "holds moto, the S3 store of the tests"),
];

impl Need {
    fn is_met(&self) -> bool {
        match self.sign {
            Program(name) => which(name).is_some(),
            File(path) => Path::new(path).exists(),
            Ensurepip => command(&["python3", "-c", "import ensurepip"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success()),
        }
    }
}

/// Installs the missing packages on Debian 12 and 13; elsewhere says what they are.
fn install_missing(purpose: Purpose) -> Result {
    // A package can push another one out (a newer qemu-utils of a backport, say), so look again.
    for _ in 0..3 {
        let missing: Vec<&Need> =
            NEEDS.iter().filter(|n| (purpose == Purpose::Test || !n.tests_only) && !n.is_met()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        println!("Missing on this machine:");
        for need in &missing {
            println!("  {:<24} {}", need.package, need.why);
        }
        let packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
        if !is_supported_debian() {
            return Err(format!(
                "this is not Debian 12 or 13, so nothing was installed.\n\
                 Install your distribution's packages for: {}",
                packages.join(" ")
            ));
        }
        install(&packages)?;
    }
    let left: Vec<&str> = NEEDS.iter().filter(|n| !n.is_met()).map(|n| n.package).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("still missing after installing: {}", left.join(" "))) }
}

pub fn run(purpose: Purpose) -> Result {
    install_missing(purpose)?;
    if purpose == Purpose::Test {
        install_moto()?;
    }
    println!("Everything kiln needs is installed.");
    Ok(())
}

/// Debian's web server, unpacked into a folder of its own: installed it would serve this machine's port 80.
pub fn nginx() -> Result<PathBuf> {
    if let Some(installed) = which("nginx") {
        return Ok(installed);
    }
    let folder = shell::target().join("nginx");
    let program = folder.join("usr/sbin/nginx");
    if program.exists() {
        return Ok(program);
    }
    println!("Fetching nginx into {}", folder.display());
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut fetch = command(&["apt-get", "download", "nginx"]);
    shell::run(fetch.current_dir(&folder)).map_err(|e| format!("{e}\nDoes `apt-get update` work?"))?;
    let packages = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for package in packages.flatten().map(|p| p.path()).filter(|p| p.extension().is_some_and(|e| e == "deb"))
    {
        let unpack = [OsStr::new("dpkg-deb"), OsStr::new("-x"), package.as_os_str(), folder.as_os_str()];
        shell::run(&mut command(&unpack))?;
    }
    Ok(program)
}

/// The S3 store of the tests, from the Python package index into a folder of its own.
fn install_moto() -> Result {
    let folder = shell::target().join("moto");
    let mark = folder.join(MOTO);
    if mark.exists() {
        return Ok(());
    }
    println!("Installing {MOTO} into {}", folder.display());
    let _ = std::fs::remove_dir_all(&folder);
    let venv = [OsStr::new("python3"), OsStr::new("-m"), OsStr::new("venv"), folder.as_os_str()];
    shell::run(&mut command(&venv))?;
    let pip = folder.join("bin/pip");
    let mut install = command(&[pip.as_os_str()]);
    install.args(["install", "--quiet", "--no-compile", "--disable-pip-version-check"]);
    shell::run(install.args([MOTO, "flask", "flask-cors"])).map_err(|e| {
        format!("{e}\nWithout moto the tests of S3Download and S3Upload cannot run. Is the package index reachable?")
    })?;
    std::fs::write(&mark, "").map_err(|e| format!("{}: {e}", mark.display()))
}

fn is_supported_debian() -> bool {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
    };
    value("ID").as_deref() == Some("debian") && matches!(value("VERSION_ID").as_deref(), Some("12" | "13"))
}

fn install(packages: &[&str]) -> Result {
    let sudo: &[&str] = if is_root()? {
        &[]
    } else if which("sudo").is_some() {
        &["sudo"]
    } else {
        return Err(format!("not root and no sudo: run as root: apt-get install {}", packages.join(" ")));
    };
    let apt = |tail: &[&str]| {
        let argv: Vec<&str> = sudo.iter().copied().chain(["apt-get"]).chain(tail.iter().copied()).collect();
        let mut c = command(&argv);
        c.env("DEBIAN_FRONTEND", "noninteractive");
        println!("$ {}", shell::words(&c));
        shell::run(&mut c)
    };
    apt(&["-q", "update"])
        .and_then(|()| {
            let mut tail = vec!["-q", "install", "--yes", "--no-install-recommends"];
            tail.extend(packages);
            apt(&tail)
        })
        .map_err(|e| {
            format!("{e}\nWithout these packages kiln cannot build images. Is the package mirror reachable?")
        })
}

fn is_root() -> Result<bool> {
    Ok(shell::read(&mut command(&["id", "-u"]))?.trim() == "0")
}
