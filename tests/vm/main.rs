//! Real machines. Each test uses the smallest guest that can show its point.

mod appliance;
mod boot;
mod bootsector;
mod build;
mod disks;
mod doctor;
mod lane;
mod machine;
mod residue;
mod support;
mod tiny;
mod together;
