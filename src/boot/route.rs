//! Which way in: a pure choice from what the disk holds.

use crate::appliance::DiskFacts;
use crate::appliance::facts::InitrdKind;
use crate::guest::inject::Route;
use crate::model::Firmware;
use serde::{Deserialize, Serialize};

/// The oldest systemd that takes credentials from SMBIOS strings.
const SMBIOS_SYSTEMD: u32 = 252;

/// What of a disk decides how the agent can get in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holds {
    /// systemd's major version.
    pub systemd: Option<u32>,
    /// cloud-init is installed and looks for a NoCloud seed.
    pub nocloud: bool,
    /// A kernel with an initramfs that initramfs-tools made.
    pub initramfs_tools: bool,
    pub bios: bool,
    pub uefi: bool,
}

impl Holds {
    pub fn of(facts: &DiskFacts) -> Holds {
        Holds {
            systemd: facts.systemd,
            nocloud: facts.cloud_init.as_ref().is_some_and(|c| c.takes_seed),
            initramfs_tools: facts.kernel().is_some_and(|k| k.initrd_kind == InitrdKind::InitramfsTools),
            bios: facts.boots_with(Firmware::Bios),
            uefi: facts.boots_with(Firmware::Uefi),
        }
    }
}

/// How the machine comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As fast as can be: the kernel directly, if the disk allows it.
    Fast,
    /// As on real hardware: firmware, boot loader, kernel.
    Real(Firmware),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error(
        "kiln finds no way into this disk: it has neither systemd {SMBIOS_SYSTEMD} or newer, nor cloud-init with NoCloud, \
         nor an initramfs of initramfs-tools"
    )]
    Nothing,
    #[error("this disk does not boot by {0}: it has {1}")]
    Firmware(Firmware, &'static str),
    #[error("the route `{route}` does not lead into this disk: {why}")]
    Forced { route: Route, why: &'static str },
}

/// The route, and whether the kernel is started directly (then firmware and boot loader are passed by).
pub fn choose(holds: &Holds, start: Start, forced: Option<Route>) -> Result<Route, NoRoute> {
    let smbios = holds.systemd.is_some_and(|v| v >= SMBIOS_SYSTEMD);
    let possible = |route| match route {
        Route::Overlay => holds.initramfs_tools && start == Start::Fast,
        Route::Smbios => smbios,
        Route::Seed => holds.nocloud,
    };
    if let Some(route) = forced {
        let why = match route {
            Route::Overlay if start != Start::Fast => "it starts the kernel directly, not by firmware",
            Route::Overlay => "it has no initramfs of initramfs-tools",
            Route::Smbios => "it has no systemd 252 or newer",
            Route::Seed => "it has no cloud-init that looks for a NoCloud seed",
        };
        return if possible(route) { Ok(route) } else { Err(NoRoute::Forced { route, why }) };
    }
    match start {
        Start::Real(Firmware::Bios) if !holds.bios => {
            return Err(NoRoute::Firmware(Firmware::Bios, "no boot code in its first sector"));
        }
        Start::Real(Firmware::Uefi) if !holds.uefi => {
            return Err(NoRoute::Firmware(Firmware::Uefi, "no EFI system partition"));
        }
        _ => {}
    }
    [Route::Overlay, Route::Smbios, Route::Seed].into_iter().find(|r| possible(*r)).ok_or(NoRoute::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_holds_decides() {
        let debian =
            Holds { systemd: Some(252), nocloud: true, initramfs_tools: true, bios: true, uefi: true };
        let minimal = Holds { nocloud: false, ..debian };
        let fedora = Holds { systemd: Some(257), initramfs_tools: false, ..debian };
        let old = Holds { systemd: Some(241), initramfs_tools: false, ..debian };
        let bare = Holds { systemd: None, nocloud: false, initramfs_tools: false, ..debian };
        let uefi_only = Holds { bios: false, ..debian };
        let real = Start::Real(Firmware::Bios);
        let table = [
            (debian, Start::Fast, None, Ok(Route::Overlay)),
            (debian, real, None, Ok(Route::Smbios)),
            (debian, real, Some(Route::Seed), Ok(Route::Seed)),
            (minimal, Start::Fast, None, Ok(Route::Overlay)),
            (minimal, Start::Real(Firmware::Uefi), None, Ok(Route::Smbios)),
            (fedora, Start::Fast, None, Ok(Route::Smbios)),
            (old, Start::Fast, None, Ok(Route::Seed)),
            (old, real, None, Ok(Route::Seed)),
        ];
        for (holds, start, forced, route) in table {
            assert_eq!(choose(&holds, start, forced), route, "{holds:?} {start:?} {forced:?}");
        }
        assert_eq!(choose(&bare, Start::Fast, None), Err(NoRoute::Nothing));
        assert!(matches!(choose(&uefi_only, real, None), Err(NoRoute::Firmware(Firmware::Bios, _))));
        let wrong =
            [(debian, real, Route::Overlay), (minimal, Start::Fast, Route::Seed), (old, real, Route::Smbios)];
        for (holds, start, route) in wrong {
            assert!(matches!(choose(&holds, start, Some(route)), Err(NoRoute::Forced { .. })), "{route}");
        }
    }
}
