//! Text of strangers: guests, disks, files' names.

/// At most so many characters of it, without what a terminal would obey.
pub fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
