//! Steps.

use super::super::action::{self, Action, Shape, Verb};
use super::super::document::{DEFAULT_TIMEOUT, Inputs, OnFailure, Step};
use super::{Scope, checked_name, condition, flag, inputs, loops};
use crate::support::diagnostic::Findings;
use crate::support::similar;
use crate::support::source::Span;
use crate::support::yaml::{Fields, Node};
use std::collections::HashMap;

pub fn steps(list: &Node, phase: &str, scope: &Scope, findings: &mut Findings) -> Vec<Step> {
    let mut names: HashMap<String, Span> = HashMap::new();
    let mut loop_names: HashMap<String, Span> = HashMap::new();
    let mut all = Vec::new();
    let items = findings.items(list, &format!("`steps` of phase `{phase}`")).unwrap_or(&[]);
    for item in items {
        let Some(step) = step(item, phase, scope, findings) else { continue };
        if let Some(first) = names.insert(step.name.clone(), step.span) {
            let message =
                format!("phase `{phase}` has a step `{}` already, on line {}", step.name, first.line);
            findings.error(step.span, "duplicate-step", message).help =
                Some("name each step of a phase differently".into());
        }
        if let Some((name, span)) = step.looped.as_ref().and_then(|l| Some((l.name.clone()?, l.span)))
            && let Some(first) = loop_names.insert(name.clone(), span)
        {
            let message = format!("phase `{phase}` has a loop `{name}` already, on line {}", first.line);
            findings.error(span, "duplicate-loop", message);
        }
        all.push(step);
    }
    all
}

fn step(item: &Node, phase: &str, scope: &Scope, findings: &mut Findings) -> Option<Step> {
    let mut fields = Fields::of(item, format!("a step of phase `{phase}`"), findings)?;
    let name_node = fields.required("name", findings);
    let name = name_node.and_then(|n| checked_name(n, "a step", findings));
    let owner = match (&name, name_node.and_then(|n| n.scalar())) {
        (Some(name), _) => format!("step `{name}`"),
        (None, Some(s)) => format!("step `{}`", s.text.escape_debug()),
        (None, None) => format!("the step on line {}", item.span.line),
    };
    let action_node = fields.required("action", findings);
    let action = action_node.and_then(|n| known_action(n, &owner, scope, findings));
    let timeout = fields.optional("timeoutSeconds");
    let attempts = fields.optional("maxAttempts");
    let on_failure = fields.optional("onFailure").and_then(|n| {
        let names = OnFailure::ALL.map(OnFailure::as_str);
        let chosen = findings.choice(n, &format!("`onFailure` of {owner}"), &names)?;
        OnFailure::ALL.into_iter().find(|o| o.as_str() == chosen)
    });
    let on_failure = on_failure.unwrap_or(OnFailure::Abort);
    let looped = fields.optional("loop").and_then(|n| loops::decode(n, &owner, findings));
    let conditional = fields.optional("if").and_then(|n| condition::decode_if(n, &owner, findings));
    let disable_logging = flag(&mut fields, "disableLogging", findings);
    let inputs_node = fields.optional("inputs");
    let inputs = action.and_then(|a| step_inputs(a, inputs_node, item, &owner, scope, findings));
    let timeout_seconds = timeout_seconds(timeout, action, &owner, findings);
    let max_attempts = max_attempts(attempts, action, &owner, findings);
    fields.finish(findings);
    if on_failure == OnFailure::Continue {
        let at = item.mapping().and_then(|m| m.get("onFailure")).map_or(item.span, |n| n.span);
        let message = format!("when {owner} fails, later steps run, but the document still fails in the end");
        findings.warning(at, "continue-fails", message).help =
            Some("write onFailure: Ignore when its failure does not matter".into());
    }
    Some(Step {
        name: name?,
        action: action?,
        inputs: inputs?,
        timeout_seconds,
        on_failure,
        max_attempts,
        looped,
        condition: conditional,
        disable_logging,
        span: name_node.map_or(item.span, |n| n.span),
    })
}

