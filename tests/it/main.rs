//! Fast tests without virtual machines, in one binary.

mod agent;
mod base;
mod command_line;
mod component;
mod host_files;
mod rpm;
mod rpm_root;
mod signals;
