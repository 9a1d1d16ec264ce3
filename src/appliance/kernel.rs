//! The appliance's kernel: Debian's cloud kernel, through the apt of this host.
//!
//! Never the host's own kernel: it may be any, its image is often readable by
//! root only, and in a container there is none. apt brings the package from the
//! sources that the host is set up with, checked by their keys, and needs no
//! root for it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::modules::{self, ModulesError};
use super::vmlinux;
use crate::model::Architecture;
use crate::support::command::{CommandError, Tool};
use crate::support::files::sync_folder_of;
use crate::support::wait::{Impatience, Patience};

/// A kernel in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub image: PathBuf,
    /// An archive (cpio) with the modules that the appliance may need.
    pub modules: PathBuf,
    /// Version of the layout, and name and version of the package:
    /// `v4 linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64`.
    pub stamp: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "the appliance's kernel comes as a Debian package, and this host has no `{program}`: install the package `apt` (Debian, Ubuntu), or copy {} from a host on which kiln has run",
        folder.display()
    )]
    NoApt { program: String, folder: PathBuf },
    #[error(
        "apt cannot bring the appliance's kernel (package {package}); are the host's package sources for {architecture} reachable?"
    )]
    Apt { package: String, architecture: Architecture, source: CommandError },
    #[error("the package {package} is not what a kernel package of Debian looks like: {reason}")]
    Package { package: String, reason: String },
    #[error("the kernel package {package} cannot be unpacked")]
    Unpack { package: String, source: CommandError },
    #[error("the modules of {package} are not usable")]
    Modules { package: String, source: ModulesError },
    #[error("{} cannot be written", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// Version of the folder's layout: raised when an old one would not do any more.
const LAYOUT: u32 = 4;

/// How the name of a folder begins in which a kernel is being made.
const WORK: &str = ".kernel-";

/// The kernel in `store`, fetched where it is missing.
pub async fn ensure(
    store: &Path,
    architecture: Architecture,
    patience: &Patience,
) -> Result<Kernel, KernelError> {
    let folder = store.join(format!("kernel-{architecture}-v{LAYOUT}"));
    let kernel = |package: String| Kernel {
        image: folder.join("kernel"),
        modules: folder.join("modules.cpio"),
        stamp: format!("v{LAYOUT} {}", package.trim()),
    };
    if let Ok(package) = std::fs::read_to_string(folder.join("package")) {
        return Ok(kernel(package));
    }
    let failed = |source| KernelError::File { path: folder.clone(), source };
    std::fs::create_dir_all(store).map_err(failed)?;
    let _lock = lock(store, patience).await?;
    if let Ok(package) = std::fs::read_to_string(folder.join("package")) {
        return Ok(kernel(package));
    }
    let work = tempfile::Builder::new().prefix(WORK).tempdir_in(store).map_err(failed)?;
    let package = Apt { architecture, work: work.path(), folder: &folder }.fetch(patience).await?;
    let made = work.path().join("kernel");
    assemble(&package, work.path(), &made, patience).await?;
    std::fs::rename(&made, &folder).and_then(|()| sync_folder_of(&folder)).map_err(failed)?;
    std::fs::read_to_string(folder.join("package")).map(kernel).map_err(failed)
}

/// Held while a kernel is fetched: one kiln does it, the others wait for it. What a killed one
/// left half done is removed.
async fn lock(store: &Path, patience: &Patience) -> Result<File, KernelError> {
    let path = store.join("lock");
    let failed = |source| KernelError::File { path: path.clone(), source };
    let lock = File::create(&path).map_err(failed)?;
    let locked = async {
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    };
    patience.wait("another kiln that fetches the appliance's kernel", locked).await?.map_err(failed)?;
    for entry in std::fs::read_dir(store).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(WORK) {
            std::fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(lock)
}

/// apt, for one architecture, in a folder of our own.
struct Apt<'a> {
    architecture: Architecture,
    work: &'a Path,
    folder: &'a Path,
}

