//! Picks the modules of a kernel that the appliance needs, and says in which order they load.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::guest::inject::cpio::Archive;
use crate::support::command::{CommandError, Tool};
use crate::support::wait::Patience;

/// Loaded at once. Each is a module or built in, or it cannot work.
const ALWAYS: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_rng", "ext4"];

/// Loaded at once where the kernel has it as a module.
const IF_THERE: &str = "pvpanic_pci";

/// Loaded when a disk or a network card asks for them. Those of the disks themselves are, too: a
/// memory that is saved before knows nothing of any disk.
const ON_DEMAND: [&str; 5] = ["virtio_blk", "xfs", "btrfs", "vfat", "virtio_net"];

/// The same, but the kernel may do without.
const ON_DEMAND_IF_THERE: &str = "nvme";

/// What a module asks the kernel for by another name than a module's, when it is used.
const ALSO: [(&str, &[&str]); 4] = [
    ("ext4", &["crc32c_generic"]),
    ("xfs", &["crc32c_generic"]),
    ("btrfs", &["crc32c_generic", "xxhash_generic", "blake2b_generic", "sha256_generic"]),
    ("vfat", &["nls_cp437", "nls_ascii", "nls_utf8"]),
];

#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error("the kernel has no module {0}, nor is it built in")]
    NotThere(String),
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be unpacked", path.display())]
    Unpack { path: PathBuf, source: CommandError },
}

/// The archive with all of them, `modules.order` (what is loaded at once) and `modules.dep`.
///
/// `folder` is the kernel's `lib/modules/RELEASE`. Packed modules are unpacked: the appliance
/// is to start fast, and this is done once.
pub async fn archive(folder: &Path, patience: &Patience) -> Result<Vec<u8>, ModulesError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| ModulesError::Read { path: path.to_owned(), source })
    };
    let builtin = read(&folder.join("modules.builtin"))?;
    let mut tree = Tree {
        folder,
        builtin: builtin.lines().map(name_of).collect(),
        files: BTreeMap::new(),
        picked: BTreeMap::new(),
    };
    for line in read(&folder.join("modules.order"))?.lines() {
        tree.files.insert(name_of(line), line.to_owned());
    }
    let mut order = Vec::new();
    for (name, must) in ALWAYS.map(|name| (name, true)).into_iter().chain([(IF_THERE, false)]) {
        order.extend(tree.pick(name, must, patience).await?);
    }
    for (name, must) in ON_DEMAND.map(|name| (name, true)).into_iter().chain([(ON_DEMAND_IF_THERE, false)]) {
        tree.pick(name, must, patience).await?;
    }
    let release = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(pack(&release, &tree.picked, &order, &builtin))
}

/// A module that was picked: where it lies, what it needs (nearest last), its bytes.
struct Module {
    path: String,
    needs: Vec<String>,
    bytes: Vec<u8>,
}

struct Tree<'a> {
    folder: &'a Path,
    builtin: BTreeSet<String>,
    /// Paths below the folder by module name, as in `modules.order`: without what says how it is packed.
    files: BTreeMap<String, String>,
    picked: BTreeMap<String, Module>,
}

impl Tree<'_> {
    /// Picks a module and all it needs. Returns them in the order of loading; nothing if built in.
    async fn pick(
        &mut self,
        name: &str,
        must: bool,
        patience: &Patience,
    ) -> Result<Vec<String>, ModulesError> {
        // Depth first without recursion: a module comes out when all it needs has come out.
        let mut order: Vec<String> = Vec::new();
        let mut stack = vec![(name.to_owned(), must, false)];
        while let Some((name, must, entered)) = stack.pop() {
            if order.contains(&name) {
                continue;
            }
            let Some(path) = self.files.get(&name).cloned() else {
                if must && !self.builtin.contains(&name) {
                    return Err(ModulesError::NotThere(name));
                }
                continue;
            };
            if entered {
                order.push(name);
                continue;
            }
            if !self.picked.contains_key(&name) {
                let module = self.read(&name, path, patience).await?;
                self.picked.insert(name.clone(), module);
            }
            let hard = self.picked[&name].needs.clone();
            stack.push((name.clone(), must, true));
            let soft = ALSO.iter().filter(|(n, _)| *n == name).flat_map(|(_, needs)| *needs);
            stack.extend(soft.map(|need| ((*need).to_owned(), false, false)));
            stack.extend(hard.into_iter().map(|need| (need, true, false)));
        }
        if let Some(module) = self.picked.get_mut(name) {
            module.needs = order[..order.len() - 1].to_vec();
        }
        Ok(order)
    }

    async fn read(&self, name: &str, path: String, patience: &Patience) -> Result<Module, ModulesError> {
        let file = self.folder.join(&path);
        let packed = |suffix: &str| PathBuf::from(format!("{}.{suffix}", file.display()));
        let unpack = [("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")];
        let bytes = match unpack.iter().find(|(suffix, _)| packed(suffix).exists()) {
            Some((suffix, tool)) => {
                let path = packed(suffix);
                let run = Tool::new(tool).args(["--decompress", "--stdout"]).arg(&path).run(patience).await;
                run.map_err(|source| ModulesError::Unpack { path, source })?.stdout
            }
            None => std::fs::read(&file).map_err(|source| ModulesError::Read { path: file, source })?,
        };
        debug_assert_eq!(name, name_of(&path));
        Ok(Module { needs: depends(&bytes), path, bytes })
    }
}

