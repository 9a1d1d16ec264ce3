//! Real machines. Each test uses the smallest guest that can show its point.

mod appliance;
mod bases;
mod boot;
mod bootsector;
mod build;
mod classes;
mod contract;
mod diff;
mod disks;
mod doctor;
mod export;
mod lane;
mod layers;
mod machine;
mod packages;
mod residue;
#[path = "../it/rpm_root.rs"]
mod rpm_root;
mod run;
#[path = "../it/component/s3_store.rs"]
mod s3_store;
mod store;
mod support;
mod tiny;
mod together;
mod versions;
mod waking;
mod warm;
