//! Appliances that wake instead of booting.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln::appliance::warm::Store;
use kiln::appliance::{Appliance, ApplianceError, Begun, Kit};
use kiln::disk::filesystem::Kind;
use kiln::guest::{Guest, GuestFiles};
use kiln::machine::{Disk, Interface};
use kiln::model::{Architecture, DiskFormat, FailureKind};
use kiln_protocol::message::Operation;
use serde_json::Value;

use crate::boot::home;
use crate::build::Bench;
use crate::disks::{Tree, disk, tool};
use crate::support::{Folder, accelerator, patience};
use crate::tiny;

struct Place {
    folder: Folder,
    store: Store,
    kit: Kit,
}

impl Place {
    async fn new(test: &str) -> Place {
        let folder = Folder::new(test);
        let store = Store::new(&folder, 4 << 30);
        let kit = Kit::ensure(&home().join("appliance"), Architecture::HOST, &patience(300)).await.unwrap();
        Place { kit: kit.warmed(Some(&store)), folder, store }
    }

    async fn start(&self, disk: Disk, name: &str) -> Result<Appliance, ApplianceError> {
        let machine = self.folder.join(name);
        Appliance::start(&self.kit, vec![disk], accelerator(), &machine, &patience(300)).await
    }

    fn states(&self) -> usize {
        self.store.list().len()
    }
}

fn raw(path: &Path) -> Disk {
    Disk::new(path, DiskFormat::Raw)
}

/// What the agent, which was there before, reads of random numbers.
async fn random(appliance: &Appliance) -> Vec<u8> {
    let mut bytes = Vec::new();
    let get = Operation::Get { path: "/dev/urandom".into(), offset: 0, length: Some(32) };
    appliance.guest().get(get, 32, &mut bytes, &patience(30)).await.unwrap();
    assert_eq!(bytes.len(), 32);
    bytes
}

