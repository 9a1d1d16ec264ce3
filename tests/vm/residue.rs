//! What a build leaves on a disk: compared with its base path by path, and searched for kiln's own bytes.
//!
//! A difference that has no cause here fails the test, and so does one piece of the agent or one
//! nonce anywhere in what the build wrote, free blocks included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln::appliance::{Appliance, Kit, read_listing};
use kiln::base::Store;
use kiln::guest::agent;
use kiln::guest::inject::agent_disk::{self, CONFIG_BLOCK};
use kiln::machine::{Cache, Disk};
use kiln::model::{Architecture, DiskFormat};
use kiln_protocol::message::{Entry, EntryKind};
use tokio::sync::Mutex;

use crate::boot::home;
use crate::support::{accelerator, machines, patience};

type Listing = BTreeMap<String, Entry>;

/// Of the agent, so many bytes are looked for in each piece of so many.
const WINDOW: usize = 32;
const PIECE: usize = 1024;
/// By so many bytes what is looked for is found; then the rest is compared.
const KEY: usize = 8;

/// Byte strings that are looked for, all in one pass.
pub struct Wanted {
    by_key: HashMap<[u8; KEY], Vec<(Vec<u8>, String)>>,
    /// Whether a key begins with these two bytes: nearly all places are passed by with this.
    begins: Vec<bool>,
}

impl Wanted {
    pub fn nothing() -> Wanted {
        Wanted { by_key: HashMap::new(), begins: vec![false; 1 << 16] }
    }

    /// Pieces from all over the agent that kiln carries.
    pub fn agent() -> Wanted {
        let mut wanted = Wanted::nothing();
        for (number, piece) in agent_bytes().chunks(PIECE).enumerate() {
            if let Some(window) = piece.get(..WINDOW).filter(|w| is_distinctive(w)) {
                wanted.add(window, format!("the agent's bytes from {}", number * PIECE));
            }
        }
        wanted
    }

    pub fn add(&mut self, bytes: &[u8], what: String) {
        let key = *bytes.first_chunk::<KEY>().expect("what is looked for is long enough");
        self.begins[usize::from(u16::from_ne_bytes([key[0], key[1]]))] = true;
        self.by_key.entry(key).or_default().push((bytes.to_owned(), what));
    }

    pub fn add_nonce(&mut self, nonce: &str) {
        assert_eq!(nonce.len(), 32, "{nonce} is no nonce");
        self.add(nonce.as_bytes(), format!("the nonce {nonce}"));
    }

    /// The nonce on a disk that brings the agent: that of this kiln, or the search would be for another.
    pub fn add_agent_disk(&mut self, path: &Path) {
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes[CONFIG_BLOCK..].starts_with(agent_bytes()));
        let config: serde_json::Value = serde_json::from_slice(&bytes[..CONFIG_BLOCK]).unwrap();
        self.add_nonce(config["nonce"].as_str().unwrap());
    }

    /// What of it is in these bytes.
    pub fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for (at, pair) in bytes.windows(KEY).enumerate() {
            if !self.begins[usize::from(u16::from_ne_bytes([pair[0], pair[1]]))] {
                continue;
            }
            let Some(candidates) = self.by_key.get(pair) else { continue };
            let here = candidates.iter().filter(|(wanted, _)| bytes[at..].starts_with(wanted));
            found.extend(here.map(|(_, what)| what.as_str()));
        }
        found
    }
}

fn agent_bytes() -> &'static [u8] {
    agent::binary(Architecture::HOST).expect("kiln carries the agent of its own architecture")
}

/// Not a table of zeros or small numbers, as many programs have one.
fn is_distinctive(window: &[u8]) -> bool {
    let mut seen = [false; 256];
    window.iter().for_each(|b| seen[usize::from(*b)] = true);
    seen.iter().filter(|s| **s).count() >= 20
}

async fn list(kit: &Kit, disk: Disk, folder: &Path) -> Listing {
    let disk = disk.cache(Cache::Unsafe).read_only();
    let machine = folder.join("listing");
    let appliance = Appliance::start(kit, vec![disk], accelerator(), &machine, &patience(300)).await.unwrap();
    let path = folder.join("listing.ndjson");
    appliance.list_tree(&path, &patience(600)).await.unwrap();
    appliance.shutdown(&patience(60)).await.unwrap();
    read_listing(&path).unwrap().into_iter().map(|e| (e.path.clone(), e)).collect()
}

