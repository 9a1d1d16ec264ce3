//! Copying and moving within the guest.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_protocol::message::{ErrorKind, Reply};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, mknodat, renameat_with, utimensat,
};
use rustix::io::Errno;

use crate::error::{During, Outcome, failed};
use crate::files::{absolute, give, open};
use crate::request::Request;
use crate::transfer::{Draft, exists};
use crate::users::Owner;
use crate::walk::Walk;

pub fn copy(
    request: &Request,
    source: &str,
    target: &str,
    recursive: bool,
    overwrite: bool,
) -> Outcome<Reply> {
    let (source, target) = (absolute(source)?, absolute(target)?);
    // The source itself may be a link to what is meant; links below it are copied as links.
    let metadata = fs::metadata(source).during("copy", source.display())?;
    match (metadata.is_dir(), recursive) {
        (false, _) => one(request, source, &metadata, target, overwrite)?,
        (true, true) => {
            tree(request, &fs::canonicalize(source).during("copy", source.display())?, target, overwrite)?
        }
        (true, false) => {
            return Err(failed(
                ErrorKind::Invalid,
                format!("copy {}: it is a folder, and the copy is not recursive", source.display()),
            ));
        }
    }
    Ok(Reply::Nothing)
}

fn tree(request: &Request, source: &Path, target: &Path, overwrite: bool) -> Outcome<()> {
    // Below itself it would have no end. The target may not exist yet, so its parent is what can be resolved.
    let real = target.parent().and_then(|p| fs::canonicalize(p).ok()).unwrap_or_default();
    if real.starts_with(source) {
        return Err(failed(
            ErrorKind::Invalid,
            format!("copy {} into itself, to {}", source.display(), target.display()),
        ));
    }
    let mut folders: Vec<(PathBuf, Metadata)> = Vec::new();
    for found in Walk::new(source, false)? {
        request.check()?;
        let (path, metadata) = found?;
        let below = path.strip_prefix(source).unwrap_or(Path::new(""));
        let copy = if below.as_os_str().is_empty() { target.to_owned() } else { target.join(below) };
        if !metadata.is_dir() {
            one(request, &path, &metadata, &copy, overwrite)?;
            continue;
        }
        match fs::create_dir(&copy) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && copy.is_dir() => {
                if !overwrite {
                    return Err(exists(&copy));
                }
            }
            made => made.during("make the folder", copy.display())?,
        }
        folders.push((copy, metadata));
    }
    // Modes and times last: a read-only folder could not be filled, and filling it changes its time.
    for (copy, metadata) in folders.iter().rev() {
        like(copy, metadata)?;
    }
    Ok(())
}

/// Copies anything but a folder, under another name first.
fn one(request: &Request, source: &Path, metadata: &Metadata, target: &Path, overwrite: bool) -> Outcome<()> {
    match fs::symlink_metadata(target) {
        Ok(_) if !overwrite => return Err(exists(target)),
        Ok(there) if there.is_dir() => {
            return Err(failed(ErrorKind::Exists, format!("{}: is a folder", target.display())));
        }
        Ok(there) if there.ino() == metadata.ino() && there.dev() == metadata.dev() => return Ok(()),
        _ => {}
    }
    let kind = metadata.file_type();
    let draft = if kind.is_file() {
        let (draft, file) = Draft::beside(target)?;
        content(request, source, &file, target)?;
        draft
    } else {
        let draft = Draft::name_beside(target)?;
        if kind.is_symlink() {
            let to = fs::read_link(source).during("read", source.display())?;
            std::os::unix::fs::symlink(to, draft.path()).during("link", target.display())?;
        } else {
            let node = match kind {
                k if k.is_fifo() => FileType::Fifo,
                k if k.is_socket() => FileType::Socket,
                k if k.is_block_device() => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            mknodat(CWD, draft.path(), node, Mode::from_raw_mode(0o600), metadata.rdev())
                .during("make the special file", target.display())?;
        }
        draft
    };
    like(draft.path(), metadata)?;
    draft.place(target, overwrite)
}

fn content(request: &Request, source: &Path, mut to: &File, target: &Path) -> Outcome<()> {
    let from = open(source)?;
    // In pieces, so that it can be called off; io::copy lets the kernel do it where it can.
    const PIECE: u64 = 16 * 1024 * 1024;
    loop {
        request.check()?;
        let n = io::copy(&mut io::Read::take(&from, PIECE), &mut to)
            .during(&format!("copy {} to", source.display()), target.display())?;
        if n < PIECE {
            return Ok(());
        }
    }
}

/// Gives `path` owner, mode and times of the original. Who is not root keeps what it makes.
fn like(path: &Path, original: &Metadata) -> Outcome<()> {
    if rustix::process::geteuid().is_root() {
        let owner = Owner { user: Some(original.uid()), group: Some(original.gid()) };
        give(path, owner, false).during("chown", path.display())?;
    }
    if !original.file_type().is_symlink() {
        fs::set_permissions(path, Permissions::from_mode(original.mode() & 0o7777))
            .during("chmod", path.display())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: original.atime(), tv_nsec: original.atime_nsec() },
        last_modification: Timespec { tv_sec: original.mtime(), tv_nsec: original.mtime_nsec() },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", path.display())
}

pub fn rename(request: &Request, source: &str, target: &str, overwrite: bool) -> Outcome<Reply> {
    let (source, target) = (absolute(source)?, absolute(target)?);
    let what = format!("rename {} to", source.display());
    let renamed = match overwrite {
        true => rustix::fs::rename(source, target),
        false => match renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE) {
            // Not every file system can do it in one step.
            Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(target).is_ok() => Err(Errno::EXIST),
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(source, target),
            other => other,
        },
    };
    match renamed {
        Err(Errno::XDEV) => across(request, source, target, overwrite)?,
        other => other.during(&what, target.display())?,
    }
    Ok(Reply::Nothing)
}

fn across(request: &Request, source: &Path, target: &Path, overwrite: bool) -> Outcome<()> {
    let metadata = fs::symlink_metadata(source).during("move", source.display())?;
    if metadata.is_dir() {
        if fs::symlink_metadata(target).is_ok() {
            return Err(exists(target));
        }
        tree(request, source, target, false)?;
        return fs::remove_dir_all(source).during("remove", source.display());
    }
    one(request, source, &metadata, target, overwrite)?;
    fs::remove_file(source).during("remove", source.display())
}
