//! Small disks with a root on them, made without mounting anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root's tree on the host: folders and files by path, without the leading slash.
pub struct Tree(PathBuf);

impl Tree {
    /// What makes a folder a Linux root to kiln, with a kernel to start.
    pub fn new(folder: &Path) -> Tree {
        let tree = Tree(folder.join("tree"));
        tree.file("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian of the tests\"\n");
        tree.file("etc/fstab", "LABEL=root / auto defaults 0 1\nLABEL=ESP /esp vfat defaults 0 1\n");
        // An absolute link means a place in the image, also where something is mounted on it.
        tree.link("esp", "/boot/efi");
        tree.file("boot/vmlinuz-6.1.0-9-test", "an older kernel");
        tree.file("boot/initrd.img-6.1.0-9-test", "its initramfs");
        tree.file("boot/vmlinuz-6.1.0-56-test", "a kernel");
        tree.file("boot/initrd.img-6.1.0-56-test", "an initramfs");
        tree.file("boot/grub/grub.cfg", "linux /vmlinuz root=LABEL=root ro quiet\n");
        tree.file("boot/efi/.keep", "");
        tree.file("usr/share/initramfs-tools/init", "");
        tree.file("usr/lib/systemd/libsystemd-shared-252.so", "");
        tree
    }

    pub fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }
}

/// Runs a tool; `input` goes to its standard input.
pub fn tool(program: &str, arguments: &[&str], input: &str) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(program)
        .env("PATH", path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A raw disk: BIOS boot partition, ESP, and a root of `root_mib` of the kind `ext4`, `xfs` or `btrfs`.
pub fn disk(folder: &Path, tree: &Tree, kind: &str, root_mib: u64) -> PathBuf {
    let root = folder.join("root");
    empty(&root, root_mib << 20);
    let (tree, image) = (tree.0.to_str().unwrap(), root.to_str().unwrap());
    match kind {
        "ext4" => {
            tool("mke2fs", &["-q", "-t", "ext4", "-L", "root", "-E", "root_owner=0:0", "-d", tree, image], "")
        }
        "btrfs" => tool("mkfs.btrfs", &["-q", "-L", "root", "--rootdir", tree, image], ""),
        "xfs" => {
            let prototype = folder.join("prototype");
            std::fs::write(
                &prototype,
                format!("/dev/null\n0 0\n{}$\n", prototype_of(Path::new(tree), "d--755 0 0")),
            )
            .unwrap();
            tool("mkfs.xfs", &["-q", "-L", "root", "-p", prototype.to_str().unwrap(), image], "")
        }
        other => panic!("{other}"),
    };
    let esp = folder.join("esp");
    empty(&esp, 34 << 20);
    tool("mkfs.vfat", &["-F", "32", "-n", "ESP", esp.to_str().unwrap()], "");
    for name in ["::EFI", "::EFI/BOOT"] {
        tool("mmd", &["-i", esp.to_str().unwrap(), name], "");
    }
    let keep = Path::new(tree).join("boot/efi/.keep");
    tool("mcopy", &["-i", esp.to_str().unwrap(), keep.to_str().unwrap(), "::EFI/BOOT/BOOTX64.EFI"], "");
    assemble(folder, &esp, &root, root_mib)
}

fn assemble(folder: &Path, esp: &Path, root: &Path, root_mib: u64) -> PathBuf {
    let disk = folder.join("disk.raw");
    empty(&disk, (1 + 1 + 34 + root_mib + 1) << 20);
    let layout = format!(
        "label: gpt\n\
         start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\n\
         start=4096,size={},type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
         start={},size={},type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709\n",
        34 << 11,
        36 << 11,
        root_mib << 11
    );
    let path = disk.to_str().unwrap();
    tool("sfdisk", &["--quiet", path], &layout);
    for (file, seek) in [(esp, "seek=2"), (root, "seek=36")] {
        let (input, output) = (format!("if={}", file.display()), format!("of={path}"));
        tool("dd", &[&input, &output, "bs=1M", seek, "conv=notrunc,sparse", "status=none"], "");
        std::fs::remove_file(file).unwrap();
    }
    disk
}

fn empty(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

/// A tree in the words of mkfs.xfs.
fn prototype_of(folder: &Path, own: &str) -> String {
    let mut text = format!("{own}\n");
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_symlink() {
            text += &format!("{name} l--777 0 0 {}\n", std::fs::read_link(&path).unwrap().display());
        } else if path.is_dir() {
            text += &prototype_of(&path, &format!("{name} d--755 0 0"));
            text += "$\n";
        } else {
            text += &format!("{name} ---644 0 0 {}\n", path.display());
        }
    }
    text
}
