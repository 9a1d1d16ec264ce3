//! Loops of a step: what they visit.

use super::expression::Template;
use crate::support::source::Span;

#[derive(Clone, Debug)]
pub struct Loop {
    pub name: Option<String>,
    pub over: Over,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub enum Over {
    /// `start`, `start + update_by` ... while not past `end`, which belongs to it.
    For {
        start: i64,
        end: i64,
        update_by: i64,
    },
    List(Vec<Template>),
    Delimited {
        list: Template,
        delimiter: char,
    },
}

/// The delimiters a `forEach` string may have.
pub const DELIMITERS: [char; 9] = ['.', ',', ';', ':', '\n', '\t', ' ', '-', '_'];

/// Why a `for` cannot be: a step of zero, or one that leads away from `end`.
pub fn fault(start: i64, end: i64, update_by: i64) -> Option<&'static str> {
    match update_by {
        0 => Some("`updateBy` is 0, so the loop would never end"),
        1.. if start > end => Some("`start` is past `end`, and `updateBy` leads away from it"),
        ..=-1 if start < end => Some("`start` is below `end`, and `updateBy` leads away from it"),
        _ => None,
    }
}

/// The value of a `for` loop at an index from 0, or None when the loop has ended before.
pub fn value_at(start: i64, end: i64, update_by: i64, index: u64) -> Option<i64> {
    let value = i128::from(start) + i128::from(update_by) * i128::from(index);
    let inside = match update_by {
        0 => false,
        1.. => value <= i128::from(end),
        ..=-1 => value >= i128::from(end),
    };
    if inside { i64::try_from(value).ok() } else { None }
}

/// The items of a delimited text. Nothing is trimmed, empty items count, an empty text is one empty item.
pub fn split(list: &str, delimiter: char) -> Vec<String> {
    list.split(delimiter).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(start: i64, end: i64, by: i64) -> Vec<i64> {
        (0..).map_while(|i| value_at(start, end, by, i)).collect()
    }

    #[test]
    fn the_end_belongs_to_the_loop() {
        assert_eq!(all(1, 5, 2), [1, 3, 5]);
        assert_eq!(all(1, 6, 2), [1, 3, 5]);
        assert_eq!(all(3, 1, -1), [3, 2, 1]);
        assert_eq!(all(7, 7, 3), [7]);
        assert_eq!(value_at(i64::MAX - 1, i64::MAX, 2, 1), None);
        assert_eq!(value_at(i64::MIN, i64::MAX, 1, u64::MAX), Some(i64::MAX));
        assert_eq!(value_at(0, 1 << 31, 1, 1 << 31), Some(1 << 31));
        assert_eq!(split("a,,b ", ','), ["a", "", "b "]);
        assert_eq!(split("", ','), [""]);
    }

    proptest! {
        #[test]
        fn a_sound_loop_starts_at_start_and_stays_inside(start in -50i64..50, end in -50i64..50, by in -7i64..7) {
            let values = all(start, end, by);
            if fault(start, end, by).is_some() {
                prop_assert!(values.is_empty());
            } else {
                prop_assert_eq!(values[0], start);
                prop_assert!(values.windows(2).all(|w| w[1] - w[0] == by));
                prop_assert!(values.iter().all(|v| (start.min(end)..=start.max(end)).contains(v)));
                let past = values[values.len() - 1] + by;
                prop_assert!(!(start.min(end)..=start.max(end)).contains(&past));
            }
        }
    }
}
