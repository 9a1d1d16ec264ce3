//! Where distributions keep UEFI firmware.

use std::path::{Path, PathBuf};

use crate::model::Architecture;

/// Code, and variables to start from (or, of one machine, its own copy of them).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareFiles {
    pub code: PathBuf,
    pub vars: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no UEFI firmware for {architecture} on this host (looked for {})", looked_for.join(", "))]
pub struct FirmwareMissing {
    pub architecture: Architecture,
    pub looked_for: Vec<String>,
}

impl FirmwareMissing {
    pub fn hint(&self) -> String {
        let (debian, fedora) = match self.architecture {
            Architecture::X86_64 => ("ovmf", "edk2-ovmf"),
            Architecture::Aarch64 => ("qemu-efi-aarch64", "edk2-aarch64"),
        };
        format!("Install it: `apt install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora).")
    }
}

/// Without Secure Boot, so that guests need no signed boot loader. First found wins.
const CANDIDATES: [(Architecture, &str, &str); 7] = [
    // Debian, Ubuntu
    (Architecture::X86_64, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    // Fedora
    (Architecture::X86_64, "/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    // Arch
    (Architecture::X86_64, "/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    // QEMU's own build, also Nix
    (Architecture::X86_64, "/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
    // Debian, Ubuntu
    (Architecture::Aarch64, "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    // Fedora
    (
        Architecture::Aarch64,
        "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
        "/usr/share/edk2/aarch64/vars-template-pflash.raw",
    ),
    // QEMU's own build, also Nix
    (Architecture::Aarch64, "/usr/share/qemu/edk2-aarch64-code.fd", "/usr/share/qemu/edk2-arm-vars.fd"),
];

/// The firmware installed on this host.
pub fn find(architecture: Architecture) -> Result<FirmwareFiles, FirmwareMissing> {
    find_in(Path::new("/"), architecture)
}

/// The bytes of the code that guests boot with, where there is any.
pub fn firmware_code(architecture: Architecture) -> Option<Vec<u8>> {
    std::fs::read(find(architecture).ok()?.code).ok()
}

fn find_in(root: &Path, architecture: Architecture) -> Result<FirmwareFiles, FirmwareMissing> {
    let candidates = || CANDIDATES.iter().filter(|(a, ..)| *a == architecture);
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    candidates()
        .map(|(_, code, vars)| FirmwareFiles { code: below(code), vars: below(vars) })
        .find(|f| f.code.is_file() && f.vars.is_file())
        .ok_or_else(|| FirmwareMissing {
            architecture,
            looked_for: candidates().map(|(_, code, _)| (*code).to_owned()).collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_of_a_candidate_are_needed() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        put("usr/share/OVMF/OVMF_CODE_4M.fd");
        let missing = find_in(root.path(), Architecture::X86_64).unwrap_err();
        assert!(missing.to_string().contains("/usr/share/OVMF/OVMF_CODE_4M.fd"), "{missing}");
        assert!(missing.hint().contains("apt install ovmf"));
        put("usr/share/OVMF/OVMF_VARS_4M.fd");
        let found = find_in(root.path(), Architecture::X86_64).unwrap();
        assert!(found.vars.ends_with("OVMF_VARS_4M.fd"));
        assert!(find_in(root.path(), Architecture::Aarch64).is_err());
    }
}
