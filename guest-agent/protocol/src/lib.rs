//! What kiln and its guest agent say to each other.
//!
//! One definition for both ends. [`frame`] cuts the byte stream into bounded
//! frames and knows nothing of their meaning; [`message`] is the meaning of
//! control frames, in JSON so that a recorded conversation can be read.
//! Nothing here does I/O. Golden bytes per message and version are in `tests/`.

pub mod frame;
pub mod message;

/// The protocol this build speaks. Raise it when an old peer would misread a new message.
///
/// 1: the first.
pub const VERSION: u16 = 1;

/// The oldest version this build still understands.
pub const OLDEST: u16 = 1;

/// Name of the virtio-serial port the agent opens: `/dev/virtio-ports/kiln.agent`.
pub const PORT_NAME: &str = "kiln.agent";

/// What a sender may have under way for one request and direction before the receiver grants more,
/// counted by [`frame::cost`].
pub const WINDOW: u32 = 512 * 1024;
