//! The ways in: every base by every route that leads into it, booted twice.
//!
//! The bases are those that `cargo xtask test` builds: `debian-12` with
//! cloud-init, `debian-12-minimal` with neither cloud-init nor a guest agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln::appliance::{Appliance, DiskFacts, Kit};
use kiln::base::Store;
use kiln::boot::{BootRequest, BootedGuest, CloudInit, Holds, Start, Waiting, Watch, choose};
use kiln::component::run::{Event, Observer};
use kiln::component::{Component, Job, Options, RunState, Strictness, Values, library};
use kiln::disk::create_overlay;
use kiln::guest::inject::Route;
use kiln::guest::{Guest, GuestFiles};
use kiln::machine::{Cache, Disk, Identity, MachineSpec};
use kiln::model::{Architecture, DiskFormat, Firmware};
use kiln_protocol::message::Exec;

use crate::residue::{Sealed, Wanted};
use crate::support::{Folder, accelerator, patience};

/// Where `cargo xtask test` keeps the bases.
pub fn home() -> PathBuf {
    let set = std::env::var_os("KILN_TEST_HOME").expect("KILN_TEST_HOME names the home with the bases");
    PathBuf::from(set)
}

/// Remembers what was told.
#[derive(Default)]
pub struct Told(pub Mutex<Vec<String>>);

impl Watch for Told {
    fn machine(&self, identity: Identity, _: &Path) {
        assert!(identity.pid > 0);
    }
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn waiting(&self, waiting: Waiting) {
        self.0.lock().unwrap().push(waiting.what);
    }
}

pub struct Subject {
    pub kit: Kit,
    pub disk: PathBuf,
    pub facts: DiskFacts,
}

/// A fresh overlay on a base, and what the appliance finds on it.
pub async fn subject(base: &str, folder: &Path) -> Subject {
    let base = Store::new(&home()).get(base).expect("cargo xtask test builds the bases first");
    let kit = Kit::ensure(&home().join("appliance"), Architecture::X86_64, &patience(300)).await.unwrap();
    let disk = folder.join("overlay.qcow2");
    create_overlay(&base.disk, DiskFormat::Qcow2, &disk, None, &patience(60)).await.unwrap();
    let looked_at = Disk::new(&disk, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let appliance =
        Appliance::start(&kit, vec![looked_at], accelerator(), &folder.join("appliance"), &patience(180))
            .await
            .unwrap();
    let facts = appliance.inspect(&patience(120)).await.unwrap();
    appliance.shutdown(&patience(60)).await.unwrap();
    Subject { kit, disk, facts }
}

pub fn request(subject: &Subject, route: Route, start: Start, folder: &Path) -> BootRequest {
    let mut spec = MachineSpec::new("kiln-test", Architecture::X86_64, accelerator());
    spec.disks.push(Disk::new(&subject.disk, DiskFormat::Qcow2).cache(Cache::Unsafe));
    if let Start::Real(firmware) = start {
        spec.firmware = firmware;
    }
    let cloud_init = match (&subject.facts.cloud_init, route) {
        (None, _) => CloudInit::Alone,
        (Some(_), Route::Overlay) => CloudInit::Off,
        (Some(_), _) => CloudInit::Build { instance_id: "kiln-test-1".into() },
    };
    BootRequest {
        spec,
        further: Vec::new(),
        folder: folder.join("machine"),
        route,
        cloud_init,
        kit: subject.kit.clone(),
        first: None,
        limit: Duration::from_secs(600),
    }
}

async fn sh(guest: &BootedGuest, script: &str) -> String {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let env = vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())];
    let out = guest.run(Exec { argv, env, ..Exec::default() }, 1 << 16, &patience(120)).await.unwrap();
    assert_eq!(out.exited.code, Some(0), "{script}: {}", String::from_utf8_lossy(&out.errors));
    String::from_utf8_lossy(&out.output).trim().to_owned()
}

/// The tests that come with kiln; the last one is for machines with an SSH server.
const BUILT_IN: [&str; 3] =
    ["reboot-test-linux", "simple-boot-test-linux", "validate-ssh-host-key-generation-linux"];

struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
    fn checkpoint(&mut self, _: &RunState) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs them in the guest, the one that reboots it last: it makes the host keys old.
async fn built_in_tests(guest: &BootedGuest, names: &[&str]) {
    let bind = |name: &&str| {
        let document = library::find(name).unwrap().document();
        Component::bind(*name, document, &[], Strictness::Recipe).unwrap()
    };
    let components: Vec<Component> = names.iter().rev().map(bind).collect();
    let options = Options { working_directory: "/tmp".into(), ..Options::default() };
    let values = Values::default();
    let job = Job { components: &components, phases: Some(&["test"]), options: &options, provider: &values };
    let report = kiln::component::run(job, None, guest, &mut Silent, &patience(900)).await;
    assert!(report.is_success(), "{:#?}", report.failure);
    assert_eq!(report.state.steps().count(), names.len() + 3);
}

const MARK: &str = "kept-from-boot-to-boot-now";

/// Boots, writes, reboots, reads back, powers off. Returns also what must not be left on the disk.
async fn twice(base: &str, route: Route, start: Start) -> (Folder, Subject, Wanted) {
    let folder = Folder::new(&format!("boot-{base}-{route}"));
    let subject = subject(base, &folder).await;
    assert_eq!(choose(&Holds::of(&subject.facts), start, Some(route)), Ok(route), "{:?}", subject.facts);
    let told = Arc::new(Told::default());
    let request = request(&subject, route, start, &folder);
    let guest = BootedGuest::start(request, told.clone(), &patience(900)).await.unwrap_or_else(|e| {
        panic!("{base} by {route}: {:#?}", e.failure());
    });
    let mut wanted = Wanted::agent();
    wanted.add_agent_disk(&folder.join("machine/agent.disk"));
    let first = guest.facts(&patience(60)).await.unwrap();
    assert_eq!(first.init, "systemd");
    // The boot is over, so nothing of it is still at work.
    assert_eq!(sh(&guest, "systemctl list-jobs --no-legend | wc -l").await, "0", "{:?}", guest.ready());
    sh(&guest, &format!("echo {MARK} > /root/mark; echo gone > /run/mark")).await;

    built_in_tests(&guest, if base == "debian-12" { &BUILT_IN } else { &BUILT_IN[..2] }).await;
    let second = guest.facts(&patience(60)).await.unwrap();
    assert_ne!(first.boot_id, second.boot_id);
    assert_eq!(sh(&guest, "cat /root/mark; test ! -e /run/mark").await, MARK);
    wanted.add_agent_disk(&folder.join("machine/agent.disk"));
    guest.shutdown(&patience(300)).await.unwrap();

    (folder, subject, wanted)
}

/// What is left when the disk of such a guest is sealed.
async fn no_residue(base: &str, (folder, subject, unwanted): (Folder, Subject, Wanted)) {
    let disk = Disk::new(&subject.disk, DiskFormat::Qcow2).cache(Cache::Unsafe);
    let machine = folder.join("appliance");
    let appliance =
        Appliance::start(&subject.kit, vec![disk], accelerator(), &machine, &patience(180)).await.unwrap();
    appliance.seal("/tmp", &patience(120)).await.unwrap();
    appliance.shutdown(&patience(60)).await.unwrap();
    let own = [("/root/mark", "new file of 27 bytes, 644 0:0", "the test wrote it")];
    let sealed = Sealed {
        kit: &subject.kit,
        base,
        disk: &subject.disk,
        own: &own,
        own_content: MARK,
        unwanted: &unwanted,
    };
    sealed.check(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_base_by_overlay() {
    let booted = twice("debian-12", Route::Overlay, Start::Fast).await;
    no_residue("debian-12", booted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_base_by_seed_under_bios() {
    let booted = twice("debian-12", Route::Seed, Start::Real(Firmware::Bios)).await;
    no_residue("debian-12", booted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minimal_base_by_overlay() {
    twice("debian-12-minimal", Route::Overlay, Start::Fast).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minimal_base_by_smbios_under_uefi() {
    let booted = twice("debian-12-minimal", Route::Smbios, Start::Real(Firmware::Uefi)).await;
    no_residue("debian-12-minimal", booted).await;
}
