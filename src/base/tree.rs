//! From the packages' files to a root file system: what no package brings.

use super::bootloader::{self, ROOT_LABEL};
use super::deb822;
use super::definition::{File, Packages};
use super::mirror::AptSource;
use crate::model::Architecture;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Writes into the tree everything that kiln adds. On failure the path that it is about.
pub fn finish(
    tree: &Path,
    packages: &Packages,
    architecture: Architecture,
    sources: &[AptSource],
) -> Result<(), (PathBuf, io::Error)> {
    clean(tree)?;
    let lines: String = sources.iter().map(|s| format!("{s}\n")).collect();
    put(tree, "/etc/apt/sources.list", 0o644, &lines)?;
    put(tree, "/etc/hostname", 0o644, "localhost\n")?;
    put(tree, "/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")?;
    put(tree, "/etc/fstab", 0o644, &format!("LABEL={ROOT_LABEL} / ext4 errors=remount-ro 0 1\n"))?;
    // Empty, not absent: systemd makes an id at the next boot and does not take it for the first one ever.
    put(tree, "/etc/machine-id", 0o444, "")?;
    put(tree, "/boot/grub/grub.cfg", 0o644, &bootloader::configuration(&packages.kernel_arguments))?;
    if tree.join("usr/sbin/update-grub").exists() {
        put(tree, "/etc/default/grub", 0o644, &grub_defaults(&packages.kernel_arguments))?;
    }
    let modules = tree.join("boot/grub");
    bootloader::copy_modules(tree, architecture).map_err(|e| (modules, e))?;
    if tree.join("usr/lib/systemd/systemd-resolved").exists() {
        link(tree, "/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")?;
    }
    for File { path, mode, content } in &packages.files {
        put(tree, path, *mode, content)?;
    }
    Ok(())
}

/// What `update-grub` inside the guest builds on.
fn grub_defaults(kernel_arguments: &[String]) -> String {
    format!(
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=\"\"\n\
         GRUB_CMDLINE_LINUX=\"{}\"\nGRUB_TERMINAL=\"console serial\"\n\
         GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\nGRUB_DISABLE_OS_PROBER=true\n",
        kernel_arguments.join(" ")
    )
}

/// Takes away what belongs to the build or to one machine.
fn clean(tree: &Path) -> Result<(), (PathBuf, io::Error)> {
    // Device nodes: the kernel makes them; in a user namespace they would be plain files.
    for folder in ["dev", "run", "tmp", "var/tmp", "var/lib/apt/lists", "var/cache/apt", "var/log"] {
        let folder = tree.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err((folder, e)),
        };
        for entry in entries.flatten() {
            // Empty folders are kept: packages expect theirs, with their owners.
            remove_files(&entry.path(), folder.ends_with("var/log"))?;
        }
    }
    for file in [
        "etc/apt/apt.conf.d/00mmdebstrap",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "var/cache/ldconfig/aux-cache",
        "etc/resolv.conf",
        "etc/machine-id",
        "vmlinuz.old",
        "initrd.img.old",
    ] {
        remove_files(&tree.join(file), false)?;
    }
    let ssh = tree.join("etc/ssh");
    for entry in fs::read_dir(&ssh).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("ssh_host_") && name.contains("_key") {
            remove_files(&entry.path(), false)?;
        }
    }
    Ok(())
}

fn remove_files(path: &Path, keep_folders: bool) -> Result<(), (PathBuf, io::Error)> {
    let error = |e| (path.to_owned(), e);
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(error(e)),
    };
    match (kind.is_dir(), keep_folders) {
        (false, _) => fs::remove_file(path).map_err(error),
        (true, false) => fs::remove_dir_all(path).map_err(error),
        (true, true) => {
            fs::read_dir(path).map_err(error)?.flatten().try_for_each(|e| remove_files(&e.path(), true))
        }
    }
}

/// Writes a file, replacing whatever had its name; a link at its place is not followed.
fn put(tree: &Path, path: &str, mode: u32, content: &str) -> Result<(), (PathBuf, io::Error)> {
    let target = tree.join(path.trim_start_matches('/'));
    let write = || {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::write(&target, content)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))
    };
    write().map_err(|e| (target.clone(), e))
}

fn link(tree: &Path, path: &str, to: &str) -> Result<(), (PathBuf, io::Error)> {
    let target = tree.join(path.trim_start_matches('/'));
    let _ = fs::remove_file(&target);
    symlink(to, &target).map_err(|e| (target, e))
}

/// The packages in a tree, sorted: name, version, architecture.
pub fn inventory(tree: &Path) -> Result<Vec<(String, String, String)>, (PathBuf, io::Error)> {
    let status = tree.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&status).map_err(|e| (status, e))?;
    let mut found: Vec<_> = deb822::parse(&text)
        .iter()
        .filter(|s| s.get("Status") == "install ok installed")
        .map(|s| (s.get("Package").into(), s.get("Version").into(), s.get("Architecture").into()))
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> Packages {
        Packages {
            suite: "s".into(),
            components: vec!["main".into()],
            variant: "minbase",
            include: vec![],
            files: vec![File { path: "/etc/x/y".into(), mode: 0o600, content: "z".into() }],
            commands: None,
            kernel_arguments: vec!["console=ttyS0".into()],
            disk_size: 1 << 30,
        }
    }

    #[test]
    fn nothing_of_the_build_or_of_one_machine_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        for (path, content) in [
            ("dev/null", ""),
            ("etc/machine-id", "1234"),
            ("etc/ssh/ssh_host_rsa_key", "secret"),
            ("etc/ssh/sshd_config", "kept"),
            ("etc/apt/apt.conf.d/99mmdebstrap", "x"),
            ("var/log/apt/history.log", "x"),
            ("var/lib/apt/lists/a", "x"),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        clean(tree).unwrap();
        for gone in ["dev/null", "etc/machine-id", "etc/ssh/ssh_host_rsa_key", "var/log/apt/history.log"] {
            assert!(!tree.join(gone).exists(), "{gone}");
        }
        assert!(tree.join("etc/ssh/sshd_config").exists() && tree.join("var/log/apt").is_dir());
    }

    #[test]
    fn files_replace_links_and_get_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("etc/x")).unwrap();
        symlink(&outside, tree.join("etc/x/y")).unwrap();
        let file = &packages().files[0];
        put(&tree, &file.path, file.mode, &file.content).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        let meta = fs::symlink_metadata(tree.join("etc/x/y")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn the_inventory_lists_what_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        let text = "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n\n\
                    Package: a\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";
        fs::write(dir.path().join("var/lib/dpkg/status"), text).unwrap();
        assert_eq!(inventory(dir.path()).unwrap(), [("b".into(), "2".into(), "all".into())]);
    }
}
