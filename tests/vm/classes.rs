//! Guests broken on purpose, one for each class of failure: named rightly, and soon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln::appliance::facts::InitrdKind;
use kiln::appliance::{Appliance, BootFiles, Kit};
use kiln::base::Store;
use kiln::boot::{BootError, BootRequest, BootedGuest, Class, CloudInit, Waiting, Watch};
use kiln::disk::create_overlay;
use kiln::guest::inject::Route;
use kiln::guest::inject::cpio::Archive;
use kiln::machine::{Cache, Disk, Identity, MachineSpec, read_console};
use kiln::model::{Architecture, DiskFormat, Firmware};

use crate::boot::home;
use crate::bootsector::Program;
use crate::support::{Folder, accelerator, patience};

const LIMIT: Duration = Duration::from_secs(400);
/// From the sign on the console to the failure: kiln looks every second and then waits two for the rest
/// of it; the machine that runs the tests may be busy.
const SOON: Duration = Duration::from_secs(15);

/// What is expected of a guest.
struct Expected {
    class: Class,
    /// On the console's tail; nothing where no machine ran.
    says: &'static str,
    /// The machine runs on, so its screen can be seen.
    lives: bool,
}

const fn lives(class: Class, says: &'static str) -> Expected {
    Expected { class, says, lives: true }
}

const fn ends(class: Class, says: &'static str) -> Expected {
    Expected { class, says, lives: false }
}

struct Quiet;

impl Watch for Quiet {
    fn machine(&self, _: Identity, _: &Path) {}
    fn note(&self, _: &str) {}
    fn waiting(&self, _: Waiting) {}
}

/// Kills QEMU as soon as it runs.
struct Killer;

