//! Builds the guest agent for both architectures into target/agents/.
//!
//! x86_64 needs nothing but this toolchain. For aarch64 no second toolchain of
//! rustup is used: Debian's cross compiler links, and the standard library for
//! arm64 comes from Debian's Rust packages, unpacked into target/ without root.

use crate::shell::{self, Result, command, read, root, which};
use std::fs;
use std::path::{Path, PathBuf};

const FLAGS: &str =
    "-C target-feature=+crt-static -C relocation-model=static -C link-arg=-Wl,--build-id=none";

pub fn run() -> Result {
    let out = root().join("target/agents");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    native(&out)?;
    cross(&out)
}

fn native(out: &Path) -> Result {
    let host = "x86_64-unknown-linux-gnu";
    let target_dir = root().join("target/agent-x86_64");
    let mut c =
        command(&["cargo", "build", "-p", "kiln-agent", "--profile", "agent", "--locked", "--target", host]);
    c.arg("--target-dir").arg(&target_dir).env("RUSTFLAGS", FLAGS);
    shell::run(&mut c)?;
    finish(&target_dir.join(host).join("agent/kiln-agent"), &out.join("kiln-agent-x86_64"))
}

fn cross(out: &Path) -> Result {
    if which("aarch64-linux-gnu-gcc").is_none() {
        return Err(
            "aarch64: no cross linker; install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross".into()
        );
    }
    let toolchain = unpack_toolchain()?;
    let target = "aarch64-unknown-linux-gnu";
    let target_dir = root().join("target/agent-aarch64");
    let usr = toolchain.join("usr");
    let mut c = command(&[
        "cargo",
        "build",
        "-p",
        "kiln-agent",
        "--profile",
        "agent",
        "--locked",
        "--target",
        target,
    ]);
    c.arg("--target-dir").arg(&target_dir);
    c.env("RUSTC", usr.join("bin/rustc"));
    c.env("LD_LIBRARY_PATH", format!("{0}/lib:{0}/lib/x86_64-linux-gnu", usr.display()));
    c.env("RUSTFLAGS", format!("{FLAGS} -C linker=aarch64-linux-gnu-gcc --sysroot {}", usr.display()));
    // Debian's compiler may be older or newer than ours; the agent asks for little.
    c.env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "allow").arg("--ignore-rust-version");
    shell::run(&mut c)?;
    finish(&target_dir.join(target).join("agent/kiln-agent"), &out.join("kiln-agent-aarch64"))
}

/// Debian's rustc, and its standard library for arm64, below target/.
fn unpack_toolchain() -> Result<PathBuf> {
    let folder = root().join("target/cross-rust");
    let done = folder.join("done");
    if done.is_file() {
        return Ok(folder);
    }
    let architectures = read(&mut command(&["dpkg", "--print-foreign-architectures"]))?;
    if !architectures.lines().any(|a| a == "arm64") {
        return Err("aarch64: apt does not know arm64 packages yet; as root: \
                    dpkg --add-architecture arm64 && apt-get update"
            .into());
    }
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    // Debian 12 carries a current Rust as rustc-web, Debian 13 as rustc.
    let known = |package: &str| {
        read(&mut command(&["apt-cache", "show", "--no-all-versions", package]))
            .is_ok_and(|text| !text.is_empty())
    };
    let names: [&str; 3] = if known("rustc-web") {
        ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev:arm64"]
    } else {
        ["rustc", "libstd-rust-dev", "libstd-rust-dev:arm64"]
    };
    let mut download = command(&["apt-get", "-q", "download"]);
    shell::run(download.args(names).args(runtime_libraries(names[1])?).current_dir(&folder))?;
    let packages = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for package in packages.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "deb"))
    {
        shell::run(command(&["dpkg", "-x"]).arg(&package).arg(&folder))?;
    }
    fs::write(&done, "").map_err(|e| e.to_string())?;
    Ok(folder)
}

/// Libraries that rustc itself needs at run time: its own libstd, and LLVM.
fn runtime_libraries(std: &str) -> Result<Vec<String>> {
    let depends = |package: &str| -> Result<Vec<String>> {
        let text =
            read(&mut command(&["apt-cache", "depends", "--no-recommends", "--no-suggests", package]))?;
        Ok(text.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    };
    let mut libraries: Vec<String> =
        depends(std)?.into_iter().filter(|n| n.starts_with("libstd-rust")).collect();
    for library in libraries.clone() {
        libraries.extend(depends(&library)?.into_iter().filter(|n| n.starts_with("libllvm")));
    }
    Ok(libraries)
}

fn finish(built: &Path, target: &Path) -> Result {
    let size = fs::copy(built, target).map_err(|e| format!("{}: {e}", built.display()))?;
    println!("{size:>9} bytes  {}", target.display());
    Ok(())
}
