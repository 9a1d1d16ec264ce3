//! File verbs, questions, and their failures.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{agent, kind, patience, sha256, shell};
use kiln::guest::{Guest, GuestFiles};
use kiln_protocol::message::{Algorithm, EntryKind, ErrorKind, Operation, PowerAction};

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn stat_tells_what_is_there() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    fs::write(&file, "12345").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    let stat =
        async |name: &str, follow| guest.stat(&text(&folder.path().join(name)), follow, &p).await.unwrap();
    let entry = stat("file", false).await.unwrap();
    assert_eq!((entry.kind, entry.mode, entry.size), (EntryKind::File, 0o4750, 5));
    assert_eq!(entry.uid, fs::metadata(&file).unwrap().uid());
    let link = stat("link", false).await.unwrap();
    assert_eq!((link.kind, link.target.as_deref()), (EntryKind::Symlink, Some("file")));
    assert_eq!(stat("link", true).await.unwrap().kind, EntryKind::File);
    assert_eq!(stat(".", false).await.unwrap().kind, EntryKind::Folder);
    assert_eq!((stat("none", false).await, stat("file/below", false).await), (None, None));
    assert_eq!(guest.stat("/dev/null", false, &p).await.unwrap().unwrap().kind, EntryKind::Other);
    assert_eq!(kind(guest.stat("relative", false, &p).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn digests_are_the_usual_ones() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let file = folder.path().join("f");
    fs::write(&file, "abc").unwrap();
    let hash = async |algorithm| guest.hash(&text(&file), algorithm, &p).await.unwrap();
    assert_eq!(hash(Algorithm::Md5).await, "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(hash(Algorithm::Sha1).await, "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(hash(Algorithm::Sha256).await, sha256(b"abc"));
    assert!(hash(Algorithm::Sha512).await.starts_with("ddaf35a193617abacc417349ae204131"));
    assert_eq!(kind(guest.hash("/nowhere", Algorithm::Md5, &p).await), ErrorKind::NotFound);
    assert_eq!(kind(guest.hash(&text(folder.path()), Algorithm::Md5, &p).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn lists_come_in_pages_and_in_order() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    for i in 0..1203 {
        fs::write(folder.path().join(format!("f{i:05}")), "").unwrap();
    }
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(folder.path().join("a/x"), "").unwrap();
    fs::write(folder.path().join("a.b"), "").unwrap();
    let names = async |recursive| {
        let all = guest.list(&text(folder.path()), recursive, 5000, &p).await.unwrap();
        let name = |path: &str| path[folder.path().as_os_str().len() + 1..].to_owned();
        all.into_iter().map(|e| name(&e.path)).collect::<Vec<_>>()
    };
    let flat = names(false).await;
    assert_eq!((flat.len(), &flat[..3]), (1205, &["a", "a.b", "f00000"].map(String::from)[..]));
    let deep = names(true).await;
    assert_eq!((deep.len(), &deep[..3]), (1206, &["a", "a/x", "a.b"].map(String::from)[..]));
    assert!(deep.is_sorted_by_key(|name| Path::new(name).to_owned()));
    assert_eq!(kind(guest.list(&text(folder.path()), true, 1000, &p).await), ErrorKind::TooLarge);
    assert_eq!(kind(guest.list("/nowhere", false, 9, &p).await), ErrorKind::NotFound);
    assert_eq!(kind(guest.list("/etc/passwd", false, 9, &p).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn long_names_make_short_pages() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    for i in 0..900 {
        fs::write(folder.path().join(format!("{i:05}{}", "n".repeat(240))), "").unwrap();
    }
    assert_eq!(guest.list(&text(folder.path()), false, 5000, &p).await.unwrap().len(), 900);
}

#[tokio::test]
async fn folders_are_made_removed_and_refused() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let deep = folder.path().join("a/b/c");
    let make = |path: &Path, parents| Operation::MakeFolder {
        path: text(path),
        mode: 0o1770,
        parents,
        owner: None,
        group: None,
    };
    assert_eq!(kind(guest.act(make(&deep, false), &p).await), ErrorKind::NotFound);
    guest.act(make(&deep, true), &p).await.unwrap();
    assert_eq!((mode(&deep), mode(&folder.path().join("a"))), (0o1770, 0o755));
    guest.act(make(&deep, true), &p).await.unwrap();
    assert_eq!(kind(guest.act(make(&deep, false), &p).await), ErrorKind::Exists);

    let remove = |path: &Path, recursive| Operation::Remove { path: text(path), recursive };
    let top = folder.path().join("a");
    assert_eq!(kind(guest.act(remove(&top, false), &p).await), ErrorKind::NotEmpty);
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, deep.join("link")).unwrap();
    guest.act(remove(&top, true), &p).await.unwrap();
    assert!(!top.exists() && outside.join("kept").exists(), "a link is removed, not followed");
    assert_eq!(kind(guest.act(remove(&top, true), &p).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn copies_keep_modes_times_and_links() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("sub/file"), "content").unwrap();
    fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("sub/file", from.join("link")).unwrap();
    symlink("/nowhere", from.join("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    let copy = |source: &Path, target: &Path, recursive, overwrite| Operation::Copy {
        source: text(source),
        target: text(target),
        recursive,
        overwrite,
    };
    assert_eq!(kind(guest.act(copy(&from, &to, false, false), &p).await), ErrorKind::Invalid);
    guest.act(copy(&from, &to, true, false), &p).await.unwrap();
    assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "content");
    assert_eq!((mode(&to.join("sub")), mode(&to.join("sub/file"))), (0o555, 0o640));
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("sub/file"));
    assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/nowhere"));
    let time = |path: &Path| fs::symlink_metadata(path).unwrap().mtime_nsec();
    assert_eq!(time(&to.join("sub/file")), time(&from.join("sub/file")));
    assert_eq!(time(&to.join("sub")), time(&from.join("sub")));

    assert_eq!(kind(guest.act(copy(&from, &to, true, false), &p).await), ErrorKind::Exists);
    guest.act(copy(&from, &to, true, true), &p).await.unwrap();
    let inside = from.join("sub2");
    assert_eq!(kind(guest.act(copy(&from, &inside, true, false), &p).await), ErrorKind::Invalid);
    let file = from.join("sub/file");
    assert_eq!(kind(guest.act(copy(&file, &to, false, true), &p).await), ErrorKind::Exists);
    guest.act(copy(&file, &file, false, true), &p).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    assert_eq!(kind(guest.act(copy(Path::new("/nowhere"), &to, true, true), &p).await), ErrorKind::NotFound);
    let left: Vec<_> = fs::read_dir(&to).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 4, "nothing else is left behind: {left:?}");
}

#[tokio::test]
async fn renames_move_also_between_file_systems() {
    let guest = agent().await;
    let (p, here) = (patience(), tempfile::tempdir().unwrap());
    let there = tempfile::tempdir_in("/dev/shm").unwrap();
    let rename = |source: &Path, target: &Path, overwrite| Operation::Rename {
        source: text(source),
        target: text(target),
        overwrite,
    };
    let (a, b) = (here.path().join("a"), here.path().join("b"));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    assert_eq!(kind(guest.act(rename(&a, &b, false), &p).await), ErrorKind::Exists);
    guest.act(rename(&a, &b, true), &p).await.unwrap();
    assert_eq!((fs::read_to_string(&b).unwrap(), a.exists()), ("a".into(), false));

    let far = there.path().join("far");
    guest.act(rename(&b, &far, false), &p).await.unwrap();
    assert_eq!((fs::read_to_string(&far).unwrap(), b.exists()), ("a".into(), false));
    let folder = here.path().join("folder");
    fs::create_dir_all(folder.join("x")).unwrap();
    fs::write(folder.join("x/y"), "z").unwrap();
    assert_eq!(kind(guest.act(rename(&folder, &far, false), &p).await), ErrorKind::Exists);
    guest.act(rename(&folder, &there.path().join("new"), false), &p).await.unwrap();
    assert_eq!(fs::read_to_string(there.path().join("new/x/y")).unwrap(), "z");
    assert!(!folder.exists());
    assert_eq!(kind(guest.act(rename(&folder, &far, true), &p).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn links_modes_and_owners_are_set() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let link = folder.path().join("link");
    let make = |replace| Operation::Symlink { path: text(&link), target: "some/where".into(), replace };
    guest.act(make(false), &p).await.unwrap();
    assert_eq!(kind(guest.act(make(false), &p).await), ErrorKind::Exists);
    guest.act(make(true), &p).await.unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("some/where"));

    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/f"), "").unwrap();
    symlink("/etc/passwd", tree.join("sub/passwd")).unwrap();
    let before = mode(Path::new("/etc/passwd"));
    let chmod = |mode, recursive| Operation::Chmod { path: text(&tree), mode, recursive };
    guest.act(chmod(0o700, false), &p).await.unwrap();
    assert_eq!((mode(&tree), mode(&tree.join("sub"))), (0o700, 0o755));
    guest.act(chmod(0o711, true), &p).await.unwrap();
    assert_eq!((mode(&tree.join("sub")), mode(&tree.join("sub/f"))), (0o711, 0o711));
    assert_eq!(mode(Path::new("/etc/passwd")), before, "links are not followed");
    assert_eq!(kind(guest.act(chmod(0o10000, false), &p).await), ErrorKind::Invalid);

    let chown = |owner: &str, group: Option<&str>| Operation::Chown {
        path: text(&tree),
        owner: owner.into(),
        group: group.map(String::from),
        recursive: true,
    };
    assert_eq!(kind(guest.act(chown("nobody-knows", None), &p).await), ErrorKind::Invalid);
    assert_eq!(kind(guest.act(chown("root", Some("no-such-group")), &p).await), ErrorKind::Invalid);
    let me = fs::metadata(&tree).unwrap();
    if me.uid() != 0 {
        assert_eq!(kind(guest.act(chown("0", Some("0")), &p).await), ErrorKind::Denied);
        return guest.act(chown(&me.uid().to_string(), Some(&me.gid().to_string())), &p).await.unwrap();
    }
    guest.act(chown("daemon", None), &p).await.unwrap();
    let owner = |path: &Path| fs::symlink_metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!((owner(&tree), owner(&tree.join("sub/passwd"))), ((1, 1), (1, 1)));
    assert_eq!(owner(Path::new("/etc/passwd")), (0, 0));
    guest.act(chown("12345", Some("adm")), &p).await.unwrap();
    assert_eq!(owner(&tree.join("sub/f")), (12345, 4));
    // A number that is a user's brings that user's primary group.
    guest.act(chown("1", None), &p).await.unwrap();
    assert_eq!(owner(&tree.join("sub/f")), (1, 1));
}

#[tokio::test]
async fn failures_of_the_file_system_keep_their_kind() {
    let guest = agent().await;
    let p = patience();
    let write = async |path: &str, content: &[u8]| kind(guest.write(path, 0o644, content, &p).await);
    assert_eq!(write("/proc/kiln/x", b"").await, ErrorKind::NotFound);
    assert_eq!(write("relative", b"").await, ErrorKind::Invalid);
    assert_eq!(write(&format!("/tmp/{}", "n".repeat(300)), b"").await, ErrorKind::Invalid);
    assert_eq!(write("/usr", b"").await, ErrorKind::Exists);
    assert_eq!(kind(guest.append("/dev/full", b"x", &p).await), ErrorKind::NoSpace);
}

#[tokio::test]
async fn questions_about_the_system_are_answered() {
    let guest = agent().await;
    let p = patience();
    let facts = guest.facts(&p).await.unwrap();
    let run = async |script: &str| {
        String::from_utf8(guest.run(shell(script), 999, &p).await.unwrap().output).unwrap().trim().to_owned()
    };
    assert_eq!(facts.kernel, run("uname -r").await);
    assert_eq!(facts.hostname, run("uname -n").await);
    assert_eq!(facts.boot_id, run("cat /proc/sys/kernel/random/boot_id").await);
    assert_eq!(facts.boot_id, guest.session().hello().boot_id);
    assert_eq!(facts.processors.to_string(), run("getconf _NPROCESSORS_ONLN").await);
    assert!(facts.memory_total > facts.memory_available && facts.memory_available > 0 && facts.uptime_ms > 0);
    let id = run(". /etc/os-release; echo $ID").await;
    assert!(facts.os_release.contains(&("ID".into(), id)), "{:?}", facts.os_release);
    let (total, free) = guest.space("/", &p).await.unwrap();
    assert!(total >= free && total > 1 << 20);
    assert_eq!(kind(guest.space("/nowhere", &p).await), ErrorKind::NotFound);
    let devices = guest.devices(&p).await.unwrap();
    assert!(devices.is_sorted_by(|a, b| a.path < b.path));
    assert!(devices.iter().all(|d| d.path.starts_with("/dev/")), "{devices:?}");
}

#[tokio::test]
async fn what_would_change_this_machine_is_refused() {
    let guest = agent().await;
    let p = patience();
    let target = || String::from("/mnt");
    let dangerous = [
        Operation::Power { action: PowerAction::PowerOff },
        Operation::Power { action: PowerAction::Reboot },
        Operation::LoadModules { names: vec!["dummy".into()] },
        Operation::RereadPartitions { device: "/dev/null".into() },
        Operation::Mount {
            source: "tmpfs".into(),
            target: target(),
            filesystem: "tmpfs".into(),
            options: String::new(),
            read_only: false,
        },
        Operation::Unmount { target: target() },
        Operation::ChangeRoot { path: Some(target()) },
    ];
    for operation in dangerous {
        assert_eq!(kind(guest.act(operation.clone(), &p).await), ErrorKind::Unsupported, "{operation:?}");
    }
    for operation in [Operation::GrowFilesystem { target: target() }, Operation::Trim { target: target() }] {
        assert_eq!(kind(guest.call(operation, &p).await), ErrorKind::Unsupported);
    }
    assert_eq!(kind(guest.reboot(&p).await), ErrorKind::Unsupported);
}
