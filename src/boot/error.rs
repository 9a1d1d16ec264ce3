//! Why a guest did not come up, or not back.

use super::class::Class;
use super::ready::NotReady;
use super::route::NoRoute;
use crate::appliance::ApplianceError;
use crate::guest::GuestError;
use crate::guest::inject::seed::SeedError;
use crate::machine::{Exit, MachineError};
use crate::model::{Failure, FailureKind};
use crate::support::wait::Impatience;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error("this kiln carries no agent for {0} guests")]
    NoAgent(crate::model::Architecture),
    #[error("the user-data cannot be used")]
    Seed(#[from] SeedError),
    #[error("cannot write {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the disk's kernel and initramfs could not be taken from it")]
    Appliance(#[from] ApplianceError),
    /// The machine ended, or its console shows that it will never come up.
    #[error("the guest did not come up: {class}")]
    Down { class: Class, exit: Option<Exit>, console: Vec<String>, screenshot: Option<PathBuf> },
    /// Nothing happened within the limit.
    #[error("the guest's agent did not report: {class}")]
    Silent { class: Class, source: GuestError, console: Vec<String>, screenshot: Option<PathBuf> },
    /// Its agent greeted, and the boot was not over within the limit, or broke off.
    #[error("the guest did not get ready{}", also(*class))]
    NotReady { class: Class, source: NotReady, console: Vec<String>, screenshot: Option<PathBuf> },
    #[error("the guest did not power off: {0}")]
    NotOff(String),
    #[error("{exit}, instead of powering off when asked to")]
    Ended { exit: Exit, console: Vec<String> },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// What the console tells, where it does: the source says what was waited for.
fn also(class: Class) -> String {
    if class == Class::Unknown { String::new() } else { format!(": {class}") }
}

impl BootError {
    pub fn kind(&self) -> FailureKind {
        match self {
            BootError::NoRoute(_) | BootError::Seed(_) => FailureKind::Input,
            BootError::NoAgent(_) | BootError::File { .. } => FailureKind::Environment,
            BootError::Machine(e) => e.kind(),
            BootError::Appliance(e) => e.kind(),
            BootError::Impatience(e) => e.into(),
            // Whatever the console shows is the cause, and time only how it was noticed.
            BootError::Silent { class: Class::Unknown, source, .. }
            | BootError::NotReady { class: Class::Unknown, source: NotReady::Guest(source), .. } => {
                source.kind()
            }
            BootError::Silent {
                source: GuestError::Impatience(e @ Impatience::Cancelled { .. }), ..
            }
            | BootError::NotReady {
                class: Class::Unknown, source: NotReady::Slow { limit: e, .. }, ..
            } => e.into(),
            BootError::Down { exit: Some(exit), .. } | BootError::Ended { exit, .. } => exit.kind(),
            BootError::Down { exit: None, .. }
            | BootError::Silent { .. }
            | BootError::NotReady { .. }
            | BootError::NotOff(_) => FailureKind::Build,
        }
    }

    /// What kept the guest from coming up, where there was a guest.
    pub fn class(&self) -> Option<Class> {
        match self {
            BootError::Down { class, .. }
            | BootError::Silent { class, .. }
            | BootError::NotReady { class, .. } => Some(*class),
            BootError::Machine(MachineError::NotStarted { .. }) => Some(Class::QemuFailed),
            _ => None,
        }
    }

    pub fn failure(&self) -> Failure {
        let mut failure = Failure::from_error(self.kind(), self);
        failure.class = self.class().map(Class::as_str);
        match self {
            BootError::Machine(e) => failure.hints.extend(e.hint()),
            BootError::Appliance(e) => return e.failure(),
            BootError::Down { class, console, screenshot, exit } => {
                if let Some(exit) = exit {
                    failure.causes.push(exit.to_string());
                }
                failure.console = console.clone();
                failure.files.extend(screenshot.clone());
                // What this host did to it says nothing about the guest.
                let of_host = exit.as_ref().filter(|exit| exit.kind() != FailureKind::Build);
                failure.hints.push(of_host.and_then(Exit::hint).unwrap_or(class.hint()).into());
            }
            BootError::Silent { class, console, screenshot, .. } => {
                failure.console = console.clone();
                failure.files.extend(screenshot.clone());
                failure.hints.push(class.hint().into());
            }
            BootError::NotReady { class, source, console, screenshot } => {
                failure.console = console.clone();
                failure.files.extend(screenshot.clone());
                failure.hints.extend((*class != Class::Unknown).then(|| class.hint().to_owned()));
                failure.hints.extend(source.hint().map(str::to_owned));
            }
            BootError::Ended { exit, console } => {
                failure.console = console.clone();
                failure.hints.extend(exit.hint().map(str::to_owned));
            }
            BootError::NoAgent(_) => {
                failure.hints.push(
                    "Build kiln with KILN_AGENT_AARCH64 set to an agent that `cargo xtask agent` made."
                        .into(),
                );
            }
            _ => {}
        }
        failure
    }
}
