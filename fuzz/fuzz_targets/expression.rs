//! The `{{ }}` language: whatever a text is cut into, together it is the text again.

#![no_main]

use kiln::component::condition::{compare_numbers, compare_texts, is_number};
use kiln::component::expression::{Part, Reference, Template};
use kiln::component::run::pattern;
use kiln::support::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source::new("fuzz.yml", text);
    let template = Template::parse(text, source.span(0, text.len()));
    let mut whole = String::new();
    for part in &template.parts {
        match part {
            Part::Text(plain) => whole.push_str(plain),
            Part::Malformed { written } => {
                assert!(Reference::parse(&written[2..written.len() - 2]).is_none());
                whole.push_str(written);
            }
            Part::Reference { reference, written } => {
                assert_eq!(Reference::parse(&written[2..written.len() - 2]).as_ref(), Some(reference));
                whole.push_str(written);
            }
        }
    }
    assert_eq!(whole, text);
    // The operators of conditions, on the halves of the text.
    let middle = (0..=text.len() / 2).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let (value, operand) = text.split_at(middle);
    assert_eq!(compare_texts(value, operand), compare_texts(operand, value).reverse());
    let compared = compare_numbers(value, operand);
    assert_eq!(compared.is_some(), is_number(value) && is_number(operand));
    assert_eq!(compared, compare_numbers(operand, value).map(std::cmp::Ordering::reverse));
    if operand.len() < 200 {
        // A pattern may be wrong, or too large; it must not hang.
        let _ = pattern(operand).map(|p| p.is_match(value));
    }
});
