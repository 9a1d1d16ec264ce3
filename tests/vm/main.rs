//! Real machines. Each test uses the smallest guest that can show its point.

mod appliance;
mod boot;
mod bootsector;
mod build;
mod disks;
mod doctor;
mod machine;
mod support;