/// When the appliance believes to have made a file just now.
async fn clock(appliance: &Appliance) -> Duration {
    let make = Operation::MakeFolder {
        path: "/tmp/now".into(),
        mode: 0o755,
        parents: false,
        owner: None,
        group: None,
    };
    appliance.guest().act(make, &patience(30)).await.unwrap();
    let made = appliance.guest().stat("/tmp/now", false, &patience(30)).await.unwrap().unwrap();
    Duration::from_secs(made.modified as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn appliances_of_one_memory_work_on_disks_of_their_own() {
    let place = Place::new("waking").await;
    let (p, folder) = (patience(300), &place.folder);
    let tree = Tree::new(folder);
    tree.file("etc/ssh/ssh_host_rsa_key", "a key");
    let first = disk(folder, &tree, "ext4", 64);
    let (second, other) = (folder.join("second.raw"), folder.join("other.raw"));
    std::fs::copy(&first, &second).unwrap();
    std::fs::rename(disk(folder, &tree, "xfs", 320), &other).unwrap();
    // It makes every disk under the same name.
    std::fs::copy(&second, &first).unwrap();

    // Both boot and wake from their own; the faster one's is kept, and only that one says so.
    let (one, twin) = tokio::join!(place.start(raw(&first), "one"), place.start(raw(&other), "twin"));
    let (one, twin) = (one.unwrap(), twin.unwrap());
    let kept = |a: &Appliance| matches!(a.begun(), Begun::Kept(bytes) if *bytes > 10 << 20);
    let (faster, later) = if kept(&one) { (&one, &twin) } else { (&twin, &one) };
    assert!(kept(faster), "{:?}", faster.begun());
    assert_eq!((later.begun(), later.begun().note()), (&Begun::Booted, None));
    assert_eq!(place.states(), 1);
    assert!(!folder.join("one/warm").exists() && !folder.join("twin/warm").exists());
    twin.shutdown(&p).await.unwrap();
    let facts = one.inspect(&p).await.unwrap();
    assert_eq!((facts.size, facts.root.filesystem), (first.metadata().unwrap().len(), Kind::Ext4));

    // Two at once: one disk is as the first one's, the other of another size, with another file system.
    let (two, three) = tokio::join!(place.start(raw(&second), "two"), place.start(raw(&other), "three"));
    let (two, three) = (two.unwrap(), three.unwrap());
    assert_eq!((two.begun(), three.begun()), (&Begun::Woken, &Begun::Woken));
    let facts = three.inspect(&p).await.unwrap();
    assert_eq!((facts.size, facts.root.filesystem), (other.metadata().unwrap().len(), Kind::Xfs));
    assert_ne!(facts.size, first.metadata().unwrap().len());
    let all = [&one, &two, &three];
    let nonces = all.map(|a| &a.guest().session.hello().nonce);
    assert!(nonces[0] != nonces[1] && nonces[1] != nonces[2] && nonces[0] != nonces[2], "{nonces:?}");
    let numbers = [random(&one).await, random(&two).await, random(&three).await];
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2]);
    for appliance in all {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (said, slack) = (clock(appliance).await, Duration::from_secs(1));
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(said + slack >= begun && said <= ended + slack, "{begun:?} {said:?} {ended:?}");
    }

    // What it writes is on its own disk.
    let report = two.seal("/tmp", &p).await.unwrap();
    assert!(report.cleaned.iter().any(|c| c.path == "/etc/ssh/ssh_host_rsa_key"), "{report}");
    // A disk in use is nobody else's, and no reason to think ill of the memory.
    let refused = place.start(raw(&second), "four").await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Conflict, "{refused:?}");
    assert_eq!(place.states(), 1);
    for appliance in [one, two, three] {
        appliance.shutdown(&p).await.unwrap();
    }
    let root = folder.join("root");
    let (input, output) = (format!("if={}", second.display()), format!("of={}", root.display()));
    tool("dd", &[&input, &output, "bs=1M", "skip=36", "count=64", "status=none"], "");
    tool("e2fsck", &["-fn", root.to_str().unwrap()], "");
    let key = |command| tool("debugfs", &["-R", command, root.to_str().unwrap()], "");
    assert_eq!(key("cat /etc/ssh/ssh_host_rsa_key"), "");
    assert!(key("cat /etc/os-release").contains("Debian of the tests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_wake_boots() {
    let place = Place::new("waking-not").await;
    let (p, folder) = (patience(300), &place.folder);
    let path = disk(folder, &Tree::new(folder), "ext4", 64);
    let size = path.metadata().unwrap().len();
    let nvme = place.start(raw(&path).interface(Interface::Nvme), "nvme").await.unwrap();
    assert_eq!((nvme.begun(), place.states()), (&Begun::Booted, 0));
    assert_eq!(nvme.inspect(&p).await.unwrap().size, size);
    nvme.shutdown(&p).await.unwrap();

    // It comes as far as the store, which does not take it this time. That is no reason for the next one.
    std::os::unix::fs::symlink(folder.join("nowhere"), place.store.folder()).unwrap();
    let unkept = place.start(raw(&path), "unkept").await.unwrap();
    let Begun::Instead(why) = unkept.begun() else { panic!("{:?}", unkept.begun()) };
    assert!(why.contains("cannot make") && why.contains("the next start tries"), "{why}");
    assert_eq!((unkept.inspect(&p).await.unwrap().size, folder.join("unkept/warm").exists()), (size, false));
    unkept.shutdown(&p).await.unwrap();
    std::fs::remove_file(place.store.folder()).unwrap();

    let kept = place.start(raw(&path), "kept").await.unwrap();
    assert!(matches!(kept.begun(), Begun::Kept(_)), "{:?}", kept.begun());
    kept.shutdown(&p).await.unwrap();
    let state = place.store.folder().join(&place.store.list()[0].identity);
    let mut bytes = std::fs::read(state.join("memory")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(state.join("memory"), bytes).unwrap();
    let damaged = place.start(raw(&path), "damaged").await.unwrap();
    assert!(
        matches!(damaged.begun(), Begun::Instead(why) if why.contains("damaged")),
        "{:?}",
        damaged.begun()
    );
    assert_eq!((damaged.inspect(&p).await.unwrap().size, place.states()), (size, 0));
    damaged.shutdown(&p).await.unwrap();
}

fn states(bench: &Bench) -> Vec<PathBuf> {
    let all = std::fs::read_dir(bench.folder.join("home/warm")).into_iter().flatten().flatten();
    all.map(|e| e.path().join("state.json")).collect()
}

#[test]
fn commands_wake_what_others_kept_where_the_settings_let_them() {
    let bench = Bench::without_bases("waking-commands");
    tiny::import(&bench);
    let used =
        || states(&bench).iter().map(|s| s.metadata().unwrap().modified().unwrap()).collect::<Vec<_>>();
    let warm_states = || {
        let kept = bench.json(&["store", "df"]);
        let kinds: Vec<Value> = kept["kinds"].as_array().unwrap_or_else(|| panic!("{kept:#}")).clone();
        kinds.iter().filter(|k| k["kind"] == "warmStates").map(|k| k["files"].as_u64().unwrap()).sum::<u64>()
    };
    let first = bench.json(&["base", "inspect", tiny::NAME]);
    let kept = used();
    assert_eq!((kept.len(), warm_states()), (1, 2));
    assert_eq!(bench.json(&["base", "inspect", tiny::NAME]), first);
    let woken = used();
    assert!(woken.len() == 1 && woken > kept, "{woken:?} {kept:?}");
    bench.write("home/settings.yaml", "store: {warm: none}\n");
    assert_eq!(bench.json(&["base", "inspect", tiny::NAME]), first);
    assert_eq!(used(), woken);
    let pruned = bench.json(&["store", "prune", "--all"]);
    assert!(pruned["warmBytes"].as_u64().unwrap() > 10 << 20, "{pruned}");
    assert_eq!((states(&bench).len(), warm_states()), (0, 0));
}
