//! From a state to a guest that is ready.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::file;
use super::nap::rouse;
use super::record::{DISK, INITRD, KERNEL, Piece, Record, VARIABLES, copy, extra};
use super::{State, WarmError};
use crate::boot::guest::{BootedGuest, Lying};
use crate::boot::start::{BootRequest, Started};
use crate::boot::{Ready, Watch};
use crate::disk;
use crate::guest::inject::{Route, smbios};
use crate::guest::session::Waking;
use crate::machine::{Credential, DirectKernel, Disk, MachineSpec};
use crate::model::DiskFormat;
use crate::support::files::private_folder;
use crate::support::random;
use crate::support::wait::Patience;

/// Wakes a guest. The request is that of an ordinary boot of the same machine; its first disk is made
/// here, on the qcow2 disk `parent`, and replaces what may be there. Later boots of the guest are ordinary ones.
pub async fn wake(
    state: &State,
    mut request: BootRequest,
    parent: &Path,
    watch: Arc<dyn Watch>,
    patience: &Patience,
) -> Result<BootedGuest, WarmError> {
    let record = &state.record;
    request.cloud_init = record.known.cloud_init.clone();
    private_folder(&request.folder).map_err(file("cannot make", &request.folder))?;
    let overlay = request.spec.disks[0].path.clone();
    let (source, target) = (state.clone(), overlay.clone());
    let variables = request.folder.join(VARIABLES);
    let taking = tokio::task::spawn_blocking(move || source.unpack(&target, &variables));
    let taken = patience.wait("the kept guest's disk", taking).await?;
    taken.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    // It may have been kept by somebody who knew the parent by another path.
    disk::stand_on(&overlay, parent, patience).await?;

    let spec = specification(&request, record, &state.folder);
    let memory = record.memory(&state.folder)?;
    let machine_id = match record.own_machine_id {
        true => Some(random::hexadecimal(16).map_err(file("cannot read", Path::new("/dev/urandom")))?),
        false => None,
    };
    let waking = Waking { nonce: record.nonce.clone(), machine_id };
    let (alive, nonce) = rouse(&memory, &spec, &request.folder, &waking, patience).await?;
    watch.machine(alive.machine.identity(), alive.machine.folder());
    state.touch();
    let ready = Ready { failed_units: record.known.failed_units.clone() };
    Ok(BootedGuest::stand(Lying { request, watch, alive, ready, started: Started { spec, nonce } }))
}

/// As the machine was that was saved; what was injected into it comes from the state.
fn specification(request: &BootRequest, record: &Record, folder: &Path) -> MachineSpec {
    let mut spec = request.spec.clone();
    for (index, serial) in record.extras.iter().enumerate() {
        let disk = Disk::new(folder.join(extra(index)), DiskFormat::Raw).read_only();
        spec.disks.push(Disk { serial: serial.clone(), ..disk });
    }
    if request.route == Route::Smbios {
        spec.credentials.push(Credential { name: smbios::NAME.into(), value: smbios::value() });
    }
    if let Some(command_line) = &record.command_line {
        let initrd: Option<PathBuf> = record.files.contains_key(INITRD).then(|| folder.join(INITRD));
        spec.kernel =
            Some(DirectKernel { kernel: folder.join(KERNEL), initrd, command_line: command_line.clone() });
    }
    spec
}

impl State {
    /// Checks every file but the memory, which is checked on its way into the machine, and copies what a
    /// guest writes on. Blocks.
    fn unpack(&self, disk: &Path, variables: &Path) -> Result<(), WarmError> {
        let given = |name: &str, target: &Path| {
            let path = self.folder.join(name);
            let found = copy(&path, target, false)?;
            self.record.piece(&self.folder, name)?.must_be(&found, &path)
        };
        given(DISK, disk)?;
        if self.record.files.contains_key(VARIABLES) {
            given(VARIABLES, variables)?;
        }
        let mut read: Vec<String> = (0..self.record.extras.len()).map(extra).collect();
        if self.record.command_line.is_some() {
            read.push(KERNEL.into());
            read.extend(self.record.files.contains_key(INITRD).then(|| INITRD.into()));
        }
        for name in read {
            let path = self.folder.join(&name);
            let open = std::fs::File::open(&path).map_err(file("cannot read", &path))?;
            let (bytes, digest) =
                crate::machine::digested(open, std::io::sink()).map_err(file("cannot read", &path))?;
            self.record.piece(&self.folder, &name)?.must_be(&Piece { bytes, digest }, &path)?;
        }
        Ok(())
    }
}
