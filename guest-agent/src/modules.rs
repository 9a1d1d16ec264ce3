//! Kernel modules.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kiln_protocol::message::{ErrorKind, Reply};
use rustix::io::Errno;

use crate::error::{During, Outcome, failed};

/// linux/module.h: the kernel unpacks the file itself.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Loads modules by name (`-` and `_` are the same in it), each after what it depends on.
pub fn load(names: &[String]) -> Outcome<Reply> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let read = |file: &str| {
        let path = folder.join(file);
        fs::read_to_string(&path).during("read", path.display())
    };
    let dependencies = read("modules.dep")?;
    let builtin: BTreeSet<String> =
        read("modules.builtin").unwrap_or_default().lines().map(module_name).collect();
    for name in names {
        let name = name.replace('-', "_");
        if builtin.contains(&name) {
            continue;
        }
        let line = dependencies.lines().filter_map(|line| line.split_once(':'));
        let (file, needs) =
            line.into_iter().find(|(file, _)| module_name(file) == name).ok_or_else(|| {
                failed(ErrorKind::NotFound, format!("no module {name} in {}", folder.display()))
            })?;
        // modules.dep has the nearest need first, and all that is needed by it after it.
        for file in needs.split_whitespace().rev().chain([file]) {
            insert(&folder.join(file))?;
        }
    }
    Ok(Reply::Nothing)
}

/// Loads one module; one that is loaded already is no failure.
pub fn insert(path: &Path) -> Outcome<()> {
    let file = File::open(path).during("open", path.display())?;
    let plain = path.extension().is_some_and(|e| e == "ko");
    let flags = if plain { 0 } else { MODULE_INIT_COMPRESSED_FILE };
    match rustix::system::finit_module(&file, c"", flags) {
        Err(Errno::EXIST) => Ok(()),
        other => other.during("load", path.display()),
    }
}

/// `kernel/fs/xfs/xfs.ko.xz` is `xfs`.
fn module_name(path: &str) -> String {
    let file = PathBuf::from(path.trim());
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::module_name;

    #[test]
    fn a_module_is_named_by_its_file() {
        for path in ["kernel/fs/xfs/xfs.ko", "/modules/xfs.ko.xz", "xfs.ko.zst\n"] {
            assert_eq!(module_name(path), "xfs");
        }
        assert_eq!(module_name("kernel/drivers/char/virtio-rng.ko"), "virtio_rng");
    }
}
