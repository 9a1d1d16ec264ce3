//! Failures of operations, typed by errno.

use std::fmt::Display;
use std::io;

use kiln_protocol::message::{ErrorKind, Failed};
use rustix::io::Errno;

pub type Outcome<T> = Result<T, Failed>;

pub fn failed(kind: ErrorKind, message: impl Into<String>) -> Failed {
    Failed { kind, message: message.into() }
}

pub fn cancelled() -> Failed {
    failed(ErrorKind::Cancelled, "cancelled by the host")
}

/// Adds what was done, and to what, to a failure of the system.
pub trait During<T> {
    fn during(self, verb: &str, object: impl Display) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, verb: &str, object: impl Display) -> Outcome<T> {
        self.map_err(|e| explain(e.into(), verb, &object))
    }
}

/// Not generic: this is in the binary once.
#[cold]
fn explain(e: io::Error, verb: &str, object: &dyn Display) -> Failed {
    failed(kind(&e), format!("{verb} {object}: {}", text(&e)))
}

fn kind(e: &io::Error) -> ErrorKind {
    let Some(errno) = Errno::from_io_error(e) else {
        return match e.kind() {
            io::ErrorKind::InvalidInput => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
    };
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::Exists,
        Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
        Errno::NOTEMPTY => ErrorKind::NotEmpty,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        Errno::ROFS => ErrorKind::ReadOnly,
        Errno::INVAL | Errno::NAMETOOLONG | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => ErrorKind::Invalid,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

/// The system's words without Rust's " (os error 2)".
fn text(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].into(),
        None => text,
    }
}
