//! Host files on their way into a guest: what they contain from the tray, where it is there, else over the link.

use super::host_files::{HostFileError, HostFiles, Item, Kind, hexadecimal, open};
use super::tray::Inserted;
use crate::guest::{Guest, GuestError, GuestFiles};
use crate::support::wait::Patience;
use kiln_protocol::message::{MOST_PACKED, Packed, Put, Unpack};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Items that are asked for at once are as many as fit into this, in bytes.
const REQUEST: usize = 64 << 10;

impl HostFiles {
    /// Makes everything in the guest, owned by root; what is there is replaced. What is not on a tray goes
    /// over the link.
    pub async fn hand_over(
        &self,
        guest: &dyn Guest,
        tray: Option<&Inserted<'_>>,
        patience: &Patience,
    ) -> Result<(), HostFileError> {
        let mut batch = Batch { device: tray.map(|t| t.device.clone()), items: Vec::new(), bytes: 0 };
        for item in &self.items {
            match (item.packed(tray), &item.kind) {
                (Some(packed), _) => batch.add(packed, guest, patience).await?,
                (None, Kind::File { host, mode, digest, .. }) => {
                    batch.send(guest, patience).await?;
                    put(&item.path, *mode, (host, digest), guest, patience).await?;
                }
                (None, _) => unreachable!("only a file has contents"),
            }
        }
        batch.send(guest, patience).await
    }
}

impl Item {
    /// As a guest is told to make it; None for a file whose content is on no tray.
    fn packed(&self, tray: Option<&Inserted<'_>>) -> Option<Packed> {
        let path = self.path.clone();
        Some(match &self.kind {
            Kind::Folder { mode } => Packed::Folder { path, mode: *mode },
            Kind::Link { target } => Packed::Symlink { path, target: target.clone() },
            Kind::File { mode, bytes: 0, .. } => Packed::File { path, mode: *mode, offset: 0, length: 0 },
            Kind::File { mode, bytes, digest, .. } => {
                Packed::File { path, mode: *mode, offset: tray?.tray.place(digest)?, length: *bytes }
            }
        })
    }
}

/// Items for one request.
struct Batch {
    device: Option<String>,
    items: Vec<Packed>,
    bytes: usize,
}

impl Batch {
    /// Sends what is there when there is no room for another one.
    async fn add(
        &mut self,
        item: Packed,
        guest: &dyn Guest,
        patience: &Patience,
    ) -> Result<(), HostFileError> {
        let bytes = serde_json::to_vec(&item).expect("it is plain data").len() + 1;
        if self.items.len() == MOST_PACKED || self.bytes + bytes > REQUEST {
            self.send(guest, patience).await?;
        }
        self.items.push(item);
        self.bytes += bytes;
        Ok(())
    }

    async fn send(&mut self, guest: &dyn Guest, patience: &Patience) -> Result<(), HostFileError> {
        if self.items.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let items = std::mem::take(&mut self.items);
        let paths: Vec<String> = items.iter().map(|item| path_of(item).to_owned()).collect();
        let refused = |at: usize, source| HostFileError::Guest { path: paths[at].clone(), source };
        let unpack = Unpack { source: self.device.clone(), items };
        match guest.unpack(unpack, patience).await {
            Ok(None) => Ok(()),
            Ok(Some((at, failed))) => Err(refused(at, GuestError::Refused(failed))),
            // Nothing but the disk can make it refuse them all.
            Err(e @ GuestError::Refused(_)) => Err(HostFileError::Tray(e)),
            Err(e) => Err(refused(0, e)),
        }
    }
}

fn path_of(item: &Packed) -> &str {
    match item {
        Packed::Folder { path, .. } | Packed::File { path, .. } | Packed::Symlink { path, .. } => path,
    }
}

/// Brings one file over the link.
async fn put(
    path: &str,
    mode: u32,
    (host, digest): (&Path, &str),
    guest: &dyn Guest,
    patience: &Patience,
) -> Result<(), HostFileError> {
    let opening = tokio::task::spawn_blocking({
        let host = host.to_owned();
        move || open(&host)
    });
    let opened = patience.wait(&format!("opening {}", host.display()), opening).await?;
    let file = opened.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    let mut source = Digested { inner: file.into(), hash: Sha256::new() };
    let put = Put { path: path.into(), mode, owner: None, group: None, overwrite: true, parents: true };
    let written = guest.put(put, &mut source, patience).await;
    written.map_err(|source| HostFileError::Guest { path: path.into(), source })?;
    match hexadecimal(source.hash) == digest {
        true => Ok(()),
        false => Err(HostFileError::Changed(host.to_owned())),
    }
}

/// Digests what is read through it.
struct Digested {
    inner: tokio::fs::File,
    hash: Sha256,
}

impl AsyncRead for Digested {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, into);
        if let Poll::Ready(Ok(())) = poll {
            self.hash.update(&into.filled()[before..]);
        }
        poll
    }
}
