//! kiln's agent: does in the guest what the host asks, for one boot, and keeps nothing.
//!
//! It is started in one of three ways:
//!
//! * `kiln-agent --config FILE` in a guest: FILE begins with a block of JSON that
//!   says the nonce; the host is at the other end of a virtio-serial port.
//! * `kiln-agent --fd N` with `KILN_NONCE` set: the host is this machine, at the
//!   other end of a socket pair.
//! * as process 1: it is the init of kiln's appliance.

mod connect;
mod copy;
mod devices;
mod error;
mod exec;
mod extents;
mod facts;
mod files;
mod filesystem;
mod freeze;
mod hash;
mod init;
mod link;
mod modules;
mod network;
mod operation;
mod port;
mod power;
mod process;
mod renew;
mod request;
mod serve;
mod start;
mod transfer;
mod tree;
mod unpack;
mod users;
mod walk;

use std::process::ExitCode;

/// In place of the C library's, which reads /proc/self/maps by sscanf: 90 KB of the agent, and std asks
/// only so that it can name the thread whose stack overflowed.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_: libc::pthread_t, _: *mut libc::pthread_attr_t) -> libc::c_int {
    libc::ENOSYS
}

fn main() -> ExitCode {
    // It is executed from a descriptor or as /init; a list of processes should show what it is.
    let _ = rustix::thread::set_name(c"kiln-agent");
    // What starts it hides its own files; those of the host's commands are for everybody, as ever.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if std::process::id() == 1 {
        init::run();
    }
    match start::run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("kiln-agent: {reason}");
            ExitCode::FAILURE
        }
    }
}
