//! Warm states: memories of machines that stood still, and what goes on from them.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln::appliance::warm::{WarmError, lay_down, rouse};
use kiln::appliance::{Alive, Kit};
use kiln::guest::session::{Expect, Session, Waking};
use kiln::guest::{Guest, GuestError};
use kiln::machine::{DirectKernel, Disk, Exit, Interface, Machine, MachineError, MachineSpec, Memory};
use kiln::model::{Architecture, DiskFormat};
use kiln_protocol::message::Operation;

use crate::boot::home;
use crate::bootsector::{Program, spec};
use crate::build::Bench;
use crate::support::{Folder, accelerator, patience, until};

/// A guest that says `on` once, and `x` for ever after.
async fn saved(folder: &Folder) -> (MachineSpec, Memory) {
    let spec = spec(Program::default().print("on\n").flood(), folder);
    let machine = Machine::start(&spec, &folder.join("first"), &patience(30)).await.unwrap();
    until("the flood", || machine.console_tail(1).iter().any(|l| l.starts_with("xxx"))).await;
    let memory = machine.save_memory(&folder.join("memory"), &patience(60)).await.unwrap();
    assert_eq!(machine.exited(), Some(Exit::HostQuit));
    (spec, memory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_on_from_its_memory_as_often_as_wanted() {
    let folder = Folder::new("memory");
    let (spec, memory) = saved(&folder).await;
    assert!(memory.machine_type.starts_with("pc-q35-"), "{}", memory.machine_type);
    assert_eq!(std::fs::metadata(&memory.path).unwrap().len(), memory.bytes);
    for name in ["second", "third"] {
        let machine = Machine::start_from(&memory, &spec, &folder.join(name), &patience(60)).await.unwrap();
        until("the flood", || machine.console_tail(1).iter().any(|l| l.starts_with("xxx"))).await;
        let console = kiln::machine::read_console(&folder.join(name)).unwrap();
        assert!(console.iter().all(|&b| b == b'x'), "it did not boot again");
        assert_eq!(machine.quit(&patience(10)).await.unwrap(), Exit::HostQuit);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_is_not_what_it_was_runs_nowhere() {
    let folder = Folder::new("memory-bad");
    let (spec, memory) = saved(&folder).await;
    let whole = std::fs::read(&memory.path).unwrap();
    let error = async |bytes: &[u8], memory: &Memory, spec: &MachineSpec| {
        std::fs::write(&memory.path, bytes).unwrap();
        let error = Machine::start_from(memory, spec, &folder.join("none"), &patience(60)).await.unwrap_err();
        assert!(matches!(error, MachineError::NotRestored(_)), "{error}");
        error.to_string()
    };
    let said = error(&whole[..whole.len() / 2], &memory, &spec).await;
    assert!(said.contains(&format!("of its {}", whole.len())), "{said}");
    // At the end of QEMU's own head, in the middle of the pages, and in what only the devices read.
    for place in [4, whole.len() / 2, whole.len() - 3000] {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        error(&flipped, &memory, &spec).await;
    }
    // As long as it has to be, and from the middle on nothing.
    let mut empty = whole.clone();
    empty[whole.len() / 2..].fill(0);
    error(&empty, &memory, &spec).await;
    // Another machine, another QEMU.
    let other = MachineSpec { memory_mib: 64, ..spec.clone() };
    error(&whole, &memory, &other).await;
    let other = MachineSpec { screen: true, ..spec.clone() };
    error(&whole, &memory, &other).await;
    let other = Memory { qemu: "7.2.1 of 17 bytes, 1".into(), ..memory.clone() };
    let said = error(&whole, &other, &spec).await;
    assert!(said.contains("QEMU 7.2.1"), "{said}");
    let other = Memory { machine_type: "pc-q35-2.99".into(), ..memory.clone() };
    let refused = Machine::start_from(&other, &spec, &folder.join("none"), &patience(60)).await.unwrap_err();
    assert!(refused.to_string().contains("unsupported machine type"), "{refused}");
    // Nothing of all this has hurt it.
    let machine = Machine::start_from(&memory, &spec, &folder.join("last"), &patience(60)).await.unwrap();
    assert_eq!(machine.quit(&patience(10)).await.unwrap(), Exit::HostQuit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_memory_cannot_be_saved_says_so() {
    let folder = Folder::new("memory-nvme");
    let mut spec = spec(Program::default().halt(), &folder);
    spec.disks[0] = Disk::new(folder.join("boot.raw"), DiskFormat::Raw).interface(Interface::Nvme);
    let machine = Machine::start(&spec, &folder, &patience(30)).await.unwrap();
    let error = machine.save_memory(&folder.join("memory"), &patience(60)).await.unwrap_err();
    assert!(error.to_string().contains("nvme"), "{error}");
}

/// What the clock of a guest that woke may be off.
const CLOCK: Duration = Duration::from_millis(100);

const SLEPT: &str = "the nonce of the start that was saved";

/// The appliance without a disk: the smallest guest with an agent.
async fn appliance(folder: &Folder) -> (MachineSpec, Alive) {
    let kit = Kit::ensure(&home().join("appliance"), Architecture::X86_64, &patience(300)).await.unwrap();
    let command_line = format!(
        "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check kiln.nonce={}",
        SLEPT.replace(' ', "-")
    );
    let spec = MachineSpec {
        memory_mib: 256,
        kernel: Some(DirectKernel { kernel: kit.kernel, initrd: Some(kit.initrd), command_line }),
        ..MachineSpec::new("warm-appliance", Architecture::X86_64, accelerator())
    };
    let machine = Machine::start(&spec, &folder.join("first"), &patience(60)).await.unwrap();
    let link = machine.agent_link().unwrap();
    let expect = Expect::new(SLEPT.replace(' ', "-"));
    let session = Session::connect(link, expect, &patience(120)).await.unwrap();
    (spec, Alive { machine, session })
}

/// What the agent, which was there all the time, reads of random numbers.
async fn random(alive: &Alive) -> Vec<u8> {
    let mut bytes = Vec::new();
    let get = Operation::Get { path: "/dev/urandom".into(), offset: 0, length: Some(32) };
    alive.get(get, 32, &mut bytes, &patience(30)).await.unwrap();
    bytes
}

/// The guest's clock against ours, as the time stamp of a folder made just now tells it. Returns how far it
/// is off at worst, whenever between question and answer it was looked at.
async fn clock_error(alive: &Alive) -> Duration {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let make = |path: &str| Operation::MakeFolder {
        path: path.into(),
        mode: 0o755,
        parents: false,
        owner: None,
        group: None,
    };
    let (mut last, mut asked_last, mut best) = (0, Duration::ZERO, Duration::MAX);
    let begun = std::time::Instant::now();
    for number in 0.. {
        let path = format!("/tmp/now-{number}");
        let asked = now();
        alive.call(make(&path), &patience(10)).await.unwrap();
        let answered = now();
        let stat = alive.call(Operation::Stat { path, follow: false }, &patience(10)).await.unwrap();
        let kiln_protocol::message::Reply::Stat(Some(entry)) = stat else { panic!("{stat:?}") };
        // The stamp has whole seconds: the second began after the last folder was asked for.
        if last != 0 && entry.modified != last {
            let began = Duration::from_secs(entry.modified as u64);
            best = best.min(began.abs_diff(asked_last).max(began.abs_diff(answered)));
        }
        // On a busy host most answers come too late to tell anything.
        if best < CLOCK || begun.elapsed() > Duration::from_secs(30) {
            break;
        }
        (last, asked_last) = (entry.modified, asked);
    }
    best
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guests_of_one_memory_are_two_guests() {
    let folder = Folder::new("warm-twins");
    let (spec, alive) = appliance(&folder).await;
    let boot_id = alive.session.hello().boot_id.clone();
    let memory = lay_down(alive, &folder.join("memory"), &patience(120)).await.unwrap();
    // The host's clock goes on meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waking = Waking { nonce: SLEPT.replace(' ', "-"), machine_id: None };
    let wake = async |name: &str| {
        let begun = std::time::Instant::now();
        let (alive, nonce) = rouse(&memory, &spec, &folder.join(name), &waking, &patience(60)).await.unwrap();
        eprintln!("{name} woke within {} ms", begun.elapsed().as_millis());
        // It is one boot; what tells the starts apart is the nonce.
        assert_eq!((&alive.session.hello().boot_id, &alive.session.hello().nonce), (&boot_id, &nonce));
        alive
    };
    let (one, two) = (wake("one").await, wake("two").await);
    assert_ne!(one.session.hello().nonce, two.session.hello().nonce);
    let (first, second) = (random(&one).await, random(&two).await);
    assert_eq!((first.len(), second.len()), (32, 32));
    assert_ne!(first, second);
    for alive in [&one, &two] {
        let error = clock_error(alive).await;
        assert!(error < CLOCK, "{error:?}");
    }
    // A woken guest can be laid down again, as itself.
    let nonce = two.session.hello().nonce.clone();
    let again = lay_down(two, &folder.join("again"), &patience(120)).await.unwrap();
    let waking = Waking { nonce, machine_id: None };
    let (three, _) = rouse(&again, &spec, &folder.join("three"), &waking, &patience(60)).await.unwrap();
    assert_ne!(random(&three).await, random(&one).await);
    // The memory of another start is not taken for this one's.
    drop(three);
    let strange = Waking { nonce: "another".into(), machine_id: None };
    let error = rouse(&again, &spec, &folder.join("four"), &strange, &patience(60)).await.map(|_| ());
    assert!(matches!(error, Err(WarmError::Asleep(GuestError::Protocol(_)))), "{error:?}");
}

const BASE: &str = "debian-12-minimal";

/// Says who it is, then its clock for each line that it is sent.
const SCRIPT: &str = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; od -An -tx8 -N16 /dev/urandom; \
                      while read -r line; do echo $EPOCHREALTIME; done; \
                      logger -t kiln-test woken; for i in 1 2 3 4 5 6 7 8 9; do sleep 1; \
                      journalctl -qt kiln-test | grep -c woken && break; done";

/// What a guest said, and how far its clock was from ours at worst.
#[derive(Debug)]
struct Said {
    machine_id: String,
    boot_id: String,
    random: String,
    clock: Duration,
    notes: String,
}

fn shell(bench: &Bench) -> Said {
    let mut kiln =
        bench.kiln(&["--progress", "plain", "shell", BASE, "--network", "none", "--memory", "512"]);
    kiln.args(["--", "bash", "-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut kiln = kiln.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(kiln.stdout.take().unwrap()).lines();
    let mut keys = kiln.stdin.take().unwrap();
    let mut next = || lines.next().map(Result::unwrap).unwrap_or_default();
    let (machine_id, boot_id, random) = (next(), next(), next());
    let mut clock = Duration::MAX;
    for _ in 0..100 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let asked = now();
        keys.write_all(b"\n").unwrap();
        let seconds: f64 = next().parse().unwrap();
        let (answered, told) = (now(), Duration::from_secs_f64(seconds));
        // However long the question and the answer were on their way.
        clock = clock.min(told.abs_diff(asked).max(told.abs_diff(answered)));
    }
    drop(keys);
    assert_eq!(next(), "1", "journald goes on under the new machine id");
    let output = kiln.wait_with_output().unwrap();
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{notes}");
    Said { machine_id, boot_id, random, clock, notes }
}

/// The only state of a guest in the home; that of the appliance has no disk.
fn state(bench: &Bench) -> PathBuf {
    let all = std::fs::read_dir(bench.folder.join("home/warm")).unwrap().flatten().map(|e| e.path());
    let (guests, appliances): (Vec<_>, Vec<_>) = all.partition(|state| state.join("disk.qcow2").exists());
    let ([state], [appliance]) = (&guests[..], &appliances[..]) else { panic!("{guests:?} {appliances:?}") };
    assert!(state.join("state.json").is_file() && appliance.join("state.json").is_file());
    state.clone()
}

#[test]
fn shells_and_builds_wake_what_has_booted_and_boot_when_it_is_damaged() {
    let bench = Bench::new("warm");
    let first = shell(&bench);
    assert!(first.notes.contains("kept debian-12-minimal warm"), "{first:?}");
    let state = state(&bench);
    let (second, third) = std::thread::scope(|threads| {
        let (a, b) = (threads.spawn(|| shell(&bench)), threads.spawn(|| shell(&bench)));
        (a.join().unwrap(), b.join().unwrap())
    });
    for said in [&second, &third] {
        assert!(said.notes.contains("woke from a warm state of debian-12-minimal"), "{said:?}");
        // One boot, three guests.
        assert_eq!(said.boot_id, first.boot_id);
    }
    let all = [&first, &second, &third];
    for (index, said) in all.iter().enumerate() {
        assert!(said.clock < CLOCK, "{said:?}");
        assert_eq!(said.machine_id.len(), 32);
        for other in &all[..index] {
            assert_ne!(said.machine_id, other.machine_id);
            assert_ne!(said.random, other.random);
        }
    }

    // A build of the same disk in the same machine wakes the same guest, and one that boots makes the same.
    bench.write(
        "recipe.yaml",
        &format!(
            "name: warmed\nversion: 1.0.0\nparentImage: {BASE}\n\
             components: [{{component: ./made.yml, files: [{{source: ./made.yml, destination: /opt/}}]}}]\n\
             imageTestsConfiguration: {{imageTestsEnabled: false}}\n\
             kiln: {{network: none, memory: 512, warm: true}}\n"
        ),
    );
    bench.write(
        "made.yml",
        "name: made\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      \
         - {name: Make, action: ExecuteBash, inputs: {commands: [useradd made, mkdir /opt/made]}}\n",
    );
    for (switches, wakes) in [(&[][..], true), (&["--no-warm", "--no-cache", "--rebuild"], false)] {
        let arguments = [&["--progress", "plain", "build", "recipe.yaml"], switches].concat();
        let built = bench.run(&arguments);
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert!(built.status.success(), "{said}");
        assert_eq!(said.contains("woke from a warm state of debian-12-minimal"), wakes, "{said}");
        // A memory goes on in the machine that it was saved in, which has no tray.
        assert_eq!(said.contains("packing 1 KiB of files"), !wakes, "{said}");
    }
    let diff = bench.run(&["image", "diff", "warmed/1.0.0/1", "warmed/1.0.0/2"]);
    assert_eq!(diff.status.code(), Some(0), "{}", String::from_utf8_lossy(&diff.stdout));

    // One bit of what is kept: the guest boots, and what it was is kept anew.
    let memory = state.join("memory");
    let mut bytes = std::fs::read(&memory).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    let booted = shell(&bench);
    assert!(booted.notes.contains("no warm start of debian-12-minimal, so it boots"), "{booted:?}");
    assert!(booted.notes.contains("kept debian-12-minimal warm"), "{booted:?}");
    assert_ne!(booted.boot_id, first.boot_id);

    // What stood on the base goes with it.
    for image in ["warmed/1.0.0/1", "warmed/1.0.0/2"] {
        assert!(bench.run(&["image", "remove", image]).status.success());
    }
    assert!(state.is_dir());
    assert!(bench.run(&["base", "remove", BASE]).status.success());
    assert!(!state.exists());
    assert_eq!(std::fs::read_dir(bench.folder.join("home/runs")).unwrap().count(), 0, "nothing stays");
}
