//! Names of phases, steps, parameters and constants: 3 to 128 of `[A-Za-z0-9_-]`.

pub const MIN: usize = 3;
pub const MAX: usize = 128;

pub fn is_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Why a name is none, or None when it is one.
pub fn fault(name: &str) -> Option<String> {
    if let Some(bad) = name.chars().find(|c| !is_character(*c)) {
        return Some(format!("`{}` is not allowed in it", bad.escape_debug()));
    }
    let length = name.len();
    if !(MIN..=MAX).contains(&length) {
        return Some(format!("it has {length} characters"));
    }
    None
}

/// The rule, for help texts.
pub const RULE: &str = "names have 3 to 128 letters, digits, `-` or `_`";
