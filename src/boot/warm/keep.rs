//! From a guest that has booted to a state that is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::known::{DISK, INITRD, KERNEL, Known, VARIABLES, extra};
use crate::appliance::warm::{
    Identity, MEMORY, Piece, Record, State, Store, WarmError, copy, file, lay_down,
};
use crate::boot::guest::{BootedGuest, Lying};
use crate::boot::{CloudInit, Holds};
use crate::support::files::private_folder;
use crate::support::wait::Patience;

/// What is kept, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub identity: &'a Identity,
    /// For people: `debian-12`.
    pub title: &'a str,
    pub holds: Holds,
    /// The disk brings its machine id along.
    pub machine_id: bool,
}

/// Keeps a guest as it is now, just booted, and ends its machine. `staging` is a new folder on the home's
/// file system that the caller removes, whatever comes of this.
pub async fn keep(
    store: &Store,
    guest: BootedGuest,
    about: About<'_>,
    staging: &Path,
    patience: &Patience,
) -> Result<State, WarmError> {
    let Lying { request, alive, ready, started, .. } = guest.lie_down().ok_or(WarmError::Busy)?;
    if matches!(request.cloud_init, CloudInit::FirstBoot { .. }) {
        return Err(WarmError::Foreign("it was told what is one guest's alone".into()));
    }
    private_folder(staging).map_err(file("cannot make", staging))?;
    let memory = lay_down(alive, &staging.join(MEMORY), patience).await?;

    let spec = &started.spec;
    let mut wanted: Vec<(String, PathBuf)> = vec![(DISK.into(), spec.disks[0].path.clone())];
    wanted.extend(spec.disks[1..].iter().enumerate().map(|(index, d)| (extra(index), d.path.clone())));
    if let Some(kernel) = &spec.kernel {
        wanted.push((KERNEL.into(), kernel.kernel.clone()));
        wanted.extend(kernel.initrd.iter().map(|initrd| (INITRD.into(), initrd.clone())));
    }
    if spec.has_uefi() {
        wanted.push((VARIABLES.into(), request.folder.join(VARIABLES)));
    }
    let folder = staging.to_owned();
    let copying = tokio::task::spawn_blocking(move || {
        let copied = wanted.into_iter().map(|(name, path)| {
            let piece = copy(&path, &folder.join(&name), true)?;
            Ok::<_, WarmError>((name, piece))
        });
        copied.collect::<Result<BTreeMap<String, Piece>, WarmError>>()
    });
    let copied = patience.wait("copying what the guest stands on", copying).await?;
    let mut files = copied.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    let mut record = Record::new(about.title, about.identity, &started.nonce, spec, memory);
    record.files.append(&mut files);
    let known = Known {
        holds: about.holds,
        cloud_init: request.cloud_init.clone(),
        failed_units: ready.failed_units,
        own_machine_id: !about.machine_id,
        extras: spec.disks[1..].iter().map(|d| d.serial.clone()).collect(),
    };
    record.known = serde_json::to_value(known).expect("it is plain data");
    record.write(staging)?;
    store.add(staging, about.identity)
}
