//! L0: what every room stands on. Knows nothing of images.

pub mod clock;
pub mod command;
pub mod diagnostic;
pub mod similar;
pub mod source;
pub mod wait;
pub mod yaml;