impl Watch for Killer {
    fn machine(&self, identity: Identity, _: &Path) {
        let pid = rustix::process::Pid::from_raw(identity.pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
    }
    fn note(&self, _: &str) {}
    fn waiting(&self, _: Waiting) {}
}

async fn kit() -> Kit {
    Kit::ensure(&home().join("appliance"), Architecture::X86_64, &patience(300)).await.unwrap()
}

/// A machine that begins in firmware, with a disk that holds no more than its first sector.
async fn firmware(firmware: Firmware, program: Option<Program>, folder: &Path) -> BootRequest {
    let disk = folder.join("boot.raw");
    match program {
        Some(program) => drop(program.disk(folder)),
        None => std::fs::File::create(&disk).unwrap().set_len(2 << 20).unwrap(),
    }
    let mut spec = MachineSpec::new("kiln-broken", Architecture::X86_64, accelerator());
    (spec.memory_mib, spec.screen, spec.firmware) = (128, true, firmware);
    spec.disks.push(Disk::new(disk, DiskFormat::Raw));
    BootRequest {
        spec,
        further: Vec::new(),
        folder: folder.join("machine"),
        route: Route::Smbios,
        cloud_init: CloudInit::Alone,
        kit: kit().await,
        first: None,
        limit: LIMIT,
    }
}

/// The appliance's kernel with an initramfs of busybox, and `init` where that is a script.
async fn tiny(init: Option<&str>, folder: &Path) -> BootRequest {
    let mut request = firmware(Firmware::Bios, None, folder).await;
    let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap().stdout;
    let busybox = std::fs::read(String::from_utf8(busybox).unwrap().trim()).unwrap();
    let mut initrd = match init {
        Some(_) => std::fs::read(&request.kit.initrd).unwrap(),
        None => Vec::new(),
    };
    let mut archive = Archive::new();
    for path in ["bin", "dev", "mnt", "proc", "run", "sys"] {
        archive.folder(path);
    }
    archive.file("bin/busybox", 0o755, &busybox);
    if let Some(script) = init {
        let mounts = "mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev";
        let applets = "for a in mount mkdir dd sleep sh; do busybox ln -s busybox bin/$a; done";
        let text = format!("#!/bin/busybox sh\n{applets}\n{mounts}\n{script}\n");
        archive.file("init", 0o755, text.as_bytes());
    }
    initrd.extend(archive.finish());
    let path = folder.join("initrd");
    std::fs::write(&path, initrd).unwrap();
    request.route = Route::Overlay;
    request.first = Some(BootFiles {
        version: "of the appliance".into(),
        kernel: request.kit.kernel.clone(),
        initrd: path,
        initrd_kind: InitrdKind::InitramfsTools,
        command_line: "console=ttyS0".into(),
    });
    request
}

/// The recorded lines, without what steers a terminal.
fn console(machine: &Path) -> Vec<String> {
    let bytes = read_console(machine).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let plain =
        |piece: &str| piece.split_once(char::is_alphabetic).map_or(String::new(), |(_, rest)| rest.into());
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    let text: String = std::iter::once(first).chain(pieces.map(plain)).collect();
    text.lines().map(str::to_owned).collect()
}

/// Boots, which must fail as expected.
async fn check(name: &str, request: BootRequest, watch: Arc<dyn Watch>, expected: Expected) {
    let machine = request.folder.clone();
    let decided = async {
        loop {
            if Class::is_decided(&console(&machine)) {
                break Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let sign = std::sync::Mutex::new(None);
    let seeing = async {
        *sign.lock().unwrap() = Some(decided.await);
        std::future::pending::<()>().await;
    };
    let begun = Instant::now();
    let p = patience(600);
    let error = tokio::select! {
        booted = BootedGuest::start(request, watch, &p) => match booted {
            Ok(_) => panic!("{name}: it came up"),
            Err(error) => error,
        },
        () = seeing => unreachable!(),
    };
    let took = begun.elapsed();
    let after_sign = sign.lock().unwrap().map(|at| at.elapsed());
    let failure = error.failure();
    println!("{name}: {:?} after {took:.1?}, {after_sign:.1?} after the sign: {failure}", error.class());
    assert_eq!(error.class(), Some(expected.class), "{name}: {failure:#?}");
    assert_eq!(failure.class, Some(expected.class.as_str()));
    assert!(!failure.hints.is_empty(), "{name}: {failure:#?}");
    assert!(took < LIMIT, "{name}");
    assert!(
        expected.says.is_empty() || failure.console.iter().any(|l| l.contains(expected.says)),
        "{name}: {failure:#?}"
    );
    let screen = machine.join("screen.png");
    assert_eq!(failure.files, if expected.lives { vec![screen.clone()] } else { vec![] }, "{name}");
    if expected.lives {
        assert!(matches!(error, BootError::Down { exit: None, .. }), "{name}: {error:?}");
        assert!(after_sign.unwrap() < SOON, "{name}: {after_sign:?}");
        assert!(std::fs::read(&screen).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"), "{name}");
    }
}

/// As on a disk whose /boot/grub is gone.
fn grub_without_configuration(folder: &Path) {
    let core = folder.join("core.img");
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", "i386-pc", "-p", "/nowhere", "-o"]).arg(&core).args(["biosdisk", "normal"]);
    assert!(make.status().unwrap().success());
    let mut disk = std::fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
    disk.extend(std::fs::read(core).unwrap());
    disk.resize(2 << 20, 0);
    std::fs::write(folder.join("boot.raw"), disk).unwrap();
}

#[tokio::test]
async fn firmware_and_boot_loader() {
    let quiet = || Arc::new(Quiet);
    let table = [
        ("bios", Firmware::Bios, None, lives(Class::NoBootEntry, "No bootable device.")),
        ("uefi", Firmware::Uefi, None, lives(Class::NoBootEntry, "BdsDxe")),
        (
            "loop",
            Firmware::Bios,
            Some(Program::default().triple_fault()),
            ends(Class::FirmwareLoop, "Booting"),
        ),
    ];
    for (name, kind, program, expected) in table {
        let folder = Folder::new(&format!("broken-{name}"));
        check(name, firmware(kind, program, &folder).await, quiet(), expected).await;
    }
    let folder = Folder::new("broken-grub");
    let request = firmware(Firmware::Bios, None, &folder).await;
    grub_without_configuration(&folder);
    check("grub", request, quiet(), lives(Class::NoBootEntry, "Minimal BASH-like line editing")).await;
    let folder = Folder::new("broken-qemu");
    let mut request = firmware(Firmware::Bios, Some(Program::default().halt()), &folder).await;
    check("qemu-killed", request.clone(), Arc::new(Killer), ends(Class::QemuFailed, "")).await;
    request.spec.cpu = Some("abacus".into());
    check("qemu-refuses", request, quiet(), ends(Class::QemuFailed, "")).await;
}

/// What a guest of the appliance's kernel needs to see its disks.
const DRIVERS: &str = "while read -r module; do busybox insmod /$module; done < /modules.order
busybox insmod /lib/modules/*/kernel/drivers/block/virtio_blk.ko";

#[tokio::test]
async fn kernel_and_init() {
    let no_folder = format!("{DRIVERS}\necho > /run/kiln\nsh /kiln/launch\nsleep 600");
    let table = [
        ("no-root", None, lives(Class::NoRootDevice, "Unable to mount root fs")),
        ("init-ends", Some("exit 1"), lives(Class::InitMissing, "Attempted to kill init")),
        ("panic", Some("echo c > /proc/sysrq-trigger"), lives(Class::KernelPanic, "sysrq triggered crash")),
        ("memory", Some("busybox tail /dev/zero"), lives(Class::OutOfMemory, "Out of memory")),
        (
            "disk",
            Some("mount -t tmpfs -o size=64k full /mnt; dd if=/dev/zero of=/mnt/file"),
            lives(Class::DiskFull, "No space left on device"),
        ),
        ("reboot", Some("busybox reboot -f"), ends(Class::RebootUnasked, "Restarting system")),
        ("agent", Some(&no_folder), lives(Class::AgentNotStarted, "the agent on /dev/vd")),
    ];
    for (name, init, expected) in table {
        let folder = Folder::new(&format!("broken-{name}"));
        check(name, tiny(init, &folder).await, Arc::new(Quiet), expected).await;
    }
}

/// systemd's jobs never end, and the console says why: its class is told, though the agent is there.
#[tokio::test]
async fn a_boot_that_hangs_after_the_greeting() {
    let folder = Folder::new("broken-hang");
    let hangs = "echo systemd > /proc/1/comm
        echo '#!/bin/sh\nexec busybox sleep 600' > /bin/systemctl
        busybox chmod +x /bin/systemctl
        mount -t tmpfs -o size=64k full /mnt; dd if=/dev/zero of=/mnt/file
        sh /kiln/launch
        sleep 600";
    let mut request = tiny(Some(&format!("{DRIVERS}\n{hangs}")), &folder).await;
    request.limit = Duration::from_secs(30);
    let machine = request.folder.clone();
    let booted = BootedGuest::start(request, Arc::new(Quiet), &patience(300)).await;
    let error = booted.map(|_| "it came up").unwrap_err();
    let failure = error.failure();
    assert!(matches!(error, BootError::NotReady { .. }), "{failure:#?}");
    assert_eq!(failure.class, Some(Class::DiskFull.as_str()), "{failure:#?}");
    assert_eq!(failure.files, [machine.join("screen.png")]);
    assert!(failure.console.iter().any(|l| l.contains("No space left on device")), "{failure:#?}");
    assert!(failure.hints[0].contains("larger disk"), "{failure:#?}");
    assert!(failure.causes[0].contains("still waits for systemd"), "{failure:#?}");
}

/// Debian's own kernel and initramfs.
struct Debian {
    disk: PathBuf,
    files: BootFiles,
}

async fn debian(folder: &Path) -> Debian {
    let base = Store::new(&home()).get("debian-12-minimal").expect("cargo xtask test builds the bases first");
    let disk = Disk::new(&base.disk, DiskFormat::Qcow2).read_only();
    let (p, machine) = (patience(300), folder.join("appliance"));
    let appliance = Appliance::start(&kit().await, vec![disk], accelerator(), &machine, &p).await.unwrap();
    let files = appliance.boot_files(folder, &p).await.unwrap();
    appliance.shutdown(&p).await.unwrap();
    Debian { disk: base.disk, files }
}

impl Debian {
    /// On a fresh overlay: with this on its command line, this done to its disk before it is used,
    /// and so many MiB of memory.
    async fn request(&self, more: &str, script: &str, memory: u32, folder: &Path) -> BootRequest {
        let disk = folder.join("overlay.qcow2");
        create_overlay(&self.disk, DiskFormat::Qcow2, &disk, None, &patience(60)).await.unwrap();
        let mut archive = Archive::new();
        archive.folder("conf");
        archive.folder("conf/conf.d");
        let hook = "echo '. /broken' >> /scripts/init-bottom/ORDER\n";
        archive.file("conf/conf.d/broken", 0o644, hook.as_bytes());
        archive.file("broken", 0o644, script.as_bytes());
        let mut initrd = std::fs::read(&self.files.initrd).unwrap();
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(archive.finish());
        let path = folder.join("initrd");
        std::fs::write(&path, initrd).unwrap();
        let command_line = format!("{} {more}", self.files.command_line);
        let mut request = firmware(Firmware::Bios, None, folder).await;
        request.route = Route::Overlay;
        request.first = Some(BootFiles { initrd: path, command_line, ..self.files.clone() });
        request.spec.disks = vec![Disk::new(disk, DiskFormat::Qcow2).cache(Cache::Unsafe)];
        request.spec.memory_mib = memory;
        request
    }
}

#[tokio::test]
async fn debian_with_something_missing() {
    let here = Folder::new("broken-debian");
    let debian = debian(&here).await;
    let no_disk = "mount -o remount,rw root ${rootmnt}\n\
        echo LABEL=nope /srv ext4 x-systemd.device-timeout=5s 0 2 >> ${rootmnt}/etc/fstab\n";
    let table = [
        ("root=LABEL=nope", "", 512, lives(Class::NoRootDevice, "ALERT!")),
        ("init=/bin/false", "", 512, lives(Class::InitMissing, "Attempted to kill init")),
        // The kernel dies before it can say anything.
        ("", "", 64, ends(Class::OutOfMemory, "")),
        ("", "", 96, lives(Class::OutOfMemory, "System is deadlocked on memory")),
        ("", no_disk, 512, lives(Class::EmergencyShell, "root account is locked")),
    ];
    for (i, (more, script, memory, expected)) in table.into_iter().enumerate() {
        let folder = Folder::new(&format!("broken-debian-{i}"));
        let request = debian.request(more, script, memory, &folder).await;
        check(&format!("debian {i} {more}"), request, Arc::new(Quiet), expected).await;
    }
}
