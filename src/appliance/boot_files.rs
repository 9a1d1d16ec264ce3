//! Takes out of the image what starts it: kernel and initramfs.

use std::fs::File;
use std::path::{Path, PathBuf};

use kiln_protocol::message::Operation;

use super::facts::{DiskFacts, InitrdKind, Kernel};
use super::inspect::Look;
use super::tree::Access;
use super::{Appliance, ApplianceError, DiskProblem};
use crate::guest::Guest;
use crate::support::wait::Patience;

/// Kernels and initramfs beyond this are no longer believed, in bytes.
const LIMIT: u64 = 1 << 30;

/// Copies of what the disk starts, on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel's version.
    pub version: String,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub initrd_kind: InitrdKind,
    /// As the disk's boot loader gives it.
    pub command_line: String,
}

impl Appliance {
    /// Looks at the disk and, where it has a kernel, copies what starts it into `folder`: all that a
    /// first boot needs to know, from one appliance.
    pub async fn survey(
        &self,
        folder: &Path,
        patience: &Patience,
    ) -> Result<(DiskFacts, Option<BootFiles>), ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let found = async {
            let facts = self.look(&scan, &tree, patience).await?;
            let files = match facts.kernel() {
                Some(_) => {
                    Some(self.copy_boot_files(&facts.kernels, &facts.command_line, folder, patience).await?)
                }
                None => None,
            };
            Ok((facts, files))
        };
        let found: Result<(DiskFacts, _), ApplianceError> = found.await;
        self.leave(tree, patience).await?;
        let (mut facts, files) = found?;
        facts.firmware = self.firmware(&scan, facts.architecture, patience).await?;
        Ok((facts, files))
    }

    /// Copies kernel and initramfs as they are now into `folder` (`kernel`, `initrd`), which is made
    /// where it is missing, replacing older ones.
    pub async fn boot_files(&self, folder: &Path, patience: &Patience) -> Result<BootFiles, ApplianceError> {
        let scan = self.scan(patience).await?;
        let tree = self.enter(&scan, Access::Read, patience).await?;
        let copied = async {
            let look = Look { guest: self.guest(), patience };
            let (kernels, command_line) = look.kernels(&scan.volumes[tree.root], &tree).await?;
            self.copy_boot_files(&kernels, &command_line, folder, patience).await
        };
        let copied = copied.await;
        self.leave(tree, patience).await?;
        copied
    }

    async fn copy_boot_files(
        &self,
        kernels: &[Kernel],
        command_line: &str,
        folder: &Path,
        patience: &Patience,
    ) -> Result<BootFiles, ApplianceError> {
        let complete = kernels.iter().find_map(|k| Some((k, k.initrd.as_deref()?)));
        let Some((kernel, initrd)) = complete else {
            return Err(
                DiskProblem::NoKernel(format!("{} kernels without one are there", kernels.len())).into()
            );
        };
        std::fs::create_dir_all(folder)
            .map_err(|source| ApplianceError::File { path: folder.to_owned(), source })?;
        let files = BootFiles {
            version: kernel.version.clone(),
            kernel: folder.join("kernel"),
            initrd: folder.join("initrd"),
            initrd_kind: kernel.initrd_kind,
            command_line: command_line.to_owned(),
        };
        self.copy_out(&kernel.image, &files.kernel, patience).await?;
        self.copy_out(initrd, &files.initrd, patience).await?;
        Ok(files)
    }

    async fn copy_out(&self, from: &str, to: &Path, patience: &Patience) -> Result<(), ApplianceError> {
        let failed = |source| ApplianceError::File { path: to.to_owned(), source };
        let mut file = tokio::fs::File::from_std(File::create(to).map_err(failed)?);
        let get = Operation::Get { path: from.into(), offset: 0, length: None };
        let got = self.guest().get(get, LIMIT, &mut file, patience).await;
        got.map_err(ApplianceError::during(format!("copying {from} out of the image")))?;
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)
    }
}
