//! Warm states: memories of machines that stood still, and what goes on from them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln::appliance::{Alive, Kit};
use kiln::boot::warm::{WarmError, lay_down, rouse};
use kiln::guest::session::{Expect, Session, Waking};
use kiln::guest::{Guest, GuestError};
use kiln::machine::{DirectKernel, Disk, Exit, Interface, Machine, MachineError, MachineSpec, Memory};
use kiln::model::{Architecture, DiskFormat};
use kiln_protocol::message::Operation;

use crate::boot::home;
use crate::bootsector::{Program, spec};
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

/// The guest's clock against ours, as the time stamp of a file made just now tells it.
async fn clock_error(alive: &Alive) -> Duration {
    let put = |path: &str| Operation::MakeFolder {
        path: path.into(),
        mode: 0o755,
        parents: false,
        owner: None,
        group: None,
    };
    // Its time stamp has whole seconds: the moment at which they change is the guest's clock.
    let (mut last, mut number) = (0, 0);
    loop {
        let path = format!("/tmp/now-{number}");
        alive.call(put(&path), &patience(10)).await.unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stat = alive.call(Operation::Stat { path, follow: false }, &patience(10)).await.unwrap();
        let kiln_protocol::message::Reply::Stat(Some(entry)) = stat else { panic!("{stat:?}") };
        if last != 0 && entry.modified != last {
            return now.abs_diff(Duration::from_secs(entry.modified as u64));
        }
        (last, number) = (entry.modified, number + 1);
    }
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
        assert!(error < Duration::from_millis(100), "{error:?}");
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
