//! The smallest base image: see `tests/tiny-base.sh`.

use crate::build::Bench;
use crate::disks::tool;
use std::path::PathBuf;

pub const NAME: &str = "tiny";

/// Makes it and imports it. Returns the tree that is on it, for comparison.
pub fn import(bench: &Bench) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tiny-base.sh");
    tool("sh", &[script, bench.folder.to_str().unwrap()], "");
    let raw = bench.folder.join("tiny.raw");
    let output = bench.run(&["base", "import", raw.to_str().unwrap(), "--name", NAME, "--firmware", "bios"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.folder.join("tree")
}
