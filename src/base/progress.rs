//! What work on a base image tells while it goes on.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doing<'a> {
    /// Something begins, or is found.
    Step(&'a str),
    /// So much of a download is here.
    Bytes { done: u64, total: Option<u64> },
    /// So much of the step is done, of 1.
    Part(f32),
}

pub type Progress<'p> = dyn FnMut(Doing<'_>) + Send + 'p;
