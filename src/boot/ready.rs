//! When a boot is over: systemd has settled and cloud-init has ended.
//!
//! The agent says hello 10 s and more before that, in the middle of the boot;
//! a step that ran then would race with half the services of the guest.

use crate::guest::{Guest, GuestError, GuestFiles};
use crate::support::text::printable;
use crate::support::wait::{Impatience, Patience};
use kiln_protocol::message::Exec;
use std::time::Duration;
use tokio::time::Instant;

/// Characters of a unit's name that are shown: it is short and plain, whatever else the guest sends is cut.
const SHOWN: usize = 120;
/// How often a wait that goes on is told, with what it waits for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often systemd is asked for its jobs: under emulation that costs the guest 0.4 CPU s.
const ASK_EVERY: Duration = Duration::from_secs(20);
/// Between looks at something that costs the guest no process.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Of the names of jobs or units that are told, at most so many.
const NAMES: usize = 5;
/// Output of systemctl that is kept, in bytes.
const OUTPUT: usize = 64 << 10;

/// A boot that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// systemd is `degraded`: these units failed.
    pub failed_units: Vec<String>,
}

/// What a boot waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub what: String,
    pub since: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the guest's boot ended in systemd's {0} mode, where somebody has to log in")]
    Rescue(String),
    #[error("the guest is going down instead of coming up (systemd is `{0}`)")]
    GoingDown(String),
    #[error("the guest's boot was not over in time: it still waits for {what}")]
    Slow {
        what: String,
        #[source]
        limit: Impatience,
    },
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl NotReady {
    /// What to do next, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            NotReady::Rescue(_) => {
                Some("A mount of /etc/fstab or a unit that the boot needs failed: the console names it.")
            }
            NotReady::GoingDown(_) => Some("Something in the guest stops or reboots it while it boots."),
            NotReady::Slow { .. } => Some(
                "A unit that does not end keeps every boot of this image from being over; a slow host may need a longer `kiln: {timeouts: {boot: ...}}`.",
            ),
            NotReady::Guest(e) => e.hint(),
        }
    }
}

/// Waits until the boot is over. `tell` is called every few seconds with what it waits for.
pub async fn wait(
    guest: &dyn Guest,
    tell: &(dyn Fn(Waiting) + Sync),
    patience: &Patience,
) -> Result<Ready, NotReady> {
    let begun = Instant::now();
    if guest.facts(patience).await?.init != "systemd" {
        return Ok(Ready::default());
    }
    let told = |what: &str| tell(Waiting { what: what.to_owned(), since: begun.elapsed() });
    let state = settled(guest, &told, patience).await?;
    let failed_units = match state.as_str() {
        "running" => Vec::new(),
        "degraded" => names(guest, &["list-units", "--failed"], patience).await?,
        "maintenance" => return Err(NotReady::Rescue(rescue_kind(guest, patience).await)),
        _ => return Err(NotReady::GoingDown(state)),
    };
    cloud_init_ended(guest, &told, patience).await?;
    Ok(Ready { failed_units })
}

/// systemd's word for its state once the boot's jobs are done.
async fn settled(
    guest: &dyn Guest,
    told: &(dyn Fn(&str) + Sync),
    patience: &Patience,
) -> Result<String, NotReady> {
    let mut waits_for = "systemd".to_owned();
    let mut asked: Option<Instant> = None;
    loop {
        // One process that waits, instead of many that ask: each costs an emulated guest 0.2 CPU s.
        let asking = systemctl(guest, &["is-system-running", "--wait"], patience);
        tokio::pin!(asking);
        let state = loop {
            tokio::select! {
                biased;
                answer = &mut asking => break answer,
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
            if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
                let jobs = jobs(guest, &patience.at_most(TELL_EVERY)).await.unwrap_or_default();
                if !jobs.is_empty() {
                    waits_for = format!("systemd: {}", listed(&jobs));
                }
                asked = Some(Instant::now());
            }
            told(&waits_for);
        };
        match state {
            // Too early for systemctl to find systemd, or for --wait to hold.
            Ok(state)
                if matches!(state.as_str(), "" | "offline" | "initializing" | "starting" | "unknown") => {}
            Ok(state) => return Ok(state),
            Err(GuestError::Impatience(limit @ Impatience::TimedOut { .. })) => {
                return Err(NotReady::Slow { what: waits_for, limit });
            }
            Err(e) => return Err(e.into()),
        }
        let pause = patience.wait("systemd", tokio::time::sleep(LOOK_EVERY)).await;
        pause.map_err(|e| slow_or_cancelled(e, &waits_for))?;
    }
}

