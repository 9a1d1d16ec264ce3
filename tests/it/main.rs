//! Fast tests without virtual machines, in one binary.

mod agent;
mod component;
mod host_files;
