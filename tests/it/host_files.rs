//! What a recipe's component brings along, handed to the real agent.

use crate::agent::{agent, patience};
use kiln::build::host_files::{HostFileError, HostFiles, walk};
use kiln::build::tray::{Inserted, Packer, Tray};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A tree with every kind of thing that can be brought along.
fn tree(top: &Path) {
    fs::create_dir_all(top.join("site/css")).unwrap();
    fs::create_dir(top.join("site/empty")).unwrap();
    fs::write(top.join("site/index.html"), "hello").unwrap();
    fs::write(top.join("site/css/a name.css"), vec![7; 3 << 20]).unwrap();
    fs::write(top.join("site/run"), "#!/bin/sh").unwrap();
    fs::set_permissions(top.join("site/run"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/passwd", top.join("site/link")).unwrap();
}

fn packed(path: &Path, all: &[&HostFiles]) -> Result<Tray, HostFileError> {
    let patience = patience();
    let mut packer = Packer::new(path, &patience)?;
    all.iter().try_for_each(|files| packer.add(files))?;
    packer.finish()
}

/// The agent here is on this machine: to it the tray is the file itself.
fn inserted<'a>(tray: &'a Tray, path: &Path) -> Inserted<'a> {
    Inserted { tray, device: path.to_str().unwrap().into() }
}

#[tokio::test]
async fn a_folder_arrives_as_it_is_and_over_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    for way in ["link", "tray"] {
        arrives(folder.path(), &folder.path().join(way), way == "tray").await;
    }
}

async fn arrives(folder: &Path, target: &Path, by_tray: bool) {
    let guest = agent().await;
    fs::create_dir_all(target).unwrap();
    fs::set_permissions(target, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(target.join("index.html"), "older").unwrap();
    fs::write(target.join("stays"), "").unwrap();
    let files = walk(&folder.join("site"), target.to_str().unwrap()).unwrap();
    assert_eq!((files.file_count(), files.bytes()), (4, (3 << 20) + 5 + 9));
    let disk = folder.join("tray.disk");
    let tray = by_tray.then(|| packed(&disk, &[&files]).unwrap());
    let tray = tray.as_ref().map(|tray| inserted(tray, &disk));
    files.hand_over(&guest, tray.as_ref(), &patience()).await.unwrap();
    assert_eq!(fs::read(target.join("index.html")).unwrap(), b"hello");
    assert_eq!(fs::read(target.join("css/a name.css")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(mode(&target.join("run")), 0o4711);
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert!(target.join("empty").is_dir() && target.join("stays").is_file());
    assert_eq!(mode(target), 0o700, "a folder that is there stays as it is");
}

#[tokio::test]
async fn a_file_goes_to_a_path_or_into_a_folder() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let source = folder.path().join("site/index.html");
    for (destination, arrives) in [("a/page", "a/page"), ("b/", "b/index.html")] {
        let files = walk(&source, &format!("{}/{destination}", folder.path().display())).unwrap();
        files.hand_over(&guest, None, &patience()).await.unwrap();
        assert_eq!(fs::read(folder.path().join(arrives)).unwrap(), b"hello");
    }
}

#[test]
fn the_digest_is_of_what_arrives() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let site = folder.path().join("site");
    let digest = |destination: &str| walk(&site, destination).unwrap().digest();
    let first = digest("/srv");
    fs::File::open(site.join("run")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(digest("/srv"), first, "a time stamp does not reach the guest");
    fs::rename(&site, folder.path().join("moved")).unwrap();
    let site = folder.path().join("moved");
    assert_eq!(walk(&site, "/srv").unwrap().digest(), first, "nor does where it lay");
    assert_ne!(walk(&site, "/srv/").unwrap().digest(), first);
    fs::set_permissions(site.join("run"), fs::Permissions::from_mode(0o711)).unwrap();
    let second = walk(&site, "/srv").unwrap().digest();
    assert_ne!(second, first);
    fs::write(site.join("index.html"), "hellO").unwrap();
    assert_ne!(walk(&site, "/srv").unwrap().digest(), second);
}

#[tokio::test]
async fn a_file_that_changed_since_the_plan_fails_the_build() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let source = folder.path().join("site/index.html");
    let files = walk(&source, folder.path().join("x").to_str().unwrap()).unwrap();
    fs::write(&source, "changed").unwrap();
    let error = files.hand_over(&guest, None, &patience()).await.unwrap_err();
    assert!(matches!(&error, HostFileError::Changed(path) if *path == source), "{error}");
}

/// Opening a pipe that nobody writes to would wait for ever.
#[tokio::test]
async fn a_file_that_has_become_a_pipe_has_changed() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let source = folder.path().join("site/index.html");
    let files = walk(&source, folder.path().join("x").to_str().unwrap()).unwrap();
    fs::remove_file(&source).unwrap();
    pipe(&source);
    for error in [
        packed(&folder.path().join("tray.disk"), &[&files]).unwrap_err(),
        files.hand_over(&guest, None, &patience()).await.unwrap_err(),
    ] {
        assert!(matches!(&error, HostFileError::Changed(path) if *path == source), "{error}");
    }
}

