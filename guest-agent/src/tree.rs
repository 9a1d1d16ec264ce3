//! Listing trees: streamed for whole disks, in bounded pieces for questions.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_protocol::frame::{CHUNK, HEADER, Kind};
use kiln_protocol::message::{Algorithm, Entry, EntryKind, Reply, Tree};

use crate::error::{During, Outcome};
use crate::extents;
use crate::files::absolute;
use crate::hash::Hasher;
use crate::request::Request;
use crate::walk::Walk;

/// A `List` reply ends before its text gets longer than this.
const REPLY_SIZE: usize = 96 * 1024;

/// Sends the tree as lines of JSON.
pub fn send(request: &Request, tree: &Tree) -> Outcome<Reply> {
    let mut lines = vec![0; HEADER];
    let mut bytes = 0;
    let mut hasher = Hasher::new(request);
    for found in Walk::new(absolute(&tree.root)?, tree.one_filesystem)? {
        request.check()?;
        let (path, metadata) = found?;
        let mut entry = entry(&path, &metadata);
        // A name that is not UTF-8 is sent as another one: nobody could ask for that file later.
        let digest = tree.digests || (tree.extents && path.to_str().is_none());
        if digest && entry.kind == EntryKind::File {
            entry.sha256 = match hasher.digest(&path, Algorithm::Sha256) {
                Err(gone) if gone.kind == kiln_protocol::message::ErrorKind::NotFound => continue,
                digest => Some(digest?),
            };
        }
        if tree.extents && entry.kind == EntryKind::File {
            entry.extents = extents::of(&path);
        }
        let _ = serde_json::to_writer(&mut lines, &entry);
        lines.push(b'\n');
        if lines.len() > CHUNK / 2 {
            bytes += flush(request, &mut lines)?;
        }
    }
    bytes += flush(request, &mut lines)?;
    request.output(Kind::Output, &mut lines[..HEADER]);
    Ok(Reply::Sent { bytes })
}

/// Sends what stands in `lines` behind the room for a header, and leaves that room only.
fn flush(request: &Request, lines: &mut Vec<u8>) -> Outcome<u64> {
    let total = lines.len() - HEADER;
    let mut sent = HEADER;
    while sent < lines.len() {
        let piece = request.wait_for_room()?.min(lines.len() - sent);
        // The header goes over bytes that have been sent before.
        request.output(Kind::Output, &mut lines[sent - HEADER..sent + piece]);
        sent += piece;
    }
    lines.truncate(HEADER);
    Ok(total as u64)
}

pub fn list(
    request: &Request,
    path: &str,
    recursive: bool,
    after: Option<&str>,
    limit: u32,
) -> Outcome<Reply> {
    let root = absolute(path)?;
    let after = after.map(Path::new);
    let mut entries: Vec<Entry> = Vec::new();
    let mut size = 0;
    // The question is about a folder, so a link to one is followed.
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.into());
    let mut walk = Walk::new(&root, false)?;
    while let Some(found) = walk.next() {
        request.check()?;
        let (path, metadata) = found?;
        if path == root {
            if !metadata.is_dir() {
                fs::read_dir(&path).during("list", path.display())?;
            }
            continue;
        }
        let before = after.is_some_and(|after| path.as_path() <= after);
        if !recursive || (before && !after.is_some_and(|after| after.starts_with(&path))) {
            walk.prune();
        }
        if before {
            continue;
        }
        let entry = entry(&path, &metadata);
        size += 200 + entry.path.len() + entry.target.as_ref().map_or(0, String::len);
        if entries.len() >= limit as usize || size > REPLY_SIZE {
            return Ok(Reply::List { entries, more: true });
        }
        entries.push(entry);
    }
    Ok(Reply::List { entries, more: false })
}

pub fn entry(path: &Path, metadata: &Metadata) -> Entry {
    let kind = match metadata.file_type() {
        t if t.is_file() => EntryKind::File,
        t if t.is_dir() => EntryKind::Folder,
        t if t.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let target = (kind == EntryKind::Symlink).then(|| fs::read_link(path).ok()).flatten();
    Entry {
        path: path.to_string_lossy().into_owned(),
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size(),
        modified: metadata.mtime(),
        target: target.map(|t| t.to_string_lossy().into_owned()),
        sha256: None,
        extents: None,
    }
}
