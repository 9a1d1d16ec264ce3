//! The life of a machine: how it ends, what it leaves, and that it never outlives kiln.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use kiln::machine::{
    Cache, Disk, Exit, Forward, Identity, Interface, Machine, MachineError, Network, Size, read_console, reap,
};
use kiln::model::{DiskFormat, FailureKind, Firmware};

use crate::bootsector::{Program, spec};
use crate::support::{Folder, patience, until};

async fn exit_of(name: &str, program: Program) -> Exit {
    let folder = Folder::new(name);
    let machine = Machine::start(&spec(program, &folder), &folder, &patience(30)).await.unwrap();
    machine.wait_exit(&patience(30)).await.unwrap()
}

#[tokio::test]
async fn every_end_has_its_reason() {
    assert_eq!(exit_of("power-off", Program::default().power_off()).await, Exit::GuestShutdown);
    assert_eq!(exit_of("reset", Program::default().reset()).await, Exit::GuestReset);
    assert_eq!(exit_of("triple-fault", Program::default().triple_fault()).await, Exit::GuestReset);
    assert_eq!(exit_of("panic", Program::default().panic()).await, Exit::Panicked);
}

#[tokio::test]
async fn a_guest_that_ignores_the_power_button_is_killed() {
    let folder = Folder::new("deaf");
    let machine =
        Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
    let mut events = machine.qmp().events();
    machine.power_button(&patience(10)).await.unwrap();
    assert_eq!(patience(10).wait("an event", events.recv()).await.unwrap().unwrap().name, "POWERDOWN");
    let p = patience(60).at_most(Duration::from_millis(300));
    machine.wait_exit(&p).await.unwrap_err();
    assert_eq!(machine.exited(), None);
    machine.kill();
    assert_eq!(machine.wait_exit(&patience(10)).await.unwrap(), Exit::Killed);
    // What is told to a machine that is gone is an error, not a wait.
    machine.power_button(&patience(10)).await.unwrap_err();
}

#[tokio::test]
async fn a_machine_ends_when_told_and_at_its_limit() {
    let folder = Folder::new("limits");
    let mut spec = spec(Program::default().halt(), &folder);
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    assert_eq!(machine.quit(&patience(10)).await.unwrap(), Exit::HostQuit);
    spec.limit = Duration::from_secs(1);
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    assert_eq!(machine.wait_exit(&patience(20)).await.unwrap(), Exit::LimitReached(spec.limit));
}

