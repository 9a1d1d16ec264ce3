//! Text of strangers: guests, disks, files' names.

/// At most so many characters of it, without what a terminal would obey.
pub fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// At most so many characters of it, with a mark for each that a terminal would obey or a table break at.
pub fn marked(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { '?' } else { c }).collect()
}
