//! The stages' work, one per file.

mod boot;
mod capture;
mod distribute;
mod lane;
mod prepare;
mod provision;
mod seal;
mod test;
mod tray;
mod warm;
