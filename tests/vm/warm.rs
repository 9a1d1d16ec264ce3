//! Warm states: memories of machines that stood still, and what goes on from them.

use kiln::machine::{Disk, Exit, Interface, Machine, MachineError, Memory};
use kiln::model::DiskFormat;

use crate::bootsector::{Program, spec};
use crate::support::{Folder, patience, until};

/// A guest that says `on` once, and `x` for ever after.
async fn saved(folder: &Folder) -> (kiln::machine::MachineSpec, Memory) {
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
    let error = async |bytes: &[u8], memory: &Memory, spec: &kiln::machine::MachineSpec| {
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
    let other = kiln::machine::MachineSpec { memory_mib: 64, ..spec.clone() };
    error(&whole, &memory, &other).await;
    let other = kiln::machine::MachineSpec { screen: true, ..spec.clone() };
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