/// `kernel/drivers/char/virtio-rng.ko.xz` is `virtio_rng`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The names in the module's `depends=` record.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn pack(release: &str, picked: &BTreeMap<String, Module>, order: &[String], builtin: &str) -> Vec<u8> {
    let base = format!("lib/modules/{release}");
    let mut archive = Archive::new();
    let mut folders = BTreeSet::new();
    let mut dependencies = String::new();
    for module in picked.values() {
        let path = format!("{base}/{}", module.path);
        archive.folders_of(&path, &mut folders);
        archive.file(&path, 0o644, &module.bytes);
        // As depmod writes it: the nearest need first.
        let needs: Vec<&str> = module.needs.iter().rev().map(|need| picked[need].path.as_str()).collect();
        dependencies += &format!("{}: {}\n", module.path, needs.join(" "));
    }
    archive.file(&format!("{base}/modules.dep"), 0o644, dependencies.as_bytes());
    archive.file(&format!("{base}/modules.builtin"), 0o644, builtin.as_bytes());
    let mut seen = BTreeSet::new();
    let lines: String = order
        .iter()
        .filter(|name| seen.insert(name.as_str()))
        .map(|name| format!("{base}/{}\n", picked[name].path))
        .collect();
    archive.file("modules.order", 0o644, lines.as_bytes());
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn module(folder: &Path, path: &str, depends: &str) {
        let file = folder.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!("ELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
    }

    #[tokio::test]
    async fn needs_come_first_and_built_in_ones_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("6.1.0-test");
        let modules = [
            ("kernel/virtio.ko", ""),
            ("kernel/ring.ko", ""),
            ("kernel/virtio_pci.ko", "virtio,ring"),
            ("kernel/virtio_blk.ko", "virtio,ring"),
            ("kernel/virtio_console.ko", "virtio"),
            ("kernel/virtio-rng.ko", "virtio"),
            ("kernel/xfs.ko", "libcrc32c"),
            ("kernel/libcrc32c.ko", "virtio"),
            ("kernel/btrfs.ko", ""),
            ("kernel/fat.ko", ""),
            ("kernel/vfat.ko", "fat"),
            ("kernel/nls_cp437.ko", ""),
            ("kernel/virtio_net.ko", "virtio"),
            ("kernel/unused.ko", ""),
        ];
        for (path, depends) in modules {
            module(&folder, path, depends);
        }
        let order: String = modules.iter().map(|(path, _)| format!("{path}\n")).collect();
        std::fs::write(folder.join("modules.order"), order).unwrap();
        std::fs::write(folder.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let patience = Patience::new(Duration::from_secs(20), &CancellationToken::new());
        let bytes = archive(&folder, &patience).await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let base = "lib/modules/6.1.0-test/kernel";
        assert!(
            text.contains(&format!(
                "{base}/ring.ko\n{base}/virtio.ko\n{base}/virtio_pci.ko\n\
                 {base}/virtio_console.ko\n{base}/virtio-rng.ko\n\0"
            )),
            "{text}"
        );
        assert!(text.contains("kernel/virtio_blk.ko: kernel/virtio.ko kernel/ring.ko\n"), "{text}");
        assert!(text.contains("kernel/xfs.ko: kernel/libcrc32c.ko kernel/virtio.ko\n"), "{text}");
        assert!(text.contains("kernel/vfat.ko: kernel/nls_cp437.ko kernel/fat.ko\n"), "{text}");
        assert!(!text.contains("unused"));
        std::fs::remove_file(folder.join("modules.builtin")).unwrap();
        std::fs::write(folder.join("modules.builtin"), "").unwrap();
        let error = archive(&folder, &patience).await.unwrap_err();
        assert!(matches!(&error, ModulesError::NotThere(name) if name == "ext4"), "{error}");
    }
}
