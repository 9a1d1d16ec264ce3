//! What can only be said of a whole document: references, and warnings.

use super::action::{Verb, field::Value};
use super::document::{Document, Inputs, Step};
use super::expression::{Chain, Part, Reference, Side, Ssm, Template};
use crate::support::diagnostic::Findings;
use crate::support::similar;
use crate::support::source::Span;

/// Adds everything found to `findings`.
pub fn document(document: &Document, findings: &mut Findings) {
    for (p, phase) in document.phases.iter().enumerate() {
        for (s, step) in phase.steps.iter().enumerate() {
            let checker = Checker { document, at: (p, s), step };
            for template in step.templates() {
                checker.template(template, findings);
            }
            if step.action.verb == Verb::ExecuteBash {
                silent_failures(step, findings);
            }
        }
    }
}

struct Checker<'a> {
    document: &'a Document,
    /// Indexes of the phase and of the step in it.
    at: (usize, usize),
    step: &'a Step,
}

impl Checker<'_> {
    fn template(&self, template: &Template, findings: &mut Findings) {
        let source = findings.source.clone();
        let mut seen: Vec<&str> = Vec::new();
        for part in &template.parts {
            let (Part::Reference { written, .. } | Part::Malformed { written }) = part else { continue };
            let nth = seen.iter().filter(|w| **w == written.as_str()).count();
            seen.push(written);
            let span = source.find(template.span, written, nth);
            match part {
                Part::Reference { reference, .. } => self.reference(reference, span, findings),
                _ => self.malformed(written, span, findings),
            }
        }
        unclosed(template, findings);
    }

    fn malformed(&self, written: &str, span: Span, findings: &mut Findings) {
        let inner = written.trim_matches(['{', '}']).trim();
        let d = findings.error(span, "bad-reference", format!("`{written}` is no reference"));
        d.help = Some(if let Some(key) = inner.strip_prefix("context:") {
            let keys = super::expression::ContextKey::ALL.iter().map(|k| k.as_str());
            match similar::nearest(key, keys.clone()) {
                Some(near) => format!("did you mean context:{near}?"),
                None => format!("context: has {}", keys.collect::<Vec<_>>().join(", ")),
            }
        } else if inner.starts_with('.') || inner.contains(' ') {
            "`{{` always begins a reference in a component document; a template of another language cannot stand in it as it is".into()
        } else {
            "references are {{ Name }}, {{ phase.step.outputs.stdout }}, {{ phase.step.inputs[0].field }}, {{ loop.value }}, {{ env:NAME }}, {{ context:KEY }}, {{ aws:ssm:/name }}, {{ aws:imds:path }}".into()
        });
    }

    fn reference(&self, reference: &Reference, span: Span, findings: &mut Findings) {
        match reference {
            Reference::Name(name) => self.name(name, span, findings),
            Reference::Ssm(ssm) => {
                let mut ssm = ssm;
                while let Ssm::OfSsm(inner) = ssm {
                    ssm = inner;
                }
                if let Ssm::OfParameter(name) = ssm {
                    self.name(name, span, findings);
                }
            }
            Reference::Imds(path) => {
                let root = path.split('/').next().unwrap_or("");
                if matches!(root, "iam" | "identity-credentials") {
                    let message =
                        format!("the metadata below `{root}` holds credentials and may not be read");
                    findings.error(span, "credentials", message);
                }
            }
            Reference::Loop { name, .. } => self.loop_reference(name.as_deref(), span, findings),
            Reference::Chain(chain) => self.chain(chain, span, findings),
            Reference::Env(_) | Reference::Context(_) => {}
        }
    }

    fn name(&self, name: &str, span: Span, findings: &mut Findings) {
        let known = self
            .document
            .parameters
            .iter()
            .map(|p| p.name.as_str())
            .chain(self.document.constants.iter().map(|c| c.name.as_str()));
        if known.clone().any(|k| k == name) {
            return;
        }
        let d = findings.error(
            span,
            "undeclared",
            format!("`{name}` is neither a parameter nor a constant of this document"),
        );
        d.help = Some(match similar::nearest(name, known) {
            Some(near) => format!("did you mean {{{{ {near} }}}}?"),
            None => format!("declare it:\nparameters:\n  - {name}:\n      type: string"),
        });
    }

    /// Loops of other steps are out of reach; what refers to none at all stays as it is written.
    fn loop_reference(&self, name: Option<&str>, span: Span, findings: &mut Findings) {
        let own = self.step.looped.as_ref();
        let Some(name) = name else {
            if own.is_none() {
                let message =
                    format!("step `{}` has no loop, so this stays in the text as it is", self.step.name);
                findings.warning(span, "no-loop", message).help = Some("add a `loop` to the step".into());
            }
            return;
        };
        if own.and_then(|l| l.name.as_deref()) == Some(name) {
            return;
        }
        let all = self.document.phases.iter().flat_map(|p| &p.steps);
        let names: Vec<&str> = all.filter_map(|s| s.looped.as_ref()?.name.as_deref()).collect();
        if names.contains(&name) {
            let message =
                format!("the loop `{name}` belongs to another step, so this stays in the text as it is");
            findings.warning(span, "no-loop", message).help =
                Some("write {{ loop.value }} or {{ loop.index }}".into());
            return;
        }
        let d = findings.error(span, "undeclared", format!("there is no loop `{name}`"));
        d.help = similar::nearest(name, names).map(|n| format!("did you mean `{n}`?"));
    }

    fn chain(&self, chain: &Chain, span: Span, findings: &mut Findings) {
        let phases = &self.document.phases;
        let Some(p) = phases.iter().position(|p| p.name == chain.phase) else {
            let d = findings.error(span, "undeclared", format!("there is no phase `{}`", chain.phase));
            d.help = similar::nearest(&chain.phase, phases.iter().map(|p| p.name.as_str()))
                .map(|n| format!("did you mean `{n}`?"));
            return;
        };
        let steps = &phases[p].steps;
        let Some(s) = steps.iter().position(|s| s.name == chain.step) else {
            let message = format!("phase `{}` has no step `{}`", chain.phase, chain.step);
            let d = findings.error(span, "undeclared", message);
            d.help = similar::nearest(&chain.step, steps.iter().map(|s| s.name.as_str()))
                .map(|n| format!("did you mean `{n}`?"));
            return;
        };
        let target = &steps[s];
        chain_field(chain, target, span, findings);
        if (p, s) >= self.at {
            let when = if (p, s) == self.at { "is this very step" } else { "runs later" };
            let message = format!("step `{}` {when}, so there is nothing to refer to yet", chain.step);
            findings.error(span, "forward-reference", message).help =
                Some("refer to a step that runs before this one".into());
        } else if self.document.phases[self.at.0].name == "test" && chain.phase != "test" {
            let message = "an image build runs `test` on another machine, where this has no value".to_owned();
            findings.warning(span, "other-machine", message).help =
                Some("find the value out again in a step of the test phase".into());
        }
    }
}

