//! Ctrl-C: once is a clean cancel, twice is at once.

use crate::model::{Failure, FailureKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Fires `cancel` at the first SIGINT, SIGTERM or SIGHUP; ends the process at the second SIGINT or SIGTERM.
///
/// A signal that kiln was started deaf to stays unheard: SIGHUP under nohup, SIGINT in a script's background.
///
/// At once is safe: machines die with this process (parent-death signal), and
/// the next kiln command that finds the build's lock free undoes what it left.
pub fn watch(cancel: CancellationToken) -> Result<(), Failure> {
    let ignored = ignored();
    let on = |kind: SignalKind| match ignored & (1 << (kind.as_raw_value() - 1)) {
        0 => signal(kind).map(Some).map_err(|e| Failure::from_error(FailureKind::Environment, &e)),
        _ => Ok(None),
    };
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = on(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            () = any(&mut interrupt, &mut terminate) => {}
            () = one(&mut hangup) => {}
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

async fn any(a: &mut Option<Signal>, b: &mut Option<Signal>) {
    tokio::select! {
        () = one(a) => {}
        () = one(b) => {}
    }
}

async fn one(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// A bit for each signal, number 1 the lowest. Where the kernel does not tell, none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
