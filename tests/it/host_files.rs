//! What a recipe's component brings along, handed to the real agent.

use crate::agent::{agent, patience};
use kiln::build::host_files::{HostFileError, walk};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
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

#[tokio::test]
async fn a_folder_arrives_as_it_is_and_over_what_is_there() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let target = folder.path().join("in/guest");
    fs::create_dir_all(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(target.join("index.html"), "older").unwrap();
    fs::write(target.join("stays"), "").unwrap();
    let files = walk(&folder.path().join("site"), target.to_str().unwrap()).unwrap();
    assert_eq!((files.file_count(), files.bytes()), (4, (3 << 20) + 5 + 9));
    files.hand_over(&guest, &patience()).await.unwrap();
    assert_eq!(fs::read(target.join("index.html")).unwrap(), b"hello");
    assert_eq!(fs::read(target.join("css/a name.css")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(mode(&target.join("run")), 0o4711);
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert!(target.join("empty").is_dir() && target.join("stays").is_file());
    assert_eq!(mode(&target), 0o700, "a folder that is there stays as it is");
}

#[tokio::test]
async fn a_file_goes_to_a_path_or_into_a_folder() {
    let (guest, folder) = (agent().await, tempfile::tempdir().unwrap());
    tree(folder.path());
    let source = folder.path().join("site/index.html");
    for (destination, arrives) in [("a/page", "a/page"), ("b/", "b/index.html")] {
        let files = walk(&source, &format!("{}/{destination}", folder.path().display())).unwrap();
        files.hand_over(&guest, &patience()).await.unwrap();
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
    let error = files.hand_over(&guest, &patience()).await.unwrap_err();
    assert!(matches!(&error, HostFileError::Changed(path) if *path == source), "{error}");
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let said = walk(folder.path(), "/srv").unwrap_err().to_string();
    assert!(said.starts_with(&format!("{} is a named pipe", pipe.display())), "{said}");
    assert!(matches!(walk(&folder.path().join("none"), "/x"), Err(HostFileError::Read { .. })));
}