fn chain_field(chain: &Chain, target: &Step, span: Span, findings: &mut Findings) {
    let action = target.action;
    let (known, side): (Vec<&str>, &str) = match chain.side {
        Side::Outputs => (action.outputs.to_vec(), "output"),
        Side::Inputs => (action.fields.iter().map(|f| f.name).collect(), "input"),
    };
    if !known.contains(&chain.field.as_str()) {
        let message = format!("{} of step `{}` has no {side} `{}`", action.name, chain.step, chain.field);
        let d = findings.error(span, "undeclared", message);
        d.help = Some(match similar::nearest(&chain.field, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("{} has no {side}s", action.name),
            None => format!("it has {}", known.join(", ")),
        });
        return;
    }
    let Inputs::Items(items) = &target.inputs else { return };
    let count = items.len().max(1);
    if let Some(index) = chain.index.filter(|i| *i >= count) {
        let message = format!(
            "step `{}` has {count} item{}, so there is no [{index}]; the first is [0]",
            chain.step,
            if count == 1 { "" } else { "s" }
        );
        findings.error(span, "bad-index", message);
    } else if chain.side == Side::Inputs && chain.index.is_none() && count > 1 {
        let message = format!("step `{}` has {count} items; say which one", chain.step);
        findings.error(span, "bad-index", message).help = Some(format!("write inputs[0].{}", chain.field));
    }
}

/// A `{{` that is not closed on its line is text, which few authors mean.
fn unclosed(template: &Template, findings: &mut Findings) {
    for part in &template.parts {
        let Part::Text(text) = part else { continue };
        let Some(at) = text.find("{{") else { continue };
        let rest = &text[at..];
        let line = rest.lines().next().unwrap_or(rest);
        // `{{{` before a reference, and braces of shell or awk, are no attempt at one.
        let attempt =
            line[2..].trim_start().starts_with(|c: char| c.is_ascii_alphanumeric()) && !line.contains("}}");
        if attempt {
            let source = findings.source.clone();
            let span = source.find(template.span, line.trim_end(), 0);
            findings
                .warning(
                    span,
                    "unclosed-reference",
                    "`{{` is not closed on its line, so it stays in the text as it is",
                )
                .help = Some("close it with }}".into());
            return;
        }
    }
}

/// A script's status is that of its last command.
fn silent_failures(step: &Step, findings: &mut Findings) {
    let Inputs::Items(items) = &step.inputs else { return };
    let Some(Value::Texts(commands)) = items.first().and_then(|i| i.get("commands")) else { return };
    let mut lines = 0;
    for command in commands {
        for part in &command.parts {
            let Part::Text(text) = part else { continue };
            if text.contains("set -e") || text.contains("errexit") || text.contains("|| exit") {
                return;
            }
        }
        lines += command
            .parts
            .iter()
            .map(|p| match p {
                Part::Text(text) => text.trim().lines().filter(|l| !l.trim().is_empty()).count().max(1),
                _ => 0,
            })
            .sum::<usize>();
    }
    if lines > 1 {
        let message = format!(
            "step `{}` succeeds whenever its last command does: the script goes on after a failed command",
            step.name
        );
        findings.warning(step.span, "no-errexit", message).help =
            Some("make `set -e` the first command, or end commands with `|| exit 1`".into());
    }
}
