//! What can go wrong between host and guest.

use kiln_protocol::message::{ErrorKind, Failed};

use crate::model::{Failure, FailureKind};
use crate::support::wait::Impatience;

#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The agent tried and the guest said no.
    #[error("{}", .0.message)]
    Refused(Failed),
    /// The link ended, or nothing comes over it any more.
    #[error("the link to the guest's agent was lost during: {doing}: {reason}")]
    Lost { doing: String, reason: String },
    /// The peer sent what the protocol does not allow; the session is over.
    #[error("the guest's agent broke the protocol: {0}")]
    Protocol(String),
    /// The guest itself came to its end, and who saw it tells how.
    #[error("{0}")]
    Ended(Box<Failure>),
    #[error(transparent)]
    Impatience(#[from] Impatience),
    /// The guest was asked to reboot and did not come back.
    #[error("the guest did not come back from its reboot: {0}")]
    Reboot(Box<Failure>),
    #[error("{0}")]
    Local(#[from] std::io::Error),
}

impl GuestError {
    pub fn kind(&self) -> FailureKind {
        match self {
            GuestError::Impatience(impatience) => impatience.into(),
            GuestError::Ended(failure) | GuestError::Reboot(failure) => failure.kind,
            GuestError::Local(_) => FailureKind::Environment,
            GuestError::Refused(_) | GuestError::Lost { .. } | GuestError::Protocol(_) => FailureKind::Build,
        }
    }

    /// What to do next, where that can be said without knowing more.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            GuestError::Lost { .. } => Some(
                "Look for what ended the agent (a step that kills processes it did not start) or made the guest hang, or whether a step stopped or rebooted the guest itself (the Reboot action and exit code 194 are the ways for that); the console's last lines are from then.",
            ),
            GuestError::Protocol(_) => Some(
                "Something in the guest other than kiln's agent writes to the port kiln.agent (/dev/virtio-ports): look for what opens it.",
            ),
            GuestError::Refused(Failed { kind: ErrorKind::NoSpace, .. }) => Some(
                "A file system of the guest is full: `blockDeviceMappings` in the recipe (`ebs: {volumeSize: ...}`) gives it a larger disk.",
            ),
            _ => None,
        }
    }

    /// As data, with everything that is known of it.
    pub fn failure(&self) -> Failure {
        match self {
            GuestError::Ended(failure) => (**failure).clone(),
            GuestError::Reboot(inner) => {
                Failure { message: self.to_string(), causes: Vec::new(), ..(**inner).clone() }
            }
            other => {
                let failure = Failure::from_error(other.kind(), other);
                match other.hint() {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
        }
    }
}
