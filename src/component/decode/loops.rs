//! `loop` of a step.

use super::super::expression::Template;
use super::super::loops::{DELIMITERS, Loop, Over, fault};
use super::inputs::template;
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Node, Value};

pub fn decode(node: &Node, owner: &str, findings: &mut Findings) -> Option<Loop> {
    let mut fields = Fields::of(node, format!("the loop of {owner}"), findings)?;
    let name_node = fields.optional("name");
    let name = name_node.and_then(|n| findings.text(n, &format!("the name of the loop of {owner}")));
    let (counted, each) = (fields.optional("for"), fields.optional("forEach"));
    let over = match (counted, each) {
        (Some(node), None) => counting(node, owner, findings),
        (None, Some(node)) => for_each(node, owner, findings),
        (both, _) => {
            let which =
                if both.is_some() { "both `for` and `forEach`" } else { "neither `for` nor `forEach`" };
            let message = format!("the loop of {owner} has {which}; it needs exactly one of them");
            findings.error(node.span, "loop-kind", message);
            None
        }
    };
    fields.finish(findings);
    let name = name.filter(|n| !n.is_empty()).map(str::to_owned);
    if name.as_deref() == Some("loop") {
        findings.error(node.span, "bad-name", format!("the loop of {owner} may not be named `loop`"));
    }
    Some(Loop { name, over: over?, span: name_node.map_or(node.span, |n| n.span) })
}

fn counting(node: &Node, owner: &str, findings: &mut Findings) -> Option<Over> {
    let mut fields = Fields::of(node, format!("`for` of {owner}"), findings)?;
    let mut number = |name: &'static str, findings: &mut Findings| {
        let node = fields.required(name, findings)?;
        let what = format!("`{name}` of the loop of {owner}");
        if node.text().is_some_and(|t| t.contains("{{")) {
            findings.error(node.span, "loop-expression", format!("{what} may not hold an expression")).help =
                Some("write a number, or use `forEach` with a list".into());
            return None;
        }
        findings.integer(node, &what)
    };
    let (start, end, update_by) =
        (number("start", findings), number("end", findings), number("updateBy", findings));
    fields.finish(findings);
    let (start, end, update_by) = (start?, end?, update_by?);
    if let Some(fault) = fault(start, end, update_by) {
        findings.error(node.span, "endless-loop", format!("the loop of {owner} is wrong: {fault}"));
    }
    Some(Over::For { start, end, update_by })
}

fn for_each(node: &Node, owner: &str, findings: &mut Findings) -> Option<Over> {
    let what = format!("`forEach` of {owner}");
    match &node.value {
        Value::Sequence(items) => {
            let items: Vec<Template> =
                items.iter().filter_map(|n| template(n, &format!("each of {what}"), findings)).collect();
            if items.is_empty() {
                findings.error(node.span, "empty-loop", format!("{what} is empty"));
            }
            Some(Over::List(items))
        }
        Value::Mapping(_) => {
            let mut fields = Fields::of(node, what.as_str(), findings)?;
            let list = fields
                .required("list", findings)
                .and_then(|n| template(n, &format!("`list` of {what}"), findings));
            let delimiter = match fields.written("delimiter").and_then(|n| n.scalar().map(|s| (n, s))) {
                None => Some(','),
                Some((node, scalar)) => delimiter(&scalar.text).or_else(|| {
                    let message = format!("the delimiter of {what} is `{}`", scalar.text.escape_debug());
                    findings.error(node.span, "bad-delimiter", message).help =
                        Some("one of . , ; : - _ blank tab newline, in quotes; no expression".into());
                    None
                }),
            };
            fields.finish(findings);
            Some(Over::Delimited { list: list?, delimiter: delimiter? })
        }
        Value::Scalar(_) => {
            let message = format!("{what} must be a list, or a mapping with `list` and `delimiter`");
            findings.error(node.span, "wrong-type", message);
            None
        }
    }
}

/// Also the two characters `\n` or `\t`, as single quotes leave them.
fn delimiter(text: &str) -> Option<char> {
    match text {
        "\\n" => return Some('\n'),
        "\\t" => return Some('\t'),
        _ => {}
    }
    let mut characters = text.chars();
    let first = characters.next().filter(|c| DELIMITERS.contains(c))?;
    characters.next().is_none().then_some(first)
}