/// Listings of bases are long work, and several tests want the same one.
async fn list_base(kit: &Kit, base: &str, folder: &Path) -> Arc<Listing> {
    static LISTED: Mutex<BTreeMap<String, Arc<Listing>>> = Mutex::const_new(BTreeMap::new());
    let mut listed = LISTED.lock().await;
    if let Some(listing) = listed.get(base) {
        return listing.clone();
    }
    let disk = Store::new(&home()).get(base).unwrap().disk;
    let listing = Arc::new(list(kit, Disk::new(disk, DiskFormat::Qcow2), folder).await);
    listed.insert(base.to_owned(), listing.clone());
    listing
}

/// One path of a sealed disk that is not as in its base, as people read it.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    path: String,
    what: String,
}

/// Times are not looked at: an ordinary boot touches many files.
fn differences(before: &Listing, now: &Listing) -> Vec<Difference> {
    let paths: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let what = |path| match (before.get(path), now.get(path)) {
        (Some(before), Some(now)) if told(before) == told(now) && before.sha256 == now.sha256 => None,
        (Some(before), Some(now)) => Some(format!("{} was {}", told(now), told(before))),
        (None, Some(now)) => Some(format!("new {}", told(now))),
        (Some(_), None) => Some("gone".into()),
        (None, None) => None,
    };
    paths.into_iter().filter_map(|p| what(p).map(|what| Difference { path: p.clone(), what })).collect()
}

fn told(entry: &Entry) -> String {
    let what = match (entry.kind, &entry.target) {
        (EntryKind::Symlink, Some(target)) => format!("link to {target}"),
        (EntryKind::File, _) => format!("file of {} bytes", entry.size),
        (EntryKind::Folder, _) => "folder".into(),
        (kind, _) => format!("{kind:?}"),
    };
    format!("{what}, {:03o} {}:{}", entry.mode, entry.uid, entry.gid)
}

/// Something that a build may leave: path, what is to be seen there, and why it stays. A star at its
/// end stands for an owner whose number the base's packages chose.
pub type Allowed = (&'static str, &'static str, &'static str);

/// What every image of these bases has more or less than its base.
const ORDINARY: [Allowed; 10] = [
    ("/etc/hostname", "gone", "seal: the name belongs to one machine"),
    (
        "/var/lib/cloud",
        "new folder, 755 0:0",
        "cloud-init makes it when it runs; seal has taken out what was in it",
    ),
    (
        "/var/lib/dbus/machine-id",
        "new link to /etc/machine-id, 777 0:0",
        "systemd-tmpfiles (dbus.conf) at a first boot; /etc/machine-id is empty",
    ),
    ("/var/lib/systemd/linger", "new folder, 755 0:0", "systemd-logind at a first boot; nobody lingers"),
    ("/var/lib/systemd/timers", "new folder, 755 0:0", "systemd's timers; seal has taken the stamps out"),
    (
        "/var/lib/systemd/timesync",
        "new folder, 755 *",
        "systemd-timesyncd at a first boot; seal has taken the clock out",
    ),
    (
        "/var/log/README",
        "new link to ../../usr/share/doc/systemd/README.logs, 777 0:0",
        "systemd-tmpfiles (legacy.conf) at a first boot",
    ),
    ("/var/log/btmp", "new file of 0 bytes, 660 0:43", "systemd-tmpfiles (var.conf) at a first boot"),
    ("/var/log/lastlog", "new file of 0 bytes, 664 0:43", "systemd-tmpfiles (var.conf) at a first boot"),
    ("/var/log/wtmp", "new file of 0 bytes, 664 0:43", "systemd-tmpfiles (var.conf) at a first boot"),
];

fn fits(pattern: &str, what: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == what, |begin| what.starts_with(begin))
}

/// A sealed disk, and what must be on it and what must not.
pub struct Sealed<'a> {
    pub kit: &'a Kit,
    pub base: &'a str,
    pub disk: &'a Path,
    /// What the build was to make: each has to be there.
    pub own: &'a [Allowed],
    /// In one of them; the search has to find it.
    pub own_content: &'a str,
    pub unwanted: &'a Wanted,
}

