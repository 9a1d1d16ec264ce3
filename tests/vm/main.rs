//! Real machines. Each test uses the smallest guest that can show its point.

mod boot;
mod bootsector;
mod machine;
mod support;
