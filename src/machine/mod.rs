//! L2: one QEMU process: what it is to be, how QEMU is told so, and its life until an exact end.
//!
//! Control channel and agent port are socket pairs, the console is a pipe, all inherited by QEMU: nothing
//! listens anywhere.
//! A guest that resets ends the process: a reboot is a new machine in the same folder.

pub mod accelerator;
mod argv;
mod console;
mod error;
mod exit;
pub mod firmware;
mod life;
mod memory;
mod qemu;
mod qmp;
mod screen;
mod spec;

pub use argv::{Layout, argv, shape};
pub use console::{Console, last_lines, read_console};
pub use error::MachineError;
pub use exit::Exit;
pub use life::{Identity, Machine, reap};
pub use memory::{Memory, digested};
pub use qemu::{Qemu, Version, default_cpu};
pub use qmp::{Event, Qmp, QmpError};
pub use screen::Size;
pub use spec::{
    Accelerator, Cache, Credential, DirectKernel, Disk, Forward, Interface, MachineSpec, Network, SpecError,
};
