//! Leaves out of the released agent what only unwinding would read.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=no-unwinding.ld");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    // The profile `agent`, whose panics abort, is the one for size; cargo tells no script its panic strategy.
    if env::var("OPT_LEVEL").as_deref() == Ok("z") {
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{root}/no-unwinding.ld");
    }
}
