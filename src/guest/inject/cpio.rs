//! Archives that a Linux kernel unpacks as its initramfs: cpio, "newc".

/// An archive being written. Entries come out in the order they went in; folders before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

impl Archive {
    pub fn new() -> Archive {
        Archive::default()
    }

    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, &[]);
    }

    /// Makes every folder on the way to `path` that is not `known` yet.
    pub fn folders_of(&mut self, path: &str, known: &mut std::collections::BTreeSet<String>) {
        for (end, _) in path.match_indices('/') {
            if known.insert(path[..end].to_owned()) {
                self.folder(&path[..end]);
            }
        }
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, content);
    }

    /// The finished archive, its length a multiple of 4 so that another may follow.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let size = u32::try_from(content.len()).expect("files of an initramfs are below 4 GiB");
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device major and minor, own major and minor, name, check
        let name = path.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_unpacks_what_was_put_in() {
        let mut archive = Archive::new();
        archive.folders_of("a/b/c", &mut Default::default());
        archive.file("a/b/c", 0o640, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let place = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-idm", "--quiet"])
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(std::fs::read(place.path().join("a/b/c")).unwrap(), b"hello");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(place.path().join("a/b/c")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }
}