/// cloud-init writes its result when its last stage has ended, whatever came of it.
async fn cloud_init_ended(
    guest: &dyn Guest,
    told: &(dyn Fn(&str) + Sync),
    patience: &Patience,
) -> Result<(), NotReady> {
    if guest.stat("/run/cloud-init/enabled", true, patience).await?.is_none() {
        return Ok(());
    }
    let mut told_at = Instant::now();
    while guest.stat("/run/cloud-init/result.json", true, patience).await?.is_none() {
        if told_at.elapsed() >= TELL_EVERY {
            told("cloud-init");
            told_at = Instant::now();
        }
        let pause = patience.wait("cloud-init", tokio::time::sleep(LOOK_EVERY)).await;
        pause.map_err(|e| slow_or_cancelled(e, "cloud-init"))?;
    }
    Ok(())
}

fn slow_or_cancelled(e: Impatience, what: &str) -> NotReady {
    match e {
        Impatience::TimedOut { .. } => NotReady::Slow { what: what.to_owned(), limit: e },
        Impatience::Cancelled { .. } => NotReady::Guest(e.into()),
    }
}

/// `emergency`, `rescue`, or what systemd itself calls both.
async fn rescue_kind(guest: &dyn Guest, patience: &Patience) -> String {
    for kind in ["emergency", "rescue"] {
        let unit = format!("{kind}.target");
        if systemctl(guest, &["is-active", &unit], patience).await.is_ok_and(|s| s == "active") {
            return kind.to_owned();
        }
    }
    "maintenance".to_owned()
}

/// Units that are being started or stopped; those that only wait for others are not the cause.
async fn jobs(guest: &dyn Guest, patience: &Patience) -> Result<Vec<String>, GuestError> {
    let text = systemctl(guest, &["list-jobs", "--no-legend", "--plain"], patience).await?;
    let running = text.lines().filter(|l| l.trim_end().ends_with(" running"));
    Ok(running.filter_map(|l| l.split_whitespace().nth(1)).map(|name| printable(name, SHOWN)).collect())
}

/// First words of the lines that systemctl prints: names of units.
async fn names(
    guest: &dyn Guest,
    arguments: &[&str],
    patience: &Patience,
) -> Result<Vec<String>, GuestError> {
    let mut all = arguments.to_vec();
    all.extend(["--no-legend", "--plain"]);
    let text = systemctl(guest, &all, patience).await?;
    Ok(text.lines().filter_map(|l| l.split_whitespace().next()).map(|name| printable(name, SHOWN)).collect())
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let mut text = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

async fn systemctl(guest: &dyn Guest, arguments: &[&str], patience: &Patience) -> Result<String, GuestError> {
    let argv = std::iter::once("systemctl").chain(arguments.iter().copied()).map(str::to_owned).collect();
    let env = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LC_ALL", "C.UTF-8"),
        ("SYSTEMD_COLORS", "0"),
        ("SYSTEMD_PAGER", ""),
    ];
    let env = env.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    let output = guest.run(Exec { argv, env, ..Exec::default() }, OUTPUT, patience).await?;
    Ok(String::from_utf8_lossy(&output.output).trim().to_owned())
}
