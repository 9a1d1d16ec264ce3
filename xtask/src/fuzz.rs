//! The libFuzzer targets in `fuzz/`, one after the other, each from seeds of this repository.

use crate::shell::{self, Result, command, root};
use std::path::{Path, PathBuf};

const TARGETS: [&str; 3] = ["document", "expression", "frames"];

/// Time for each target, seconds of the clock; `KILN_FUZZ_SECONDS` sets another.
const SECONDS: &str = "600";

/// Builds with nightly Rust, which alone has the instrumentation, and runs all; a finding is an error, and
/// stays in `target/fuzz` as the input that made it.
pub fn run() -> Result {
    let cargo = |arguments: &[&str]| {
        let mut c = command(&[&["cargo", "+nightly"], arguments].concat());
        c.current_dir(root().join("fuzz"));
        c
    };
    shell::run(&mut cargo(&["--version"]))
        .map_err(|e| format!("{e}\nFuzzing needs nightly Rust: rustup toolchain install nightly"))?;
    // The versions that kiln is built with, as far as they are the same.
    std::fs::copy(root().join("Cargo.lock"), root().join("fuzz/Cargo.lock"))
        .map_err(|e| format!("copy Cargo.lock to fuzz: {e}"))?;
    shell::run(&mut cargo(&["build", "--release"]))?;
    let seconds = std::env::var("KILN_FUZZ_SECONDS").unwrap_or_else(|_| SECONDS.into());
    for target in TARGETS {
        let folder = shell::target().join("fuzz").join(target);
        let corpus = folder.join("corpus");
        make(&corpus)?;
        let mut c = cargo(&["run", "--quiet", "--release", "--bin", target, "--"]);
        c.arg(format!("-max_total_time={seconds}")).args(["-timeout=10", "-rss_limit_mb=1024"]);
        c.args(["-max_len=16384", "-print_final_stats=1", "-print_funcs=0", "-verbosity=0"]);
        c.arg(format!("-artifact_prefix={}/", folder.display())).arg(&corpus);
        shell::run(c.args(seeds(target, &folder)?))
            .map_err(|e| format!("{e}\nwhat it found is in {}", folder.display()))?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result {
    std::fs::create_dir_all(folder).map_err(|e| format!("make {}: {e}", folder.display()))
}

/// Folders of inputs to begin with.
fn seeds(target: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let below = |path: &str| root().join(path);
    match target {
        "document" => Ok(vec![below("tests/it/component/bad"), below("examples/components")]),
        "expression" => Ok(vec![below("fuzz/seeds/expression")]),
        _ => {
            let seeds = folder.join("seeds");
            make(&seeds)?;
            let golden = below("guest-agent/protocol/tests/golden/v1.txt");
            let text =
                std::fs::read_to_string(&golden).map_err(|e| format!("read {}: {e}", golden.display()))?;
            for (name, frame) in frames(&text) {
                let path = seeds.join(name);
                std::fs::write(&path, frame).map_err(|e| format!("write {}: {e}", path.display()))?;
            }
            Ok(vec![seeds])
        }
    }
}

/// What agents send, by the golden bytes, to each of the requests that the target has under way.
fn frames(golden: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for id in 1..=4u8 {
        for line in golden.lines().filter(|l| l.starts_with("agent.")) {
            let mut parts = line.splitn(3, ' ');
            let (Some(name), Some(_), Some(json)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            all.push((format!("{name}-{id}"), frame(1, id, json.as_bytes())));
        }
        all.push((format!("output-{id}"), [frame(3, id, b"text\n"), frame(3, id, b"")].concat()));
        all.push((format!("errors-{id}"), [frame(4, id, b"text\n"), frame(4, id, b"")].concat()));
    }
    all
}

fn frame(kind: u8, id: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("golden messages are short").to_le_bytes();
    [&[b'K', kind, 0, 0, id, 0, 0, 0][..], &length, payload].concat()
}
