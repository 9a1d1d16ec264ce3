//! Bulk data in and out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{agent, kind, patience, sha256};
use kiln::guest::{Guest, GuestError, GuestFiles};
use kiln::support::wait::{Impatience, Patience};
use kiln_protocol::message::{Algorithm, Entry, EntryKind, ErrorKind, Operation, Put, Tree};
use tokio_util::sync::CancellationToken;

fn put(path: &Path) -> Put {
    let path = path.to_str().unwrap().into();
    Put { path, mode: 0o640, owner: None, group: None, overwrite: false, parents: false }
}

fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i * i / 7 + i) as u8).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn files_go_in_and_come_out_unchanged() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    for length in [0, 1, 65_535, 65_536, 65_537, 3_000_000] {
        let file = folder.path().join(format!("f{length}"));
        let bytes = content(length);
        assert_eq!(guest.put(put(&file), &mut &bytes[..], &p).await.unwrap(), length as u64);
        assert!(fs::read(&file).unwrap() == bytes);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        let path = file.to_str().unwrap();
        assert!(guest.read(path, 1 << 30, &p).await.unwrap() == bytes);
    }
    assert_eq!(names(folder.path()).len(), 6, "no temporary files are left");
}

#[tokio::test]
async fn put_replaces_only_when_told_and_makes_folders_only_when_told() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let file = folder.path().join("sub/file");
    let put_it = async |put: Put| guest.put(put, &mut &b"new"[..], &p).await;
    assert_eq!(kind(put_it(put(&file)).await), ErrorKind::NotFound);
    put_it(Put { parents: true, ..put(&file) }).await.unwrap();
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777, 0o755);
    fs::write(&file, "old").unwrap();
    assert_eq!(kind(put_it(put(&file)).await), ErrorKind::Exists);
    assert_eq!(fs::read(&file).unwrap(), b"old");
    put_it(Put { overwrite: true, ..put(&file) }).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    let nobody = Put { owner: Some("nobody-knows".into()), overwrite: true, ..put(&file) };
    assert_eq!(kind(put_it(nobody).await), ErrorKind::Invalid);
    assert_eq!(names(file.parent().unwrap()), ["file"]);
}

#[tokio::test]
async fn a_refusal_comes_while_the_source_is_still_being_sent() {
    let guest = agent().await;
    // Without an end: only the refusal can end this.
    let mut endless = tokio::io::repeat(0);
    let result = guest.put(put(Path::new("/nowhere/x")), &mut endless, &patience()).await;
    assert_eq!(kind(result), ErrorKind::NotFound);
    let result = guest.send(Operation::Append { path: "/dev/full".into() }, &mut endless, &patience()).await;
    assert_eq!(kind(result), ErrorKind::NoSpace);
}

#[tokio::test]
async fn a_put_that_is_given_up_leaves_nothing() {
    let guest = agent().await;
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let patience = Patience::new(Duration::from_millis(200), &cancel);
    let mut endless = tokio::io::repeat(7);
    let result = guest.put(put(&folder.path().join("f")), &mut endless, &patience).await;
    assert!(matches!(result, Err(GuestError::Impatience(Impatience::TimedOut { .. }))), "{result:?}");
    for _ in 0..1000 {
        if names(folder.path()).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still there: {:?}", names(folder.path()));
}

#[tokio::test]
async fn a_failing_source_is_told_and_gives_up_the_file() {
    struct Broken(u32);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            self.0 += 1;
            if self.0 > 3 {
                return std::task::Poll::Ready(Err(std::io::Error::other("the disk is on fire")));
            }
            buffer.put_slice(&[0; 100]);
            std::task::Poll::Ready(Ok(()))
        }
    }
    let guest = agent().await;
    let folder = tempfile::tempdir().unwrap();
    let result = guest.put(put(&folder.path().join("f")), &mut Broken(0), &patience()).await;
    assert!(matches!(&result, Err(GuestError::Local(e)) if e.to_string().contains("on fire")), "{result:?}");
    // The session is still good.
    assert_eq!(
        guest.stat(folder.path().join("f").to_str().unwrap(), false, &patience()).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn pieces_are_read_and_written_at_offsets() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let file = folder.path().join("f");
    let path = file.to_str().unwrap().to_owned();
    fs::write(&file, "0123456789").unwrap();
    let get = async |offset, length| {
        let mut bytes = Vec::new();
        let operation = Operation::Get { path: path.clone(), offset, length };
        guest.get(operation, 100, &mut bytes, &p).await.map(|_| String::from_utf8(bytes).unwrap())
    };
    assert_eq!(get(0, Some(3)).await.unwrap(), "012");
    assert_eq!(get(7, None).await.unwrap(), "789");
    assert_eq!(get(4, Some(2)).await.unwrap(), "45");
    assert_eq!(get(50, None).await.unwrap(), "");
    assert_eq!(get(0, Some(0)).await.unwrap(), "");
    let write = Operation::WriteAt { path: path.clone(), offset: 8 };
    assert_eq!(guest.send(write, &mut &b"abcd"[..], &p).await.unwrap(), 4);
    assert_eq!(fs::read(&file).unwrap(), b"01234567abcd");
    let missing = Operation::WriteAt { path: "/nowhere/x".into(), offset: 0 };
    assert_eq!(kind(guest.send(missing, &mut &b"x"[..], &p).await), ErrorKind::NotFound);
    guest.append(&path, b"!", &p).await.unwrap();
    guest.append(&path, b"?", &p).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"01234567abcd!?");
    guest.append(folder.path().join("new").to_str().unwrap(), b"1", &p).await.unwrap();
    assert_eq!(guest.read_text("/proc/self/comm", 99, &p).await.unwrap(), "kiln-agent\n");
}

