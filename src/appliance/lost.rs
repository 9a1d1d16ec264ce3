//! Why a link broke.

use std::time::Duration;

use crate::guest::GuestError;
use crate::machine::{Exit, Machine};
use crate::support::wait::Patience;

/// When a link breaks, the machine's end is mostly a moment away.
const MOMENT: Duration = Duration::from_secs(3);

/// A broken link is told by what broke it: the machine's end, if it has ended.
pub async fn explain(machine: &Machine, error: GuestError, patience: &Patience) -> GuestError {
    let GuestError::Lost { doing, reason } = error else { return error };
    let moment = Patience::new(MOMENT, &patience.cancel);
    let reason = match machine.wait_exit(&moment).await {
        Ok(Exit::GuestReset) => "the guest rebooted, though no step asked kiln for it".to_owned(),
        Ok(Exit::GuestShutdown) => "the guest powered off".to_owned(),
        Ok(exit) => format!("{exit}{}", last_words(machine)),
        Err(_) => format!("{reason}; the machine still runs{}", last_words(machine)),
    };
    GuestError::Lost { doing, reason }
}

fn last_words(machine: &Machine) -> String {
    match machine.console_tail(1).pop() {
        Some(line) if !line.trim().is_empty() => format!("; the console's last line: {}", line.trim()),
        _ => String::new(),
    }
}
