//! Users and groups by name, from /etc/passwd and /etc/group: a static binary has no name service.

use std::fs;

use kiln_protocol::message::ErrorKind;

use crate::error::{During, Outcome, failed};

/// Who a path is to be given to; None leaves it as it is.
#[derive(Clone, Copy, Default)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

/// Looks names or numbers up. A user without a group brings the user's primary group.
pub fn owner(user: Option<&str>, group: Option<&str>) -> Outcome<Owner> {
    let mut owner = Owner::default();
    if let Some(name) = user {
        let line = find("/etc/passwd", name)?;
        owner.user = Some(match (&line, name.parse()) {
            (Some(line), _) => number(line, 2)?,
            (None, Ok(id)) => id,
            (None, Err(_)) => return Err(unknown("user", name)),
        });
        owner.group = line.map(|line| number(&line, 3)).transpose()?;
    }
    if let Some(name) = group {
        owner.group = Some(match (find("/etc/group", name)?, name.parse()) {
            (Some(line), _) => number(&line, 2)?,
            (None, Ok(id)) => id,
            (None, Err(_)) => return Err(unknown("group", name)),
        });
    }
    Ok(owner)
}

/// The line whose name is `name` or whose number it is; a name comes first, as in chown(1).
fn find(file: &str, name: &str) -> Outcome<Option<String>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).during("read", file),
    };
    Ok(line_of(&String::from_utf8_lossy(&text), name).map(str::to_owned))
}

fn line_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let with = |column| text.lines().find(|line| line.split(':').nth(column) == Some(name));
    with(0).or_else(|| with(2))
}

fn number(line: &str, column: usize) -> Outcome<u32> {
    let field = line.split(':').nth(column).and_then(|n| n.parse().ok());
    field.ok_or_else(|| failed(ErrorKind::Invalid, format!("no number in field {} of `{line}`", column + 1)))
}

fn unknown(what: &str, name: &str) -> kiln_protocol::message::Failed {
    failed(ErrorKind::Invalid, format!("there is no {what} `{name}` in the guest"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_come_before_numbers() {
        let text = "root:x:0:0::/root:/bin/sh\nab:x:1000:1000::/:/bin/sh\n1000:x:7:8::/:/bin/sh\n";
        let uid = |name| super::line_of(text, name).map(|line| super::number(line, 2).unwrap());
        assert_eq!(
            (uid("ab"), uid("1000"), uid("0"), uid("x"), uid("")),
            (Some(1000), Some(7), Some(0), None, None)
        );
        assert!(super::number("a:b:c", 2).is_err() && super::number("a", 2).is_err());
    }
}
