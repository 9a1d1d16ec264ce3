//! Ctrl-C: once is a clean cancel, twice is at once.

use crate::model::{Failure, FailureKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Fires `cancel` at the first SIGINT, SIGTERM or SIGHUP; ends the process at the second SIGINT or SIGTERM.
///
/// At once is safe: machines die with this process (parent-death signal), and
/// the next kiln command that finds the build's lock free undoes what it left.
pub fn watch(cancel: CancellationToken) -> Result<(), Failure> {
    let on = |kind| signal(kind).map_err(|e| Failure::from_error(FailureKind::Environment, &e));
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = on(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            () = any(&mut interrupt, &mut terminate) => {}
            _ = hangup.recv() => {}
        }
        // Before anything that may not work: after a hang-up there is mostly no terminal to write to.
        cancel.cancel();
        tell!("\ncancelling (once more: stop at once)");
        // A closed terminal hangs up twice: the kernel does, and the shell for all its jobs.
        any(&mut interrupt, &mut terminate).await;
        tell!("stopped; the next kiln command cleans up");
        std::process::exit(130);
    });
    Ok(())
}

async fn any(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
