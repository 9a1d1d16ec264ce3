//! Conditions of `if` and of Assert.

use super::super::condition::{
    Comparison, Condition, DEPTH, If, LOGICAL, OPERATORS, Operator, Test, Verdict, is_number,
};
use super::inputs::template;
use crate::support::diagnostic::Findings;
use crate::support::similar;
use crate::support::source::Span;
use crate::support::yaml::{Kind, Node, Value};

pub fn decode_if(node: &Node, owner: &str, findings: &mut Findings) -> Option<If> {
    let what = format!("`if` of {owner}");
    let entries = pairs(node, &what, findings)?;
    let mut verdict = |name: &str, default: Verdict| {
        let Some((_, node)) = entries.iter().find(|(k, _)| text_of(k) == name) else { return default };
        let names = ["Abort", "Execute", "Skip"];
        match findings.choice(node, &format!("`{name}` of {what}"), &names) {
            Some("Abort") => Verdict::Abort,
            Some("Skip") => Verdict::Skip,
            Some(_) => Verdict::Execute,
            None => default,
        }
    };
    let (then, otherwise) = (verdict("then", Verdict::Execute), verdict("else", Verdict::Skip));
    let rest: Vec<&(Node, Node)> =
        entries.iter().filter(|(k, _)| !matches!(text_of(k), "then" | "else")).collect();
    let condition = one(&rest, node.span, &what, 1, findings)?;
    Some(If { condition, then, otherwise, span: node.span })
}

/// The inputs of Assert.
pub fn decode_inputs(node: &Node, owner: &str, findings: &mut Findings) -> Option<Condition> {
    decode(node, &format!("`inputs` of {owner}"), 1, findings)
}

fn decode(node: &Node, what: &str, level: usize, findings: &mut Findings) -> Option<Condition> {
    let entries = pairs(node, what, findings)?;
    one(&entries.iter().collect::<Vec<_>>(), node.span, what, level, findings)
}

fn pairs<'n>(node: &'n Node, what: &str, findings: &mut Findings) -> Option<&'n [(Node, Node)]> {
    match &node.value {
        Value::Mapping(m) => Some(&m.entries),
        _ => {
            let message = format!("{what} must be a mapping with one operator, not {}", node.describe());
            findings.error(node.span, "condition-shape", message).help =
                Some("write it as\nstringEquals: text\nvalue: text".into());
            None
        }
    }
}

fn text_of(node: &Node) -> &str {
    node.scalar().map_or("", |s| s.text.as_str())
}

fn operator(name: &str) -> Option<&'static Operator> {
    OPERATORS.iter().find(|o| o.name == name)
}

/// A condition from its pairs: one operator, and what belongs to it.
fn one(
    entries: &[&(Node, Node)],
    span: Span,
    what: &str,
    level: usize,
    findings: &mut Findings,
) -> Option<Condition> {
    if level > DEPTH {
        let message = format!("conditions in {what} lie more than {DEPTH} deep in each other");
        findings.error(span, "condition-depth", message);
        return None;
    }
    let is_operator = |k: &Node| operator(text_of(k)).is_some() || LOGICAL.contains(&text_of(k));
    let (operators, others): (Vec<_>, Vec<_>) = entries.iter().copied().partition(|(k, _)| is_operator(k));
    let companion = operators.first().and_then(|(k, _)| operator(text_of(k))).and_then(|o| o.companion);
    let mut unknown = false;
    for (key, _) in &others {
        let name = text_of(key);
        if companion == Some(name) || (operators.is_empty() && matches!(name, "value" | "path")) {
            continue;
        }
        unknown = true;
        let names = OPERATORS.iter().map(|o| o.name).chain(LOGICAL);
        let d =
            findings.error(key.span, "unknown-field", format!("{what} has no operator or field `{name}`"));
        d.help = similar::nearest(name, names.clone())
            .map(|n| format!("did you mean `{n}`?"))
            .or_else(|| Some(format!("operators are {}", names.collect::<Vec<_>>().join(", "))));
    }
    match operators[..] {
        [(key, operand)] => match text_of(key) {
            "and" => Some(Condition::And(several(operand, what, level, findings)?)),
            "or" => Some(Condition::Or(several(operand, what, level, findings)?)),
            "not" => negated(operand, what, level, findings),
            name => {
                comparison(operator(name)?, key, operand, &others, what, findings).map(Condition::Compare)
            }
        },
        [] if unknown => None,
        [] => {
            findings.error(span, "no-operator", format!("{what} has no operator")).help =
                Some("add one, such as stringEquals with value".into());
            None
        }
        [_, (second, _), ..] => {
            let message = format!("{what} has several operators; it needs exactly one");
            findings.error(second.span, "several-operators", message).help =
                Some("combine them under `and` or `or`, as a list".into());
            None
        }
    }
}

fn several(operand: &Node, what: &str, level: usize, findings: &mut Findings) -> Option<Vec<Condition>> {
    let items = findings.items(operand, &format!("`and` and `or` in {what}"))?;
    if items.is_empty() {
        findings.error(operand.span, "no-operator", format!("a list of conditions in {what} is empty"));
    }
    let all: Vec<Option<Condition>> = items.iter().map(|n| decode(n, what, level + 1, findings)).collect();
    all.into_iter().collect()
}

/// `not` takes a condition, bare or as a list of one.
fn negated(operand: &Node, what: &str, level: usize, findings: &mut Findings) -> Option<Condition> {
    let inner = match operand.sequence() {
        None => operand,
        Some([only]) => only,
        Some(_) => {
            findings.error(
                operand.span,
                "condition-shape",
                format!("`not` in {what} takes exactly one condition"),
            );
            return None;
        }
    };
    decode(inner, what, level + 1, findings).map(|c| Condition::Not(Box::new(c)))
}

fn comparison(
    operator: &'static Operator,
    key: &Node,
    operand: &Node,
    others: &[&(Node, Node)],
    what: &str,
    findings: &mut Findings,
) -> Option<Comparison> {
    let name = operator.name;
    let written = template(operand, &format!("`{name}` of {what}"), findings)?;
    let span = key.span;
    if let Some(text) = written.literal() {
        match operator.test {
            Test::Number(_) => {
                let float = operand.scalar().is_some_and(|s| s.kind() == Kind::Float);
                if !is_number(text) && !float {
                    let message = format!("`{name}` of {what} is {}, which is no number", operand.describe());
                    findings.error(operand.span, "bad-number", message);
                }
            }
            Test::Pattern => {
                if let Err(e) = super::super::run::pattern(text) {
                    let message = format!("the pattern of {what} is no regular expression: {e}");
                    findings.error(operand.span, "bad-pattern", message);
                }
            }
            _ => {}
        }
    }
    let companion = match operator.companion {
        None => None,
        Some(wanted) => {
            let found = others.iter().find(|(k, _)| text_of(k) == wanted);
            let Some((_, node)) = found else {
                let message = format!("`{name}` of {what} needs `{wanted}` beside it");
                findings.error(span, "missing-field", message).help = Some(operator.help.into());
                return None;
            };
            Some(template(node, &format!("`{wanted}` of {what}"), findings)?)
        }
    };
    Some(Comparison { operator, operand: written, companion, span })
}
