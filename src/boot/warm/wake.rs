//! From a state to a guest that is ready.

use std::path::Path;
use std::sync::Arc;

use super::known::{DISK, INITRD, KERNEL, Known, VARIABLES, extra};
use crate::appliance::warm::{Piece, State, WarmError, copy, file};
use crate::boot::guest::{BootedGuest, Lying};
use crate::boot::start::{BootRequest, Started};
use crate::boot::{Ready, Watch};
use crate::disk;
use crate::guest::inject::{Route, smbios};
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
    let known = Known::of(state)?;
    request.cloud_init = known.cloud_init.clone();
    private_folder(&request.folder).map_err(file("cannot make", &request.folder))?;
    let overlay = request.spec.disks[0].path.clone();
    let (source, extras, target) = (state.clone(), known.extras.len(), overlay.clone());
    let variables = request.folder.join(VARIABLES);
    let taking = tokio::task::spawn_blocking(move || unpack(&source, extras, &target, &variables));
    let taken = patience.wait("the kept guest's disk", taking).await?;
    taken.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    // It may have been kept by somebody who knew the parent by another path.
    disk::stand_on(&overlay, parent, patience).await?;

    let spec = specification(&request, state, &known);
    let machine_id = match known.own_machine_id {
        true => Some(random::hexadecimal(16).map_err(file("cannot read", Path::new("/dev/urandom")))?),
        false => None,
    };
    let (alive, nonce) = state.rouse(&spec, &request.folder, machine_id, patience).await?;
    watch.machine(alive.machine.identity(), alive.machine.folder());
    let ready = Ready { failed_units: known.failed_units };
    Ok(BootedGuest::stand(Lying { request, watch, alive, ready, started: Started { spec, nonce } }))
}

/// As the machine was that was saved; what was injected into it comes from the state.
fn specification(request: &BootRequest, state: &State, known: &Known) -> MachineSpec {
    let (mut spec, record) = (request.spec.clone(), state.record());
    for (index, serial) in known.extras.iter().enumerate() {
        let disk = Disk::new(state.file(&extra(index)), DiskFormat::Raw).read_only();
        spec.disks.push(Disk { serial: serial.clone(), ..disk });
    }
    if request.route == Route::Smbios {
        spec.credentials.push(Credential { name: smbios::NAME.into(), value: smbios::value() });
    }
    if let Some(command_line) = &record.command_line {
        let initrd = record.files.contains_key(INITRD).then(|| state.file(INITRD));
        let (kernel, command_line) = (state.file(KERNEL), command_line.clone());
        spec.kernel = Some(DirectKernel { kernel, initrd, command_line });
    }
    spec
}

/// Checks every file but the memory, which is checked on its way into the machine, and copies what a
/// guest writes on. Blocks.
fn unpack(state: &State, extras: usize, disk: &Path, variables: &Path) -> Result<(), WarmError> {
    let record = state.record();
    let given = |name: &str, target: &Path| {
        let path = state.file(name);
        let found = copy(&path, target, false)?;
        state.piece(name)?.must_be(&found, &path)
    };
    given(DISK, disk)?;
    if record.files.contains_key(VARIABLES) {
        given(VARIABLES, variables)?;
    }
    let mut read: Vec<String> = (0..extras).map(extra).collect();
    if record.command_line.is_some() {
        read.push(KERNEL.into());
        read.extend(record.files.contains_key(INITRD).then(|| INITRD.into()));
    }
    for name in read {
        let path = state.file(&name);
        let open = std::fs::File::open(&path).map_err(file("cannot read", &path))?;
        let (bytes, digest) =
            crate::machine::digested(open, std::io::sink()).map_err(file("cannot read", &path))?;
        state.piece(&name)?.must_be(&Piece { bytes, digest }, &path)?;
    }
    Ok(())
}
