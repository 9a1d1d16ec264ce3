//! L0: what every room stands on. Knows nothing of images.

pub mod clock;
pub mod command;
pub mod diagnostic;
pub mod files;
pub mod random;
pub mod similar;
pub mod size;
pub mod source;
pub mod spawn;
pub mod text;
pub mod wait;
pub mod yaml;
