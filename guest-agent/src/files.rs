//! File verbs: one request, one small reply.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use kiln_protocol::message::{ErrorKind, Reply};
use rustix::fs::OFlags;

use crate::error::{During, Outcome, failed};
use crate::request::Request;
use crate::transfer::Draft;
use crate::tree;
use crate::users::{self, Owner};
use crate::walk::Walk;

pub fn absolute(path: &str) -> Outcome<&Path> {
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(failed(ErrorKind::Invalid, format!("`{}` is no absolute path", path.display()))),
    }
}

/// Opens what can be read to its end: a pipe that nobody writes to would wait for ever.
pub fn open(path: &Path) -> Outcome<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = file.during("open", path.display())?;
    match file.metadata().during("open", path.display())?.file_type().is_fifo() {
        true => Err(failed(ErrorKind::Invalid, format!("open {}: it is a pipe", path.display()))),
        false => Ok(file),
    }
}

pub fn stat(path: &str, follow: bool) -> Outcome<Reply> {
    let path = absolute(path)?;
    match if follow { fs::metadata(path) } else { fs::symlink_metadata(path) } {
        Ok(metadata) => Ok(Reply::Stat(Some(tree::entry(path, &metadata)))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Reply::Stat(None))
        }
        Err(e) => Err(e).during("stat", path.display()),
    }
}

pub fn make_folder(
    path: &str,
    mode: u32,
    parents: bool,
    owner: Option<&str>,
    group: Option<&str>,
) -> Outcome<Reply> {
    let path = absolute(path)?;
    let owner = users::owner(owner, group)?;
    if parents {
        ensure_folder(path.parent().unwrap_or(path))?;
    }
    match fs::create_dir(path) {
        Err(e) if parents && e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(Reply::Nothing);
        }
        made => made.during("make the folder", path.display())?,
    }
    give(path, owner, false).during("give away", path.display())?;
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).during("chmod", path.display())?;
    Ok(Reply::Nothing)
}

/// Makes the folder and all above it that are missing, 0755 whatever the umask is.
pub fn ensure_folder(path: &Path) -> Outcome<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        ensure_folder(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
            .during("make the folder", path.display()),
    }
}

pub fn remove(path: &str, recursive: bool) -> Outcome<Reply> {
    let path = absolute(path)?;
    let metadata = fs::symlink_metadata(path).during("remove", path.display())?;
    match (metadata.is_dir(), recursive) {
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    }
    .during("remove", path.display())?;
    Ok(Reply::Nothing)
}

pub fn symlink(path: &str, target: &str, replace: bool) -> Outcome<Reply> {
    let path = absolute(path)?;
    let present = fs::symlink_metadata(path).ok();
    match present {
        Some(m) if replace && !m.is_dir() => {
            let draft = Draft::name_beside(path)?;
            std::os::unix::fs::symlink(target, draft.path()).during("link", path.display())?;
            draft.place(path, true)?;
        }
        _ => std::os::unix::fs::symlink(target, path).during("link", path.display())?,
    }
    Ok(Reply::Nothing)
}

pub fn chmod(request: &Request, path: &str, mode: u32, recursive: bool) -> Outcome<Reply> {
    if mode > 0o7777 {
        return Err(failed(ErrorKind::Invalid, format!("{mode:o} is no file mode")));
    }
    let set =
        |path: &Path| fs::set_permissions(path, Permissions::from_mode(mode)).during("chmod", path.display());
    let path = absolute(path)?;
    if !recursive {
        set(path)?;
        return Ok(Reply::Nothing);
    }
    // Inside out: a folder may lose the bits that let one go into it.
    let mut folders = Vec::new();
    for found in Walk::new(path, false)? {
        request.check()?;
        let (path, metadata) = found?;
        match metadata.file_type() {
            t if t.is_dir() => folders.push(path),
            // A link has no mode of its own, and what it points to may lie elsewhere.
            t if t.is_symlink() => {}
            _ => set(&path)?,
        }
    }
    folders.iter().rev().try_for_each(|path| set(path))?;
    Ok(Reply::Nothing)
}

pub fn chown(
    request: &Request,
    path: &str,
    owner: &str,
    group: Option<&str>,
    recursive: bool,
) -> Outcome<Reply> {
    let path = absolute(path)?;
    let owner = users::owner(Some(owner), group)?;
    if !recursive {
        give(path, owner, true).during("chown", path.display())?;
        return Ok(Reply::Nothing);
    }
    for found in Walk::new(path, false)? {
        request.check()?;
        let (path, _) = found?;
        give(&path, owner, false).during("chown", path.display())?;
    }
    Ok(Reply::Nothing)
}

pub fn give(path: &Path, owner: Owner, follow: bool) -> io::Result<()> {
    match (owner.user, owner.group, follow) {
        (None, None, _) => Ok(()),
        (user, group, true) => std::os::unix::fs::chown(path, user, group),
        (user, group, false) => lchown(path, user, group),
    }
}
