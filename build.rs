//! Builds the guest agent and lets the library carry its bytes.
//!
//! The agent is a static binary with a profile of its own, so it is built by a
//! second cargo in a target folder of its own (one cargo must not wait for the
//! lock that the other holds). `KILN_AGENT_AARCH64` may name a ready-made
//! agent for aarch64 guests (`cargo xtask agent` makes one); without it this
//! kiln serves the architecture it was built for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for path in [
        "guest-agent/Cargo.toml",
        "guest-agent/build.rs",
        "guest-agent/no-unwinding.ld",
        "guest-agent/src",
        "guest-agent/protocol",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=KILN_AGENT_AARCH64");

    let host = env::var("HOST").expect("cargo sets it");
    let agent = build_agent(&root, &out, &host);
    std::fs::copy(&agent, out.join("kiln-agent-host")).expect("copy the agent into OUT_DIR");
    let foreign = match env::var_os("KILN_AGENT_AARCH64") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            std::fs::read(&path).unwrap_or_else(|e| panic!("KILN_AGENT_AARCH64={}: {e}", path.display()))
        }
        None => Vec::new(),
    };
    std::fs::write(out.join("kiln-agent-aarch64"), foreign).expect("write the aarch64 agent into OUT_DIR");
}

fn build_agent(root: &Path, out: &Path, host: &str) -> PathBuf {
    let target_dir = out.join("agent-target");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--package",
            "kiln-agent",
            "--profile",
            "agent",
            "--locked",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(&target_dir)
        .current_dir(root)
        // What cargo set for this script must not leak into the other build.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            ["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Clink-arg=-Wl,--build-id=none"]
                .join("\u{1f}"),
        );
    let status = cargo.status().expect("start cargo for the guest agent");
    assert!(status.success(), "the guest agent did not build (a static glibc is needed: libc6-dev)");
    target_dir.join(host).join("agent").join("kiln-agent")
}
