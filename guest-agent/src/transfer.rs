//! Bulk data: file content in and out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_protocol::frame::{HEADER, Kind};
use kiln_protocol::message::{ErrorKind, Put, Reply};

use crate::error::{During, Outcome, failed};
use crate::files::{absolute, ensure_folder, give, open};
use crate::request::Request;
use crate::users::{self, Owner};

/// A file that goes away again unless it is put in its place.
pub struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Draft {
    /// An empty file (0600) in the same folder as `target`, so that it can be renamed to it.
    pub fn beside(target: &Path) -> Outcome<(Draft, File)> {
        let path = draft_name(target)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.during("create a file for", target.display())?;
        Ok((Draft { path, kept: false }, file))
    }

    /// For what is no regular file: a name that whatever is made under gets removed again.
    pub fn name_beside(target: &Path) -> Outcome<Draft> {
        Ok(Draft { path: draft_name(target)?, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the target's name.
    pub fn place(mut self, target: &Path, overwrite: bool) -> Outcome<()> {
        if !overwrite && fs::symlink_metadata(target).is_ok() {
            return Err(exists(target));
        }
        fs::rename(&self.path, target).during("write", target.display())?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn draft_name(target: &Path) -> Outcome<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = target.parent().filter(|_| target.file_name().is_some());
    let folder = folder
        .ok_or_else(|| failed(ErrorKind::Invalid, format!("{}: no place for a file", target.display())))?;
    Ok(folder.join(format!(".kiln-{}-{number}", std::process::id())))
}

pub fn exists(path: &Path) -> kiln_protocol::message::Failed {
    failed(ErrorKind::Exists, format!("{}: exists already", path.display()))
}

pub fn put(request: &Request, put: &Put) -> Outcome<Reply> {
    let path = absolute(&put.path)?;
    let owner = users::owner(put.owner.as_deref(), put.group.as_deref())?;
    if put.parents {
        ensure_folder(path.parent().unwrap_or(path))?;
    }
    let mut reply = Reply::Nothing;
    replace(path, put.mode, owner, put.overwrite, &mut |file| {
        reply = drain(request, file, path)?;
        Ok(())
    })?;
    Ok(reply)
}

/// Makes a file, or puts another one into its place, whole or not at all.
pub fn replace(
    path: &Path,
    mode: u32,
    owner: Owner,
    overwrite: bool,
    fill: &mut dyn FnMut(&File) -> Outcome<()>,
) -> Outcome<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => {
            return Err(failed(ErrorKind::Exists, format!("{}: is a folder", path.display())));
        }
        Ok(_) if !overwrite => return Err(exists(path)),
        _ => {}
    }
    let (draft, file) = Draft::beside(path)?;
    fill(&file)?;
    finish(&file, draft.path(), mode, owner).during("write", path.display())?;
    draft.place(path, overwrite)
}

/// Owner before mode: a change of owner clears the set-user-id bit.
///
/// It is not synced: a guest that ends out of order is not made an image of, and syncing each of many
/// small files takes most of the time of bringing them.
fn finish(file: &File, path: &Path, mode: u32, owner: Owner) -> std::io::Result<()> {
    give(path, owner, false)?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
}

pub fn append(request: &Request, path: &str) -> Outcome<Reply> {
    let path = absolute(path)?;
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    drain(request, &file.during("open", path.display())?, path)
}

pub fn write_at(request: &Request, path: &str, offset: u64) -> Outcome<Reply> {
    let path = absolute(path)?;
    let mut file = OpenOptions::new().write(true).open(path).during("open", path.display())?;
    file.seek(SeekFrom::Start(offset)).during("go to the offset in", path.display())?;
    let reply = drain(request, &file, path)?;
    file.sync_all().during("write", path.display())?;
    Ok(reply)
}

/// Writes the input stream to a file.
fn drain(request: &Request, mut file: &File, path: &Path) -> Outcome<Reply> {
    let mut bytes = 0;
    while let Some(piece) = request.input()? {
        file.write_all(&piece).during("write", path.display())?;
        bytes += piece.len() as u64;
        request.grant(piece.len());
    }
    Ok(Reply::Written { bytes })
}

pub fn get(request: &Request, path: &str, offset: u64, length: Option<u64>) -> Outcome<Reply> {
    let path = absolute(path)?;
    let mut file = open(path)?;
    // Files of /proc cannot be read at an offset.
    let from_start = offset == 0;
    let mut buffer = vec![0; HEADER];
    let mut bytes = 0;
    let left = |bytes| length.map_or(u64::MAX, |length| length - bytes);
    while left(bytes) > 0 {
        let room = (request.wait_for_room()? as u64).min(left(bytes)) as usize;
        buffer.resize(HEADER + room, 0);
        let space = &mut buffer[HEADER..];
        let read = if from_start { file.read(space) } else { file.read_at(space, offset + bytes) };
        let n = read.during("read", path.display())?;
        if n == 0 {
            break;
        }
        request.output(Kind::Output, &mut buffer[..HEADER + n]);
        bytes += n as u64;
    }
    request.output(Kind::Output, &mut buffer[..HEADER]);
    Ok(Reply::Sent { bytes })
}