impl Apt<'_> {
    /// Downloads the kernel package and returns its file.
    async fn fetch(&self, patience: &Patience) -> Result<PathBuf, KernelError> {
        let meta = format!("linux-image-cloud-{}", self.debian());
        // The host's own lists save a download, but may be missing (containers) or stale.
        if self.architecture == Architecture::HOST
            && let Ok(file) = self.download(&meta, &[], patience).await
        {
            return Ok(file);
        }
        let options = self.own_lists()?;
        self.run(
            Tool::new("apt-get").args(&options).args(["--quiet", "--error-on=any", "update"]),
            &meta,
            patience,
        )
        .await?;
        self.download(&meta, &options, patience).await
    }

    fn debian(&self) -> &'static str {
        match self.architecture {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
        }
    }

    /// Options that make apt keep everything in our folder, as if on a machine of the architecture.
    fn own_lists(&self) -> Result<Vec<String>, KernelError> {
        let state = self.work.join("state");
        let cache = self.work.join("cache");
        for folder in [state.join("lists/partial"), cache.join("archives/partial")] {
            std::fs::create_dir_all(&folder).map_err(|source| KernelError::File { path: folder, source })?;
        }
        let set = |name: &str, value: &str| format!("--option={name}={value}");
        Ok(vec![
            set("Dir::State", &state.to_string_lossy()),
            set("Dir::State::status", "/dev/null"),
            set("Dir::Cache", &cache.to_string_lossy()),
            set("APT::Architecture", self.debian()),
            set("APT::Architectures::", self.debian()),
            // The extra package lists of a host's set-up (contents, translations) are of no use here.
            set("Acquire::Languages", "none"),
        ])
    }

    async fn download(
        &self,
        meta: &str,
        options: &[String],
        patience: &Patience,
    ) -> Result<PathBuf, KernelError> {
        let show = Tool::new("apt-cache").args(options).args(["show", "--no-all-versions", meta]);
        let described = self.run(show, meta, patience).await?;
        let package = real_package(&described).ok_or_else(|| KernelError::Package {
            package: meta.into(),
            reason: "it depends on no linux-image".into(),
        })?;
        let get = Tool::new("apt-get")
            .args(options)
            // apt as root would hand the download to a user who may not write here.
            .args(["--quiet", "--option=APT::Sandbox::User=root", "download", &package])
            .dir(self.work);
        self.run(get, &package, patience).await?;
        let file = std::fs::read_dir(self.work)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        file.ok_or_else(|| KernelError::Package {
            package,
            reason: "apt-get download left no .deb file".into(),
        })
    }

    async fn run(&self, tool: Tool, package: &str, patience: &Patience) -> Result<String, KernelError> {
        match tool.run(patience).await {
            Ok(output) => Ok(output.text()),
            Err(CommandError::Missing { program }) => {
                Err(KernelError::NoApt { program, folder: self.folder.to_owned() })
            }
            Err(source) => {
                Err(KernelError::Apt { package: package.into(), architecture: self.architecture, source })
            }
        }
    }
}

/// The first `linux-image-...` that a description of the meta package depends on.
fn real_package(described: &str) -> Option<String> {
    let depends = described.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let names = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
}

/// Unpacks the package and keeps of it what the appliance needs, in `made`.
async fn assemble(file: &Path, work: &Path, made: &Path, patience: &Patience) -> Result<(), KernelError> {
    let package = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let tree = work.join("tree");
    Tool::new("dpkg-deb")
        .arg("--extract")
        .arg(file)
        .arg(&tree)
        .run(patience)
        .await
        .map_err(|source| KernelError::Unpack { package: package.clone(), source })?;
    let odd = |reason: &str| KernelError::Package { package: package.clone(), reason: reason.into() };
    let image = only_child(&tree.join("boot"), "vmlinuz-").ok_or_else(|| odd("no /boot/vmlinuz-*"))?;
    // Where /usr is merged in packages too, the modules lie below /usr.
    let modules = ["lib/modules", "usr/lib/modules"];
    let modules = modules.iter().find_map(|place| only_child(&tree.join(place), ""));
    let modules = modules.ok_or_else(|| odd("no /lib/modules/*"))?;
    let archive = modules::archive(&modules, patience)
        .await
        .map_err(|source| KernelError::Modules { package: package.clone(), source })?;
    let write = || {
        std::fs::create_dir(made)?;
        match vmlinux::unwrap(&std::fs::read(&image)?) {
            Some(kernel) => std::fs::write(made.join("kernel"), kernel)?,
            None => std::fs::rename(image, made.join("kernel"))?,
        }
        std::fs::write(made.join("modules.cpio"), archive)?;
        std::fs::write(made.join("package"), format!("{package}\n"))?;
        for name in ["kernel", "modules.cpio", "package"] {
            File::open(made.join(name))?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| KernelError::File { path: made.to_owned(), source })
}

fn only_child(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut found = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    let first = found.next()?;
    found.next().is_none().then(|| first.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_behind_the_meta_package() {
        let text =
            "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(real_package(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(real_package("Package: x\n"), None);
    }
}
