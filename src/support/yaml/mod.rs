//! YAML (and JSON, which is a part of it) as a tree that knows where each node stands.
//!
//! Scalars keep their text and their quotes, so `0777` stays `0777` and `1.0`
//! is not `1`; what a scalar means is decided by who asks ([`fields`]).

mod fields;
mod node;
mod parse;

pub use fields::Fields;
pub use node::{Kind, Mapping, Node, Scalar, Style, Value};
pub use parse::{Limits, parse};