#[tokio::test]
async fn the_end_of_qemu_itself_is_a_crash() {
    let folder = Folder::new("crash");
    let machine =
        Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
    let pid = rustix::process::Pid::from_raw(machine.identity().pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
    let exit = machine.wait_exit(&patience(10)).await.unwrap();
    assert!(matches!(&exit, Exit::Crashed { status, .. } if status.signal() == Some(11)), "{exit}");
}

#[tokio::test]
async fn the_console_is_recorded_over_boots() {
    let folder = Folder::new("console");
    for (word, end) in [("first", Exit::GuestReset), ("second", Exit::GuestShutdown)] {
        let program = Program::default().print(&format!("{word} boot\n"));
        let program = if end == Exit::GuestReset { program.reset() } else { program.power_off() };
        let machine = Machine::start(&spec(program, &folder), &folder, &patience(30)).await.unwrap();
        assert_eq!(machine.wait_exit(&patience(30)).await.unwrap(), end);
        assert_eq!(machine.console_tail(1), [format!("{word} boot")]);
    }
    assert_eq!(read_console(&folder).unwrap(), b"first boot\nsecond boot\n");
}

#[tokio::test]
async fn a_flood_on_the_console_blocks_nobody() {
    let folder = Folder::new("flood");
    let machine =
        Machine::start(&spec(Program::default().flood(), &folder), &folder, &patience(30)).await.unwrap();
    until("200 KB of flood", || read_console(&folder).is_ok_and(|c| c.len() > 200_000)).await;
    machine.power_button(&patience(10)).await.unwrap();
    let tail = machine.console_tail(10);
    assert!(tail.iter().map(String::len).sum::<usize>() <= 5000);
    assert_eq!(machine.quit(&patience(10)).await.unwrap(), Exit::HostQuit);
}

#[tokio::test]
async fn a_screenshot_has_the_size_of_the_screen() {
    let folder = Folder::new("screen");
    let mut spec = spec(Program::default().print("up\n").halt(), &folder);
    spec.screen = true;
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    until("the guest", || !machine.console_tail(1).is_empty()).await;
    let target = folder.join("screen.png");
    let size = machine.screenshot(&target, &patience(10)).await.unwrap();
    // Text mode: 80 x 25 characters of 9 x 16 pixels.
    assert_eq!(size, Size { width: 720, height: 400 });
    assert!(std::fs::read(&target).unwrap().starts_with(b"\x89PNG"));
    spec.screen = false;
    drop(machine);
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    let error = machine.screenshot(&folder.join("none.png"), &patience(10)).await.unwrap_err();
    assert!(matches!(error, MachineError::Qmp(_)), "{error}");
    assert!(!folder.join("none.png").exists());
}

#[tokio::test]
async fn two_machines_do_not_meet() {
    let (a, b) = (Folder::new("twin-a"), Folder::new("twin-b"));
    let program = |text: &str| Program::default().print(text).halt();
    let start = async |text: &str, folder: &Folder| {
        Machine::start(&spec(program(text), folder), folder, &patience(30)).await.unwrap()
    };
    let (one, two) = tokio::join!(start("one\n", &a), start("two\n", &b));
    // A line comes byte by byte.
    until("both", || [&one, &two].iter().all(|m| m.console_tail(1).iter().any(|l| l.len() == 3))).await;
    assert_eq!((one.console_tail(5), two.console_tail(5)), (vec!["one".into()], vec!["two".into()]));
    assert_ne!(one.identity(), two.identity());
    assert_eq!(one.quit(&patience(10)).await.unwrap(), Exit::HostQuit);
    assert_eq!(two.exited(), None);
}

#[tokio::test]
async fn a_disk_in_use_and_a_port_in_use_are_named() {
    let folder = Folder::new("conflict");
    let mut first = spec(Program::default().halt(), &folder);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _machine = Machine::start(&first, &folder, &patience(30)).await.unwrap();
    let error = Machine::start(&first, &folder, &patience(30)).await.unwrap_err();
    assert!(matches!(&error, MachineError::DiskLocked { image } if image.ends_with("boot.raw")), "{error}");
    assert_eq!(error.failure().kind, FailureKind::Conflict);
    first.disks.clear();
    first.network = Network::User { restricted: true, forwards: vec![Forward::local(port, 80)] };
    let error = Machine::start(&first, &folder, &patience(30)).await.unwrap_err();
    assert!(
        matches!(&error, MachineError::PortInUse { rule } if rule.contains(&port.to_string())),
        "{error}"
    );
}

#[tokio::test]
async fn what_qemu_says_is_in_the_error() {
    let folder = Folder::new("refused");
    let mut spec = spec(Program::default().halt(), &folder);
    spec.cpu = Some("nonsense".into());
    let error = Machine::start(&spec, &folder, &patience(30)).await.unwrap_err();
    assert!(matches!(error, MachineError::NotStarted { .. }), "{error}");
    assert!(error.to_string().contains("unable to find CPU model 'nonsense'"), "{error}");
    // A raw disk that a guest filled with a qcow2 header stays raw; the other way round is refused.
    spec.cpu = None;
    spec.disks[0].format = DiskFormat::Qcow2;
    let error = Machine::start(&spec, &folder, &patience(30)).await.unwrap_err();
    assert!(error.to_string().contains("not in qcow2 format"), "{error}");
}

#[tokio::test]
async fn uefi_nvme_and_network_make_a_machine() {
    let folder = Folder::new("uefi");
    let mut spec = spec(Program::default().halt(), &folder);
    spec.firmware = Firmware::Uefi;
    spec.memory_mib = 128;
    spec.disks[0] = spec.disks[0].clone().interface(Interface::Nvme).cache(Cache::Unsafe);
    spec.disks.push(Disk::new(folder.join("boot.raw"), DiskFormat::Raw).read_only().serial("kiln-agent"));
    // One image cannot be written and shared at once.
    let error = Machine::start(&spec, &folder, &patience(30)).await.unwrap_err();
    assert!(matches!(error, MachineError::DiskLocked { .. }), "{error}");
    spec.disks[0].read_only = true;
    spec.network = Network::User { restricted: false, forwards: vec![] };
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    assert!(folder.join("efivars.fd").is_file());
    machine.kill();
    machine.wait_exit(&patience(10)).await.unwrap();
}

#[tokio::test]
async fn the_agents_port_is_the_guests_alone() {
    let folder = Folder::new("agent");
    let machine =
        Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
    let link = machine.agent_link().unwrap();
    assert!(machine.agent_link().is_none());
    machine.kill();
    // The end of the machine is the end of the link.
    patience(10).wait("the end", link.readable()).await.unwrap().unwrap();
    assert_eq!(link.try_read(&mut [0; 16]).unwrap(), 0);
}

#[tokio::test]
async fn dropping_a_machine_ends_it() {
    let folder = Folder::new("drop");
    let machine =
        Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
    let identity = machine.identity();
    drop(machine);
    until("the end of QEMU", || !is_alive(identity)).await;
    // Nothing is left to be reaped, and nobody else is hit.
    assert!(!reap(identity, &folder).unwrap());
}

#[tokio::test]
async fn a_left_over_is_reaped_only_by_its_whole_name() {
    let folder = Folder::new("reap");
    let machine =
        Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
    let identity = machine.identity();
    assert!(!reap(Identity { start_time: identity.start_time + 1, ..identity }, &folder).unwrap());
    assert!(!reap(identity, folder.parent().unwrap()).unwrap());
    assert!(is_alive(identity));
    assert!(reap(identity, &folder).unwrap());
    assert!(matches!(machine.wait_exit(&patience(10)).await.unwrap(), Exit::Crashed { .. }));
}

/// This test runs twice: once where the machine's folder is on a disk of 1 MiB, in a mount namespace.
#[tokio::test]
async fn a_full_disk_of_the_host_is_no_trouble_of_the_guests() {
    const ROLE: &str = "KILN_TEST_SMALL_DISK";
    if let Some(folder) = std::env::var_os(ROLE) {
        let folder = std::path::PathBuf::from(folder);
        let spec = spec(Program::default().print("on\n").write_the_disk(), &folder);
        let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
        let exit = machine.wait_exit(&patience(60)).await.unwrap();
        assert!(matches!(exit, Exit::HostDisk { no_space: true, .. }), "{exit}");
        assert!(exit.to_string().contains("No space left on device"), "{exit}");
        return;
    }
    let folder = Folder::new("full");
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("unshare")
        .arg("--mount")
        .args(["--user", "--map-root-user"].iter().filter(|_| !root))
        .args(["sh", "-ec", "mount -t tmpfs -o size=1m none \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(&*folder)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "machine::a_full_disk_of_the_host_is_no_trouble_of_the_guests", "--nocapture"])
        .env(ROLE, &*folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// This test runs twice: once as the kiln that is killed, in a process of its own.
#[tokio::test]
async fn kill_9_of_kiln_takes_its_machine_along() {
    const ROLE: &str = "KILN_TEST_TO_BE_KILLED";
    if let Some(folder) = std::env::var_os(ROLE) {
        let folder = std::path::PathBuf::from(folder);
        let machine =
            Machine::start(&spec(Program::default().halt(), &folder), &folder, &patience(30)).await.unwrap();
        let Identity { pid, start_time } = machine.identity();
        println!("machine {pid} {start_time}");
        std::future::pending::<()>().await;
    }
    let folder = Folder::new("kill-9");
    let mut kiln = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "machine::kill_9_of_kiln_takes_its_machine_along", "--nocapture"])
        .env(ROLE, &*folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(kiln.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find_map(|l| l.split_once("machine ").map(|(_, l)| l.to_owned()));
    let line = line.expect("the other process started a machine");
    let (pid, start_time) = line.split_once(' ').unwrap();
    let identity = Identity { pid: pid.parse().unwrap(), start_time: start_time.parse().unwrap() };
    assert!(is_alive(identity));
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    until("the end of QEMU", || !is_alive(identity)).await;
}

fn is_alive(identity: Identity) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", identity.pid)).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let fields: Vec<&str> = rest.split(' ').collect();
    fields.first().is_some_and(|&state| state != "Z")
        && fields.get(19) == Some(&identity.start_time.to_string().as_str())
}
