//! The QEMU that is installed here.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::error::MachineError;
use super::spec::Accelerator;
use crate::model::Architecture;
use crate::support::command::{self, Tool};
use crate::support::wait::Patience;

/// QEMU answers in a fraction of a second; a host that swaps may take longer.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    pub architecture: Architecture,
    pub program: PathBuf,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

impl Qemu {
    pub fn program_name(architecture: Architecture) -> String {
        format!("qemu-system-{architecture}")
    }

    /// Looks on the PATH and asks the program for its version, once per run of kiln and installed file.
    pub async fn find(architecture: Architecture, patience: &Patience) -> Result<Qemu, MachineError> {
        static KNOWN: Mutex<Option<HashMap<(PathBuf, Option<SystemTime>), Version>>> = Mutex::new(None);
        let name = Qemu::program_name(architecture);
        let program = command::find(&name).ok_or(MachineError::QemuMissing { architecture })?;
        let modified = program.metadata().and_then(|m| m.modified()).ok();
        let key = (program.clone(), modified);
        let lock = || KNOWN.lock().expect("no panic while held");
        if let Some(&version) = lock().as_ref().and_then(|known| known.get(&key)) {
            return Ok(Qemu { architecture, program, version });
        }
        let output = Tool::new(&program).arg("--version").run(&patience.at_most(VERSION_LIMIT)).await?;
        let text = output.text();
        let version = parse_version(&text).ok_or_else(|| MachineError::QemuUnknown {
            program: program.clone(),
            said: text.lines().next().unwrap_or_default().chars().take(200).collect(),
        })?;
        lock().get_or_insert_default().insert(key, version);
        Ok(Qemu { architecture, program, version })
    }
}

impl Qemu {
    /// Names this very program, as far as a memory is concerned: another build of the same version may
    /// lay it out in another way.
    pub fn stamp(&self) -> String {
        let file = self.program.metadata().ok();
        let modified =
            file.as_ref().and_then(|m| m.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok());
        let (bytes, modified) = (file.map_or(0, |m| m.len()), modified.unwrap_or_default());
        format!("{} of {bytes} bytes, {}", self.version, modified.as_nanos())
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_once("version ")?.1.split([' ', '\n', '(']).next()?;
    let mut parts = number.split('.').map(|p| p.parse().ok());
    Some(Version { major: parts.next()??, minor: parts.next()??, micro: parts.next().flatten().unwrap_or(0) })
}

/// The CPU model that guests get unless a specification names one.
///
/// It is part of what an image's build depends on: software picks its code by it.
pub fn default_cpu(architecture: Architecture, accelerator: Accelerator, version: Version) -> &'static str {
    match (accelerator, architecture) {
        (Accelerator::Kvm, _) => "host",
        // Emulation of cmpxchg16b in QEMU 7 corrupts memory of kernels that use it (Linux 6.12 does).
        (Accelerator::Tcg, Architecture::X86_64) if version.major < 8 => "max,-cx16",
        (Accelerator::Tcg, Architecture::X86_64) => "max",
        // `max` emulates pointer authentication, which costs more than all else.
        (Accelerator::Tcg, Architecture::Aarch64) => "cortex-a72",
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let v = |t| parse_version(t).map(|v| v.to_string());
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(v(debian).as_deref(), Some("7.2.22"));
        assert_eq!(v("QEMU emulator version 10.0.0\n").as_deref(), Some("10.0.0"));
        assert_eq!(v("QEMU emulator version 9.2\n").as_deref(), Some("9.2.0"));
        assert_eq!(v("not qemu"), None);
    }
}
