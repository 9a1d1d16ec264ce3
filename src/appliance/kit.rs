//! What the appliance boots from: a packaged kernel, and an initramfs with the agent as init.
//!
//! The kernel comes once from the host's own package sources ([`super::kernel`])
//! and stays; the initramfs is that kernel's modules and this kiln's agent, so
//! its name has a digest of both and a new kiln makes a new one beside it.
//! With a store of warm states the kit is also what its appliances wake from.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::kernel::{self, KernelError};
use super::warm::{Store, hex};
use crate::guest::agent;
use crate::guest::inject::cpio::Archive;
use crate::model::{Architecture, FailureKind};
use crate::support::command::CommandError;
use crate::support::files::write_atomic;
use crate::support::wait::Patience;

/// Files to start an appliance from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kit {
    pub architecture: Architecture,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Of both, as they are.
    pub digest: String,
    /// Where appliances are kept with their memory; None: each of them boots.
    pub warm: Option<Store>,
}

#[derive(Debug, thiserror::Error)]
pub enum KitError {
    #[error("this kiln carries no agent for {0} guests (one built with KILN_AGENT_AARCH64 does)")]
    NoAgent(Architecture),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{} cannot be made", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl KitError {
    pub fn kind(&self) -> FailureKind {
        match self {
            KitError::NoAgent(_) | KitError::File { .. } => FailureKind::Environment,
            KitError::Kernel(KernelError::Impatience(e)) => e.into(),
            KitError::Kernel(KernelError::Apt { source: CommandError::Stopped { source, .. }, .. }) => {
                source.into()
            }
            KitError::Kernel(_) => FailureKind::Environment,
        }
    }
}

impl Kit {
    /// The kit in `store` (a folder of kiln's own), made where it is missing.
    ///
    /// The first time this fetches a kernel package (about 30 MB); after that it needs no
    /// network, and takes milliseconds. Any number of kilns may do so at once.
    pub async fn ensure(
        store: &Path,
        architecture: Architecture,
        patience: &Patience,
    ) -> Result<Kit, KitError> {
        let program = agent::binary(architecture).ok_or(KitError::NoAgent(architecture))?;
        let kernel = kernel::ensure(store, architecture, patience).await?;
        let digest = Sha256::new().chain_update(&kernel.stamp).chain_update(program).finalize();
        let digest = hex(&digest[..8]);
        let initrd = store.join(format!("initrd-{architecture}-{digest}.cpio"));
        let failed = |source| KitError::File { path: initrd.clone(), source };
        if !initrd.exists() {
            let mut bytes = std::fs::read(&kernel.modules).map_err(failed)?;
            bytes.extend_from_slice(&init(program));
            write_atomic(&initrd, &bytes).map_err(failed)?;
        }
        Ok(Kit { architecture, kernel: kernel.image, initrd, digest, warm: None })
    }

    /// The same, whose appliances wake from what is kept there.
    pub fn warmed(self, warm: Option<&Store>) -> Kit {
        Kit { warm: warm.cloned(), ..self }
    }
}

fn init(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, program);
    archive.finish()
}
