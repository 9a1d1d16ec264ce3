//! Inputs, by the action's table.

use super::super::action::{Action, Field, Input, Kind, Shape, Value};
use super::super::document::Platform;
use super::super::expression::Template;
use super::Scope;
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Kind as ScalarKind, Node};

pub fn decode(
    action: &'static Action,
    node: &Node,
    owner: &str,
    scope: &Scope,
    findings: &mut Findings,
) -> Option<Vec<Input>> {
    let what = format!("`inputs` of {owner}");
    if action.shape == Shape::List {
        let Some(items) = node.sequence() else {
            let message = format!("{what} must be a list: {} takes any number of items", action.name);
            findings.error(node.span, "inputs-shape", message).help = Some(shape_help(action));
            return None;
        };
        if items.is_empty() {
            let message = format!("{what} is empty, and {} needs at least one item", action.name);
            findings.error(node.span, "no-inputs", message).help = Some(shape_help(action));
        }
        return Some(items.iter().filter_map(|i| item(action, i, owner, scope, findings)).collect());
    }
    if node.sequence().is_some() {
        let message =
            format!("{what} must be a mapping: {} takes one set of fields, not a list", action.name);
        findings.error(node.span, "inputs-shape", message).help = Some(shape_help(action));
        return None;
    }
    Some(item(action, node, owner, scope, findings).into_iter().collect())
}

/// How the inputs of an action are written.
pub fn shape_help(action: &Action) -> String {
    let required: Vec<&Field> = action.fields.iter().filter(|f| f.required).collect();
    let shown = if required.is_empty() { action.fields.iter().take(1).collect() } else { required };
    let mut text = String::from("write\ninputs:");
    for (i, field) in shown.iter().enumerate() {
        let lead = match (action.shape, i) {
            (Shape::List, 0) => "  - ",
            (Shape::List, _) => "    ",
            _ => "  ",
        };
        let value = if field.kind == Kind::Texts { " [...]" } else { " ..." };
        text.push_str(&format!("\n{lead}{}:{value}", field.name));
    }
    if action.shape == Shape::Condition {
        text.push_str("\n  stringEquals: ...\n  value: ...");
    }
    text
}

fn item(
    action: &'static Action,
    node: &Node,
    owner: &str,
    scope: &Scope,
    findings: &mut Findings,
) -> Option<Input> {
    let mut fields = Fields::of(node, format!("{} in {owner}", action.name), findings)?;
    let mut values = Vec::new();
    for field in action.fields {
        let found = match (field.required, field.kind) {
            // An empty text is a text; the action decides.
            (true, _) => fields.required(field.name, findings),
            (false, _) => fields.optional(field.name),
        };
        let Some(value) = found else { continue };
        if !field.platforms.has(scope.platform) {
            let at = fields.key_span(field.name).unwrap_or(value.span);
            let message = format!("`{}` of {owner} does not exist on {}", field.name, scope.platform);
            findings.error(at, "wrong-platform", message).help =
                (scope.platform == Platform::Windows).then(|| "leave it out".into());
        }
        let what = format!("`{}` of {owner}", field.name);
        if let Some(value) = read(field, value, &what, findings) {
            values.push((field.name, value));
        }
    }
    fields.finish(findings);
    let input = Input { values, span: node.span };
    if let Some(check) = action.check {
        check(&input, findings, owner);
    }
    Some(input)
}

fn read(field: &Field, node: &Node, what: &str, findings: &mut Findings) -> Option<Value> {
    Some(match field.kind {
        Kind::Texts => Value::Texts(texts(node, what, findings)?),
        Kind::Boolean => Value::Boolean(findings.boolean(node, what)?),
        Kind::Integer => {
            let number = findings.integer(node, what)?;
            if number < 0 {
                findings.error(node.span, "bad-value", format!("{what} is {number}; it must be 0 or more"));
            }
            Value::Integer(number)
        }
        Kind::Map => {
            let Some(mapping) = node.mapping() else {
                findings.error(
                    node.span,
                    "wrong-type",
                    format!("{what} must be a mapping, not {}", node.describe()),
                );
                return None;
            };
            let pairs = mapping.entries.iter().filter_map(|(key, value)| {
                let name = findings.text(key, &format!("a name in {what}"))?.to_owned();
                let text = template(value, &format!("`{name}` in {what}"), findings)?;
                Some((name, text))
            });
            Value::Pairs(pairs.collect())
        }
        Kind::NamedValues => {
            let mut pairs = Vec::new();
            for item in findings.items(node, what)? {
                let Some(mut fields) = Fields::of(item, format!("each of {what}"), findings) else {
                    continue;
                };
                let name = fields.required("name", findings).and_then(|n| findings.text(n, "its name"));
                let value =
                    fields.required("value", findings).and_then(|n| template(n, "its value", findings));
                fields.finish(findings);
                pairs.extend(name.map(str::to_owned).zip(value));
            }
            Value::Pairs(pairs)
        }
        Kind::Registry if node.sequence().is_some() => Value::Texts(texts(node, what, findings)?),
        _ => {
            let text = template(node, what, findings)?;
            if let Some(fault) = text.literal().and_then(|t| field.kind.fault(t)) {
                findings.error(node.span, "bad-value", format!("{what} is wrong: {fault}"));
            }
            Value::Text(text)
        }
    })
}

/// A list of texts; an empty item is an empty text.
fn texts(node: &Node, what: &str, findings: &mut Findings) -> Option<Vec<Template>> {
    let Some(items) = node.sequence() else {
        let message = format!("{what} must be a list of texts, not {}", node.describe());
        findings.error(node.span, "wrong-type", message).help =
            Some("put `- ` before each item; a whole script is one item: `- |`".into());
        return None;
    };
    if items.is_empty() {
        findings.error(node.span, "no-inputs", format!("{what} is empty; it needs at least one item"));
    }
    Some(items.iter().filter_map(|n| template(n, &format!("each of {what}"), findings)).collect())
}

/// A text with references; nothing is the empty text, numbers and booleans count as written.
pub fn template(node: &Node, what: &str, findings: &mut Findings) -> Option<Template> {
    if node.scalar().is_some_and(|s| s.kind() == ScalarKind::Null) {
        return Some(Template::parse("", node.span));
    }
    findings.text(node, what).map(|t| Template::parse(t, node.span))
}