#[tokio::test]
async fn more_than_asked_for_is_refused_and_stopped() {
    let guest = agent().await;
    let p = patience();
    let zeros = || Operation::Get { path: "/dev/zero".into(), offset: 0, length: None };
    let mut sink = tokio::io::sink();
    assert_eq!(kind(guest.get(zeros(), 1_000_000, &mut sink, &p).await), ErrorKind::TooLarge);
    // It is not open any more: what comes next may be to unmount what it was on.
    let open = guest.list("/proc/self/fd", false, 100, &p).await.unwrap();
    assert!(!open.is_empty() && open.iter().all(|e| e.target.as_deref() != Some("/dev/zero")), "{open:?}");
    assert_eq!(kind(guest.read("/nowhere", 10, &p).await), ErrorKind::NotFound);
    assert_eq!(kind(guest.read("/usr", 10, &p).await), ErrorKind::Invalid);
    // And the agent has really stopped: its processor time stands still.
    let time = || {
        let text = fs::read_to_string(format!("/proc/{}/stat", guest.pid().unwrap())).unwrap();
        let fields: Vec<u64> = text.split(' ').skip(13).take(2).map(|n| n.parse().unwrap()).collect();
        fields[0] + fields[1]
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = time();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(time() - before <= 5, "{} ticks in half a second", time() - before);
}

#[tokio::test]
async fn a_pipe_that_nobody_writes_to_holds_nothing_up() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let pipe = folder.path().join("pipe").to_str().unwrap().to_owned();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(kind(guest.read(&pipe, 10, &p).await), ErrorKind::Invalid);
    let hash = Operation::Hash { path: pipe, algorithm: Algorithm::Sha256 };
    assert_eq!(kind(guest.act(hash, &p).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_tree_is_sent_sorted_with_digests_and_without_following_links() {
    let guest = agent().await;
    let (p, folder) = (patience(), tempfile::tempdir().unwrap());
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::write(root.join("b/c/file"), "content").unwrap();
    fs::write(root.join("b.txt"), "").unwrap();
    std::os::unix::fs::symlink("/", root.join("a")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("z"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let tree = async |root: &Path, digests, one_filesystem| {
        let mut lines = Vec::new();
        let root = root.to_str().unwrap().into();
        let operation = Operation::Tree(Tree { root, digests, one_filesystem, extents: false });
        guest.get(operation, 1 << 26, &mut lines, &p).await?;
        let lines = String::from_utf8(lines).unwrap();
        Ok::<_, GuestError>(
            lines.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap()).collect::<Vec<_>>(),
        )
    };
    let entries = tree(&root, true, true).await.unwrap();
    let short: Vec<(&str, EntryKind)> =
        entries.iter().map(|e| (&e.path[root.as_os_str().len()..], e.kind)).collect();
    let (file, folder_kind) = (EntryKind::File, EntryKind::Folder);
    assert_eq!(
        short,
        [
            ("", folder_kind),
            ("/a", EntryKind::Symlink),
            ("/b", folder_kind),
            ("/b/c", folder_kind),
            ("/b/c/file", file),
            ("/b.txt", file),
            ("/z", EntryKind::Other),
        ]
    );
    assert_eq!(entries[4].sha256, Some(sha256(b"content")));
    assert_eq!(entries[1].target.as_deref(), Some("/"));
    assert!(entries[6].sha256.is_none());
    assert_eq!(kind(tree(Path::new("/nowhere"), false, false).await), ErrorKind::NotFound);

    // A big one, through the window: names of this machine's own.
    let usr = tree(Path::new("/usr/share"), false, true).await.unwrap();
    assert!(usr.is_sorted_by_key(|e| Path::new(&e.path).to_owned()), "{} entries", usr.len());
    // Of /proc, below /, only the mount point itself is on the root's file system.
    let top = tree(Path::new("/proc"), false, true).await;
    assert!(top.is_ok() || matches!(top, Err(GuestError::Refused(_))));
}
