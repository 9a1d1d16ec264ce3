//! States of a few bytes: what is whole, what goes, and in which order.

use super::*;
use crate::appliance::warm::record::MEMORY;
use crate::machine::{Accelerator, Memory};
use crate::model::Architecture;
use std::collections::BTreeMap;
use std::time::Duration;

fn identity(disk: &str) -> Identity {
    Identity::of(BTreeMap::from([("disk".to_owned(), disk.to_owned())]))
}

/// A finished folder with a memory of so many bytes.
fn staged(home: &Path, disk: &str, bytes: usize) -> PathBuf {
    let folder = home.join(format!("staged-{disk}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(MEMORY), vec![7; bytes]).unwrap();
    let memory = Memory {
        path: folder.join(MEMORY),
        bytes: bytes as u64,
        digest: "d".into(),
        machine_type: "pc-q35-7.2".into(),
        shape: "s".into(),
        qemu: "7.2.22".into(),
    };
    let spec = MachineSpec::new("m", Architecture::X86_64, Accelerator::Tcg);
    let record = Record::new(disk, &identity(disk), "n", &spec, memory);
    record.write(&folder).unwrap();
    folder
}

fn add(store: &Store, home: &Path, disk: &str, bytes: usize) -> State {
    let state = store.add(&staged(home, disk, bytes), &identity(disk)).unwrap();
    // Clocks of file systems are coarse.
    std::thread::sleep(Duration::from_millis(20));
    state
}

fn titles(store: &Store) -> Vec<String> {
    store.list().into_iter().map(|l| l.title).collect()
}

#[test]
fn what_was_unused_longest_makes_room() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), 1000);
    assert!(store.find(&identity("a")).unwrap().is_none());
    for disk in ["a", "b", "c"] {
        assert!(add(&store, home.path(), disk, 300).is_kept());
    }
    store.find(&identity("a")).unwrap().unwrap().touch();
    std::thread::sleep(Duration::from_millis(20));
    add(&store, home.path(), "d", 600);
    assert_eq!(titles(&store), ["a", "d"]);
    assert_eq!(store.bytes(), 900);
    let large = add(&store, home.path(), "e", 1001);
    assert!(!large.is_kept() && large.folder.ends_with("staged-e"));
    assert!(matches!(store.too_large(&large), Some(WarmError::TooLarge { bytes: 1001, limit: 1000 })));
    assert_eq!(titles(&store), ["a", "d"], "nothing goes for what does not stay");
    assert_eq!(store.remove_of("a"), 300);
    assert_eq!(titles(&store), ["d"]);
    let none = Store::new(home.path(), 0);
    assert!(!none.has_room(1) && !none.takes(0) && none.find(&identity("d")).unwrap().is_none());
    assert!(store.takes(1000) && !store.takes(1001));
}

#[test]
fn what_is_not_whole_is_told_once_and_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), 1000);
    let folder = |disk: &str| store.folder().join(identity(disk).digest);
    let find = |disk: &str| store.find(&identity(disk));

    add(&store, home.path(), "short", 100);
    fs::write(folder("short").join(MEMORY), [7; 99]).unwrap();
    let said = find("short").unwrap_err().to_string();
    assert!(said.contains("99 bytes are left of its 100"), "{said}");
    assert!(find("short").unwrap().is_none() && !folder("short").exists());

    add(&store, home.path(), "broken", 100);
    fs::write(folder("broken").join(RECORD), "{").unwrap();
    assert!(matches!(find("broken"), Err(WarmError::Damaged { .. })));
    assert!(!folder("broken").exists());

    // Under the name of another one.
    add(&store, home.path(), "one", 100);
    fs::rename(folder("one"), folder("two")).unwrap();
    assert!(matches!(find("two"), Err(WarmError::Foreign(_))));
    assert!(!folder("two").exists());

    // A removal that was cut short.
    add(&store, home.path(), "half", 100);
    fs::remove_file(folder("half").join(RECORD)).unwrap();
    assert!(find("half").unwrap().is_none());
    assert!(titles(&store).is_empty() && !folder("half").exists());
}

#[test]
fn of_two_that_keep_the_same_the_first_counts_and_both_go_on() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), 1000);
    let first = add(&store, home.path(), "a", 100);
    let second = add(&store, home.path(), "a", 100);
    assert!(first.is_kept() && !second.is_kept());
    assert!(second.folder.join(MEMORY).is_file());
    assert!(store.too_large(&second).is_none(), "that is not why");
    // Whoever does not wake from the second thinks ill of that one alone.
    store.remove(&second);
    assert!(!second.folder.exists());
    assert_eq!(titles(&store), ["a"]);
}

#[test]
fn what_was_given_up_is_tried_again_after_a_day() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), 1000);
    let (tried, other) = (identity("a"), identity("b"));
    assert!(!store.is_hopeless(&tried));
    add(&store, home.path(), "a", 100);
    store.give_up(&tried);
    assert!(store.is_hopeless(&tried) && !store.is_hopeless(&other));
    assert_eq!(titles(&store), ["a"], "what another kiln keeps is its own");
    assert!(store.is_hopeless(&tried), "listing is no reason to try again");
    let age = |by: Duration| {
        File::open(store.mark(&tried)).unwrap().set_modified(SystemTime::now() - by).unwrap();
    };
    age(GIVEN_UP - Duration::from_secs(60));
    assert!(store.is_hopeless(&tried));
    age(GIVEN_UP);
    assert!(!store.is_hopeless(&tried));
    store.list();
    assert!(!store.mark(&tried).exists());
    store.give_up(&tried);
    store.clear();
    assert!(!store.mark(&tried).exists());
}
