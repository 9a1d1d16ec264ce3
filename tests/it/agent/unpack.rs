//! Many files with one request, their contents from ranges of another file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::{agent, kind, patience};
use kiln::guest::{GuestError, GuestFiles};
use kiln::support::wait::{Impatience, Patience};
use kiln_protocol::message::{ErrorKind, Failed, MOST_PACKED, Packed, Unpack};

/// More than the agent reads at a time.
const SOURCE: usize = 700_001;

fn content() -> Vec<u8> {
    (0..SOURCE as u64).map(|i| (i * i / 7 + i) as u8).collect()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

fn file(path: &Path, offset: u64, length: u64) -> Packed {
    Packed::File { path: text(path), mode: 0o640, offset, length }
}

/// A folder with the source in it, apart from the folder to unpack into.
struct Place {
    folder: tempfile::TempDir,
    content: Vec<u8>,
}

impl Place {
    fn new() -> Place {
        let (folder, content) = (tempfile::tempdir().unwrap(), content());
        fs::write(folder.path().join("source"), &content).unwrap();
        fs::create_dir(folder.path().join("to")).unwrap();
        Place { folder, content }
    }

    fn to(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("to").join(name)
    }

    fn unpack(&self, items: Vec<Packed>) -> Unpack {
        Unpack { source: Some(text(&self.folder.path().join("source"))), items }
    }

    /// Names in the folder to unpack into: no draft may be left.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.to("")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn any_ranges_in_any_order_are_what_the_files_hold() {
    let (guest, place) = (agent().await, Place::new());
    let all = SOURCE as u64;
    let ranges = [
        (0, 0),
        (0, 1),
        (0, all),
        (all, 0),
        (all - 1, 1),
        (4095, 2),
        (262_143, 2),
        (262_144, 262_144),
        (511, 262_145),
        (5, 300_000),
        (3, 7),
        (600_000, 100_001),
        (3, 7),
    ];
    let items = ranges.iter().enumerate();
    let items = items.map(|(i, (offset, length))| file(&place.to(&i.to_string()), *offset, *length));
    assert_eq!(guest.unpack(place.unpack(items.collect()), &patience()).await.unwrap(), None);
    for (i, (offset, length)) in ranges.iter().enumerate() {
        let path = place.to(&i.to_string());
        let range = *offset as usize..(offset + length) as usize;
        assert!(fs::read(&path).unwrap() == place.content[range], "{offset} {length}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }
    assert_eq!(place.names().len(), ranges.len());
}

#[tokio::test]
async fn things_are_made_as_the_operations_for_one_make_them() {
    let (guest, place) = (agent().await, Place::new());
    let old = place.to("old");
    fs::write(&old, "older").unwrap();
    symlink(&old, place.to("was-link")).unwrap();
    fs::create_dir(place.to("there")).unwrap();
    fs::set_permissions(place.to("there"), fs::Permissions::from_mode(0o700)).unwrap();
    let folder = |name: &str, mode| Packed::Folder { path: text(&place.to(name)), mode };
    let link = |name: &str| Packed::Symlink { path: text(&place.to(name)), target: "no/where".into() };
    let run = Packed::File { path: text(&place.to("made/run")), mode: 0o4711, offset: 9, length: 3 };
    let items = vec![
        folder("made", 0o1777),
        folder("there", 0o755),
        run,
        file(&place.to("not/yet/there"), 0, 5),
        file(&place.to("was-link"), 1, 2),
        link("made/link"),
        link("made/link"),
    ];
    assert_eq!(guest.unpack(place.unpack(items), &patience()).await.unwrap(), None);
    let mode = |name: &str| fs::symlink_metadata(place.to(name)).unwrap().mode() & 0o7777;
    let modes = ["made", "there", "made/run", "not", "not/yet", "not/yet/there"].map(mode);
    assert_eq!(modes, [0o1777, 0o700, 0o4711, 0o755, 0o755, 0o640]);
    assert!(place.to("was-link").symlink_metadata().unwrap().is_file(), "a link is replaced");
    assert_eq!(fs::read(&old).unwrap(), b"older", "and what it led to is not");
    assert_eq!(fs::read_link(place.to("made/link")).unwrap(), Path::new("no/where"));
    assert_eq!(place.names(), ["made", "not", "old", "there", "was-link"]);
}

/// The item that could not be made, and why; what comes after it was not tried.
async fn fails_at(
    guest: &kiln::guest::link::local::LocalGuest,
    place: &Place,
    source: Option<&str>,
    bad: Packed,
) -> Failed {
    let (before, after) = (place.to("before"), place.to("after"));
    let _ = fs::remove_file(&before);
    let items = vec![file(&before, 0, 0), bad, file(&after, 0, 0)];
    let unpack = Unpack { source: source.map(String::from), items };
    let (at, failed) = guest.unpack(unpack, &patience()).await.unwrap().expect("one cannot be made");
    assert_eq!(at, 1, "{failed:?}");
    assert!(before.exists() && !after.exists());
    failed
}

#[tokio::test]
async fn the_first_that_cannot_be_made_is_told_and_ends_it() {
    let (guest, place) = (agent().await, Place::new());
    let source = text(&place.folder.path().join("source"));
    let source = Some(source.as_str());
    fs::create_dir_all(place.to("folder")).unwrap();
    let x = place.to("x");
    let all = SOURCE as u64;
    // In /sys a file says that it has a page, and holds less.
    let short = Some("/sys/kernel/uevent_seqnum");
    let file_x = |offset, length| file(&x, offset, length);
    let relative = Packed::File { path: "x".into(), mode: 0o600, offset: 0, length: 1 };
    let folder = Packed::Folder { path: text(&place.to("before/x")), mode: 0o755 };
    let link = Packed::Symlink { path: text(&place.to("none/x")), target: "y".into() };
    let cases = [
        (source, file_x(0, all + 1), ErrorKind::Invalid, "it has only 700001"),
        (source, file_x(all, 1), ErrorKind::Invalid, "it has only 700001"),
        (source, file_x(u64::MAX, 2), ErrorKind::Invalid, "it has only 700001"),
        (short, file_x(0, 4096), ErrorKind::Io, "it ends at"),
        (None, file_x(0, 1), ErrorKind::Invalid, "there is no source of its 1 bytes"),
        (source, file(&place.to("folder"), 0, 1), ErrorKind::Exists, "folder: is a folder"),
        (source, file(&place.to("before/x"), 0, 1), ErrorKind::Exists, "before"),
        (source, relative, ErrorKind::Invalid, "`x` is no absolute path"),
        (source, folder, ErrorKind::Exists, "before"),
        (source, link, ErrorKind::NotFound, "none/x"),
    ];
    for (source, bad, kind, said) in cases {
        let failed = fails_at(&guest, &place, source, bad).await;
        assert!(failed.kind == kind && failed.message.contains(said), "{said}: {failed:?}");
        assert_eq!(place.names(), ["before", "folder"]);
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_opened_refuses_them_all() {
    let (guest, place) = (agent().await, Place::new());
    let items = vec![file(&place.to("x"), 0, 0)];
    for (source, said) in [("/dev/none", "open /dev/none: No such file"), ("source", "no absolute path")] {
        let unpack = Unpack { source: Some(source.into()), items: items.clone() };
        match guest.unpack(unpack, &patience()).await {
            Err(GuestError::Refused(failed)) => assert!(failed.message.contains(said), "{failed:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(place.names().is_empty());
}

#[tokio::test]
async fn so_many_and_no_more_fit_one_request() {
    let (guest, place) = (agent().await, Place::new());
    let items = |n: usize| (0..n).map(|i| file(&place.to(&i.to_string()), i as u64, 1)).collect();
    let too_many = guest.unpack(place.unpack(items(MOST_PACKED + 1)), &patience()).await;
    assert_eq!(kind(too_many), ErrorKind::Invalid);
    assert!(place.names().is_empty());
    assert_eq!(guest.unpack(place.unpack(items(MOST_PACKED)), &patience()).await.unwrap(), None);
    for i in [0, 1, MOST_PACKED - 1] {
        assert_eq!(fs::read(place.to(&i.to_string())).unwrap(), [place.content[i]]);
    }
    assert_eq!(place.names().len(), MOST_PACKED);
    assert_eq!(guest.unpack(place.unpack(Vec::new()), &patience()).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let (guest, place) = (agent().await, Place::new());
    // All hole, and more than is copied in that time.
    let source = place.folder.path().join("source");
    fs::File::options().write(true).open(source).unwrap().set_len(4 << 30).unwrap();
    let patience = Patience::new(Duration::from_millis(100), &Default::default());
    let unpack = place.unpack(vec![file(&place.to("x"), 0, 4 << 30)]);
    let result = guest.unpack(unpack, &patience).await;
    assert!(matches!(result, Err(GuestError::Impatience(Impatience::TimedOut { .. }))), "{result:?}");
    for _ in 0..1000 {
        if place.names().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still there: {:?}", place.names());
}
