//! L4: base images, where recipes start: definitions, building from packages, pull, import.

mod bootloader;
mod build;
mod deb822;
mod definition;
mod error;
mod import;
mod inspect;
mod layout;
mod mirror;
mod ova;
mod progress;
mod pull;
mod store;
mod tree;
mod work;

pub use build::{build, missing_tools};
pub use definition::{Content, Definition, Packages, built_in, find, is_name, parse, published};
pub use error::{BaseError, MissingTool};
pub use import::{Form, Import, import};
pub use inspect::inspect;
pub use progress::{Doing, Progress};
pub use pull::{Pull, PullError, pull};
pub use store::{BaseImage, DISK, Damaged, Origin, Store};
pub use work::probe as can_isolate;