impl Sealed<'_> {
    /// Every difference from the base is allowed, and nothing unwanted is in what the build wrote.
    pub async fn check(&self, folder: &Path) {
        let before = list_base(self.kit, self.base, folder).await;
        let now = list(self.kit, Disk::new(self.disk, DiskFormat::Qcow2), folder).await;
        let found = differences(&before, &now);
        let is_one = |d: &Difference, a: &Allowed| a.0 == d.path && fits(a.1, &d.what);
        for own in self.own {
            assert!(found.iter().any(|d| is_one(d, own)), "{own:?} is not among {found:#?}");
        }
        let allowed = |d: &Difference| ORDINARY.iter().chain(self.own).any(|a| is_one(d, a));
        let unexplained: Vec<&Difference> = found.iter().filter(|d| !allowed(d)).collect();
        assert!(unexplained.is_empty(), "nothing explains these: {unexplained:#?}");
        self.search();
    }

    /// Looks through the file of the overlay as it lies on the host: all that the build wrote is
    /// there, also in clusters that belong to nothing any more.
    fn search(&self) {
        let written = std::fs::read(self.disk).unwrap();
        let mut own = Wanted::nothing();
        own.add(self.own_content.as_bytes(), "the build's own file".into());
        assert!(!own.found_in(&written).is_empty(), "the search does not find what is there");
        let mut found: BTreeSet<&str> = self.unwanted.found_in(&written).into_iter().collect();
        if !found.is_empty() {
            // The agent is linked with the same libc as the base has: what the base holds is the base's.
            let base = std::fs::read(Store::new(&home()).get(self.base).unwrap().disk).unwrap();
            let known: BTreeSet<&str> = self.unwanted.found_in(&base).into_iter().collect();
            found.retain(|what| !known.contains(what));
        }
        assert!(found.is_empty(), "in {} there is still: {found:#?}", self.disk.display());
    }
}

/// Gathers the nonces of all machines that a home's kiln runs, as anybody on this host can see them.
pub struct Eavesdropper {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Eavesdropper {
    pub fn start(home: &Path) -> Eavesdropper {
        let enough = Arc::new(AtomicBool::new(false));
        let (home, stop) = (home.to_string_lossy().into_owned(), enough.clone());
        let thread = std::thread::spawn(move || {
            let mut nonces = BTreeSet::new();
            while !stop.load(Ordering::SeqCst) {
                nonces.extend(machines(&home).iter().filter_map(|argv| nonce_of(argv)));
                std::thread::sleep(Duration::from_millis(100));
            }
            nonces
        });
        Eavesdropper { enough, thread }
    }

    pub fn end(self) -> BTreeSet<String> {
        self.enough.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// An appliance that booted has it on its kernel's command line, a guest on the agent's disk.
fn nonce_of(argv: &[String]) -> Option<String> {
    let word = argv.iter().find_map(|a| Some(a.split_once("kiln.nonce=")?.1.to_owned()));
    word.or_else(|| {
        let disk = argv.iter().find(|a| a.contains("/agent.disk"))?;
        let node: serde_json::Value = serde_json::from_str(disk).ok()?;
        let bytes = std::fs::read(node["file"]["filename"].as_str()?).ok()?;
        let config: serde_json::Value = serde_json::from_slice(bytes.get(..CONFIG_BLOCK)?).ok()?;
        Some(config["nonce"].as_str()?.to_owned())
    })
}

#[test]
fn the_search_finds_the_agent_and_a_nonce_where_they_are() {
    let mut wanted = Wanted::agent();
    let nonce = "0123456789abcdef0123456789abcdef";
    wanted.add_nonce(nonce);
    let all = wanted.by_key.values().map(Vec::len).sum::<usize>();
    assert!(all > 500, "{all} pieces of the agent are looked for");
    let mut disk = vec![7; 12345];
    disk.extend(agent_disk::image(nonce, agent_bytes()));
    let found: BTreeSet<&str> = wanted.found_in(&disk).into_iter().collect();
    assert_eq!(found.len(), all);
    assert!(wanted.found_in(&disk[..12345]).is_empty());
}
