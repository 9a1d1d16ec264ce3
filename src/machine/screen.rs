//! Screenshots, checked before anybody opens them: what is on the screen is the guest's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;

use super::error::MachineError;
use super::life::Machine;
use crate::support::files::Staged;
use crate::support::wait::Patience;

/// A guest may choose any mode; no real one is bigger than this, in pixels each way.
const SIDE_LIMIT: u32 = 16_384;
/// In bytes.
const FILE_LIMIT: u64 = 64 << 20;

/// Pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Machine {
    /// Writes what is on the screen into `target` as PNG. The machine needs a screen.
    pub async fn screenshot(&self, target: &Path, patience: &Patience) -> Result<Size, MachineError> {
        let file = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| MachineError::File { doing, path, source }
        };
        let staged = Staged::new(target).map_err(file("cannot write", target))?;
        let arguments = json!({"filename": staged.path(), "format": "png"});
        self.qmp().execute("screendump", arguments, patience).await?;
        let size = check(staged.path())?;
        staged.commit().map_err(file("cannot write", target))?;
        Ok(size)
    }
}

fn check(path: &Path) -> Result<Size, MachineError> {
    let bad = |what: &str| MachineError::Screenshot(what.into());
    let mut head = [0; 24];
    let mut file = File::open(path).map_err(|e| bad(&e.to_string()))?;
    let length = file.metadata().map_err(|e| bad(&e.to_string()))?.len();
    if length > FILE_LIMIT {
        return Err(bad(&format!("{length} bytes are too many")));
    }
    file.read_exact(&mut head).map_err(|_| bad("the file is too short"))?;
    // The signature, then the first chunk: its length, its name, width and height.
    if &head[..8] != b"\x89PNG\r\n\x1a\n" || &head[12..16] != b"IHDR" {
        return Err(bad("QEMU wrote no PNG"));
    }
    let side = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let size = Size { width: side(16), height: side(20) };
    let possible = 1..=SIDE_LIMIT;
    if possible.contains(&size.width) && possible.contains(&size.height) {
        Ok(size)
    } else {
        Err(bad(&format!("{} x {} pixels", size.width, size.height)))
    }
}
