//! Paths of an image that is mounted in the appliance, without a link that would lead out of it.

use kiln_protocol::message::EntryKind;

use crate::guest::{Guest, GuestError, GuestFiles};
use crate::support::wait::Patience;

/// Links on the way to one file; Linux follows no more.
const LINKS: usize = 40;

/// How many more paths of one disk are looked at.
#[derive(Debug)]
pub(super) struct Budget(pub usize);

/// Where `path` of the image mounted at `place` really is, seen from outside of it: links are
/// followed as if `place` were the root. None if it is not there, or too far to go.
pub(super) async fn resolve<G: Guest + ?Sized>(
    guest: &G,
    place: &str,
    path: &str,
    budget: &mut Budget,
    patience: &Patience,
) -> Result<Option<(String, EntryKind)>, GuestError> {
    let mut ahead = Vec::new();
    push(&mut ahead, path);
    let mut behind: Vec<String> = Vec::new();
    let (mut kind, mut links) = (EntryKind::Folder, 0);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            behind.pop();
            kind = EntryKind::Folder;
            continue;
        }
        if kind != EntryKind::Folder {
            return Ok(None);
        }
        behind.push(part);
        let Some(left) = budget.0.checked_sub(1) else { return Ok(None) };
        budget.0 = left;
        let entry = match guest.stat(&join(place, &behind), false, patience).await {
            Ok(Some(entry)) => entry,
            // A name that is too long is not there either.
            Ok(None) | Err(GuestError::Refused(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        kind = entry.kind;
        if kind == EntryKind::Symlink {
            links += 1;
            let target = entry.target.unwrap_or_default();
            if links > LINKS || target.is_empty() {
                return Ok(None);
            }
            if target.starts_with('/') {
                behind.clear();
            } else {
                behind.pop();
            }
            push(&mut ahead, &target);
            kind = EntryKind::Folder;
        }
    }
    Ok(Some((join(place, &behind), kind)))
}

/// The parts of a path on top of what is still to be walked, first part last.
fn push(ahead: &mut Vec<String>, path: &str) {
    ahead.extend(path.split('/').rev().filter(|p| !matches!(*p, "" | ".")).map(str::to_owned));
}

fn join(place: &str, parts: &[String]) -> String {
    parts.iter().fold(place.to_owned(), |path, part| path + "/" + part)
}