fn pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

#[tokio::test]
async fn a_tray_holds_each_content_once_and_nothing_at_its_ends() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    for i in 0..1500 {
        fs::write(folder.path().join(format!("site/empty/{i}")), format!("{}", i % 1000)).unwrap();
    }
    let to = folder.path().join("to");
    let [one, two] = ["one", "two"].map(|name| {
        let target = to.join(name);
        walk(&folder.path().join("site"), target.to_str().unwrap()).unwrap()
    });
    let disk = folder.path().join("tray.disk");
    let tray = packed(&disk, &[&one, &two]).unwrap();
    let metadata = fs::metadata(&disk).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600, "it holds what others may not read");
    // 10 of one digit, 90 of two, 900 of three.
    let held = (3 << 20) + 5 + 9 + 10 + 180 + 2700;
    assert_eq!(metadata.len(), ((5_u64 << 20) + held).next_multiple_of(512));
    assert!(metadata.blocks() * 512 < held + (4 << 20), "the ends are holes");
    let (mut head, mut tail) = (vec![1; 1 << 20], vec![1; 4 << 20]);
    let file = fs::File::open(&disk).unwrap();
    file.read_exact_at(&mut head, 0).unwrap();
    file.read_exact_at(&mut tail, metadata.len() - (4 << 20)).unwrap();
    assert!(head.iter().chain(&tail).all(|byte| *byte == 0));
    // What is packed is what was planned, whatever becomes of the files.
    fs::remove_dir_all(folder.path().join("site")).unwrap();
    let tray = inserted(&tray, &disk);
    for files in [&one, &two] {
        files.hand_over(&guest, Some(&tray), &patience()).await.unwrap();
    }
    for name in ["one", "two"] {
        assert_eq!(fs::read(to.join(name).join("css/a name.css")).unwrap(), vec![7; 3 << 20]);
        assert_eq!(fs::read(to.join(name).join("empty/1234")).unwrap(), b"234");
        assert_eq!(fs::read_dir(to.join(name).join("empty")).unwrap().count(), 1500);
    }
}

#[test]
fn what_changed_since_the_plan_or_cannot_be_written_packs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let source = folder.path().join("site/index.html");
    let files = walk(&source, "/x").unwrap();
    let disk = folder.path().join("tray.disk");
    for other in ["hellO", "hello, longer", "hell", ""] {
        fs::write(&source, other).unwrap();
        let error = packed(&disk, &[&files]).unwrap_err();
        assert!(matches!(&error, HostFileError::Changed(path) if *path == source), "{error}");
        fs::remove_file(&disk).unwrap();
    }
    let error = packed(&folder.path().join("none/tray.disk"), &[]).unwrap_err();
    assert!(matches!(&error, HostFileError::Pack { .. }), "{error}");
}

#[tokio::test]
async fn which_file_could_not_be_written_is_told_whichever_way_it_went() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let target = folder.path().join("to");
    fs::create_dir_all(target.join("run")).unwrap();
    let files = walk(&folder.path().join("site"), target.to_str().unwrap()).unwrap();
    let disk = folder.path().join("tray.disk");
    let tray = packed(&disk, &[&files]).unwrap();
    let tray = inserted(&tray, &disk);
    let run = target.join("run");
    for way in [None, Some(&tray)] {
        let error = files.hand_over(&guest, way, &patience()).await.unwrap_err();
        let HostFileError::Guest { path, source } = &error else { panic!("{error}") };
        assert_eq!(path, run.to_str().unwrap());
        assert!(source.to_string().contains("is a folder"), "{source}");
    }
    fs::remove_file(&disk).unwrap();
    let error = files.hand_over(&guest, Some(&tray), &patience()).await.unwrap_err();
    assert!(matches!(&error, HostFileError::Tray(_)) && error.is_of_tray(), "{error}");
    // The disks of this machine have other serials.
    let error = tray.tray.find(&guest, &patience()).await.unwrap_err();
    assert!(matches!(&error, HostFileError::NoTray) && error.is_of_tray(), "{error}");
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    self::pipe(&pipe);
    let said = walk(folder.path(), "/srv").unwrap_err().to_string();
    assert!(said.starts_with(&format!("{} is a named pipe", pipe.display())), "{said}");
    assert!(matches!(walk(&folder.path().join("none"), "/x"), Err(HostFileError::Read { .. })));
}
