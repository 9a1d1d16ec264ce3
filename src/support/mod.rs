//! L0: what every room stands on. Knows nothing of images.

pub mod wait;
