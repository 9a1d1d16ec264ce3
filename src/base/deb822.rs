//! Debian's control-file format: stanzas of `Field: value`, as apt and dpkg write them.

/// One stanza, fields in the order written. Continuation lines are joined by line feeds.
#[derive(Debug, Default)]
pub struct Stanza {
    fields: Vec<(String, String)>,
}

impl Stanza {
    /// A field's value; empty when the stanza has none.
    pub fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }
}

pub fn parse(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut open = Stanza::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !open.fields.is_empty() {
                stanzas.push(std::mem::take(&mut open));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = open.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            open.fields.push((name.trim().into(), value.trim().into()));
        }
    }
    if !open.fields.is_empty() {
        stanzas.push(open);
    }
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_end_at_empty_lines_and_continue_at_blanks() {
        let found = parse("Package: a\nDescription: one\n two\n .\n\n\nPackage: b\nEmpty:\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].get("description"), "one\ntwo\n.");
        assert_eq!((found[1].get("Package"), found[1].get("Empty"), found[1].get("Absent")), ("b", "", ""));
    }
}