fn known_action(node: &Node, owner: &str, scope: &Scope, findings: &mut Findings) -> Option<&'static Action> {
    let name = findings.text(node, &format!("`action` of {owner}"))?;
    let Some(action) = action::find(name) else {
        let near = similar::nearest(name, action::ALL.iter().map(|a| a.name));
        let d =
            findings.error(node.span, "unknown-action", format!("{owner} uses `{name}`, which is no action"));
        d.help = Some(match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", action::ALL.map(|a| a.name).join(", ")),
        });
        return None;
    };
    if !action.platforms.has(scope.platform) {
        let message = format!(
            "{owner} uses {name}, which there is not on {}, only on {}",
            scope.platform,
            action.platforms.names()
        );
        findings.error(node.span, "wrong-platform", message);
    }
    if scope.rules.blocked.iter().any(|b| b == name) {
        findings.error(node.span, "blocked-action", format!("{owner} uses {name}, which is blocked here"));
    }
    Some(action)
}

fn step_inputs(
    action: &'static Action,
    node: Option<&Node>,
    item: &Node,
    owner: &str,
    scope: &Scope,
    findings: &mut Findings,
) -> Option<Inputs> {
    let Some(node) = node else {
        if action.needs_inputs() {
            let at = item.mapping().and_then(|m| m.get("action")).map_or(item.span, |n| n.span);
            let message = format!("{owner} has no `inputs`, which {} needs", action.name);
            findings.error(at, "no-inputs", message).help = Some(inputs::shape_help(action));
        }
        return Some(Inputs::Items(Vec::new()));
    };
    match action.shape {
        Shape::Condition => condition::decode_inputs(node, owner, findings).map(Inputs::Condition),
        Shape::Map | Shape::List => inputs::decode(action, node, owner, scope, findings).map(Inputs::Items),
    }
}

fn timeout_seconds(
    node: Option<&Node>,
    action: Option<&Action>,
    owner: &str,
    findings: &mut Findings,
) -> Option<u64> {
    let fixed = action.is_some_and(|a| a.verb == Verb::ExecuteDocument);
    let unlimited = action.is_some_and(|a| matches!(a.verb, Verb::ExecuteDocument | Verb::Reboot));
    let default = if unlimited { None } else { Some(DEFAULT_TIMEOUT) };
    let Some(node) = node else { return default };
    let Some(seconds) = findings.integer(node, &format!("`timeoutSeconds` of {owner}")) else {
        return default;
    };
    if fixed && seconds != -1 {
        let message =
            format!("`timeoutSeconds` of {owner} must be -1: ExecuteDocument has no limit of its own");
        findings.error(node.span, "fixed-setting", message).help =
            Some("leave it out; the steps of the document have their own".into());
        return None;
    }
    if seconds == 0 || seconds < -1 {
        let message =
            format!("`timeoutSeconds` of {owner} is {seconds}; it must be 1 or more, or -1 for no limit");
        findings.error(node.span, "bad-timeout", message);
    }
    if unlimited { None } else { u64::try_from(seconds).ok() }
}

fn max_attempts(node: Option<&Node>, action: Option<&Action>, owner: &str, findings: &mut Findings) -> u32 {
    let Some(node) = node else { return 1 };
    let Some(attempts) = findings.integer(node, &format!("`maxAttempts` of {owner}")) else { return 1 };
    if action.is_some_and(|a| a.verb == Verb::ExecuteDocument) && attempts != 1 {
        let message = format!("`maxAttempts` of {owner} must be 1: ExecuteDocument is not repeated");
        findings.error(node.span, "fixed-setting", message).help =
            Some("leave it out; the steps of the document have their own".into());
        return 1;
    }
    u32::try_from(attempts).ok().filter(|a| *a >= 1).unwrap_or_else(|| {
        let message = format!("`maxAttempts` of {owner} is {attempts}; it must be 1 or more");
        findings.error(node.span, "bad-attempts", message);
        1
    })
}
