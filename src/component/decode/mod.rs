//! From the node tree to a [`Document`]: every error is reported, none ends the reading.

mod condition;
mod inputs;
mod loops;
mod step;

use super::document::{Constant, Document, Parameter, Phase, Platform, Rules};
use super::{action, name};
use crate::support::diagnostic::Findings;
use crate::support::similar;
use crate::support::source::Span;
use crate::support::yaml::{Fields, Kind, Node, Value};
use std::collections::HashMap;

/// What every part of the decoder needs to know.
struct Scope<'a> {
    platform: Platform,
    rules: &'a Rules,
}

/// None when nothing could be made of it; errors are in `findings` then.
pub fn document(root: &Node, rules: &Rules, findings: &mut Findings) -> Option<Document> {
    let source = findings.source.clone();
    foreign_tags(root, findings);
    if another_file(root, findings) {
        return None;
    }
    let mut fields = Fields::of(root, "a component document", findings)?;
    let name = fields.optional("name").and_then(|n| text(n, "`name`", findings));
    let description = fields.optional("description").and_then(|n| text(n, "`description`", findings));
    schema_version(&mut fields, findings);
    let scope = Scope { platform: rules.platform.unwrap_or_else(|| platform(root)), rules };
    let constants = fields.optional("constants").map(|n| constants(n, findings)).unwrap_or_default();
    let parameters = fields.optional("parameters").map(|n| parameters(n, findings)).unwrap_or_default();
    unique_names(&constants, &parameters, findings);
    let disable_logging = flag(&mut fields, "disableLogging", findings);
    let phases = phases(&mut fields, &scope, findings);
    fields.finish(findings);
    Some(Document {
        source,
        name,
        description,
        platform: scope.platform,
        constants,
        parameters,
        phases,
        disable_logging,
        warnings: Vec::new(),
    })
}

/// A recipe taken for a document gets one answer, not one for each of its fields.
fn another_file(root: &Node, findings: &mut Findings) -> bool {
    let Some(mapping) = root.mapping().filter(|m| m.get("phases").is_none()) else { return false };
    let is_of_recipes = |(key, _): &&(Node, Node)| matches!(key.text(), Some("parentImage" | "imageRecipe"));
    let Some((key, _)) = mapping.entries.iter().find(is_of_recipes) else { return false };
    findings.error(key.span, "recipe", "this is a recipe, not a component document").help =
        Some("check it, and the documents that it names, with: kiln validate FILE".into());
    true
}

fn text(node: &Node, what: &str, findings: &mut Findings) -> Option<String> {
    findings.text(node, what).map(str::to_owned)
}

fn flag(fields: &mut Fields, name: &'static str, findings: &mut Findings) -> bool {
    let what = format!("`{name}` of {}", fields.owner());
    fields.optional(name).and_then(|n| findings.boolean(n, &what)).unwrap_or(false)
}

/// Tags belong to CloudFormation templates and other languages around a document.
fn foreign_tags(node: &Node, findings: &mut Findings) {
    if let Some(tag) = node.tag.as_deref().filter(|t| !t.contains("yaml.org,2002")) {
        let d =
            findings.error(node.span, "tag", format!("the tag {tag} means nothing in a component document"));
        d.help = Some("render the template first, then check what comes out".into());
    }
    match &node.value {
        Value::Scalar(_) => {}
        Value::Sequence(items) => items.iter().for_each(|n| foreign_tags(n, findings)),
        Value::Mapping(m) => m.entries.iter().for_each(|(_, v)| foreign_tags(v, findings)),
    }
}

fn schema_version(fields: &mut Fields, findings: &mut Findings) {
    let Some(node) = fields.required("schemaVersion", findings) else {
        // None when it is there under a misspelled name.
        if let Some(missing) = findings.list.last_mut().filter(|d| d.code == "missing-field") {
            missing.help = Some("write schemaVersion: 1.0".into());
        }
        return;
    };
    let sound = node.scalar().is_some_and(|s| match s.kind() {
        Kind::Integer | Kind::Float | Kind::Text => s.text.trim().parse::<f64>() == Ok(1.0),
        _ => false,
    });
    if !sound {
        let message = format!("the schema version is {}; the only one there is is 1.0", node.describe());
        findings.error(node.span, "schema-version", message).help = Some("write schemaVersion: 1.0".into());
    }
}

/// The platform that the document's actions are for; Linux unless one of them is for Windows alone.
fn platform(root: &Node) -> Platform {
    let list = |node: Option<&Node>| node.and_then(Node::sequence).unwrap_or(&[]).to_vec();
    let mut windows = false;
    let mut unix = false;
    for phase in list(root.mapping().and_then(|m| m.get("phases"))) {
        for step in list(phase.mapping().and_then(|m| m.get("steps"))) {
            let name = step.mapping().and_then(|m| m.get("action")).and_then(Node::text);
            if let Some(action) = name.and_then(action::find) {
                windows |= !action.platforms.linux;
                unix |= !action.platforms.windows;
            }
        }
    }
    if windows && !unix { Platform::Windows } else { Platform::Linux }
}

/// The pairs of a list of mappings with one key each.
fn named<'n>(
    node: &'n Node,
    list: &str,
    example: &str,
    findings: &mut Findings,
) -> Vec<(&'n Node, &'n str, &'n Node)> {
    let mut found = Vec::new();
    for item in findings.items(node, &format!("`{list}`")).unwrap_or(&[]) {
        let entries = item.mapping().map(|m| m.entries.as_slice()).unwrap_or(&[]);
        if let [(key, value)] = entries
            && let Some(scalar) = key.scalar()
        {
            found.push((key, scalar.text.as_str(), value));
            continue;
        }
        let workflow_style =
            item.mapping().is_some_and(|m| m.get("name").is_some() && m.get("type").is_some());
        let message = if workflow_style {
            format!("`{list}` of a component are written `- NAME:`; `- name: NAME` is the form of workflows")
        } else {
            format!("each of `{list}` must be a mapping with one key, its name, not {}", item.describe())
        };
        findings.error(item.span, "named-list", message).help = Some(format!("write it as\n{example}"));
    }
    found
}

/// A name by the document's rules; None and an error otherwise.
fn checked_name(node: &Node, what: &str, findings: &mut Findings) -> Option<String> {
    let name = findings.text(node, &format!("the name of {what}"))?.to_owned();
    if let Some(fault) = name::fault(&name) {
        let message = format!("the name `{}` of {what} is not allowed: {fault}", name.escape_debug());
        findings.error(node.span, "bad-name", message).help = Some(name::RULE.into());
        return None;
    }
    Some(name)
}

fn type_is_string(fields: &mut Fields, findings: &mut Findings) {
    let owner = fields.owner().to_owned();
    let Some(node) = fields.required("type", findings) else { return };
    if node.text() != Some("string") {
        let message =
            format!("the type of {owner} is {}; the only type there is is `string`", node.describe());
        findings.error(node.span, "parameter-type", message).help = Some("write type: string".into());
    }
}

fn constants(node: &Node, findings: &mut Findings) -> Vec<Constant> {
    let mut all = Vec::new();
    let example = "- Name:\n    type: string\n    value: text";
    for (key, _, body) in named(node, "constants", example, findings) {
        let name = checked_name(key, "a constant", findings);
        let owner = format!("constant `{}`", name.as_deref().unwrap_or("?"));
        let Some(mut fields) = Fields::of(body, owner.as_str(), findings) else { continue };
        type_is_string(&mut fields, findings);
        // An empty text is a value, nothing is none.
        let value = fields
            .required("value", findings)
            .and_then(|n| text(n, &format!("`value` of {owner}"), findings));
        fields.finish(findings);
        if let (Some(name), Some(value)) = (name, value) {
            if looks_secret(&name) && !value.contains("{{") {
                let message =
                    format!("{owner} looks like a secret, and everyone who reads the document reads it");
                findings.warning(key.span, "secret-constant", message).help =
                    Some("keep it in Parameter Store and write {{ aws:ssm:/path/of/it }}".into());
            }
            all.push(Constant { name, value, span: key.span });
        }
    }
    all
}

fn looks_secret(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', '_'], "");
    ["password", "passwd", "secret", "token", "apikey", "privatekey", "accesskey"]
        .iter()
        .any(|w| name.ends_with(w))
}

fn parameters(node: &Node, findings: &mut Findings) -> Vec<Parameter> {
    let mut all = Vec::new();
    let example = "- Name:\n    type: string\n    default: text";
    for (key, _, body) in named(node, "parameters", example, findings) {
        let name = checked_name(key, "a parameter", findings);
        let owner = format!("parameter `{}`", name.as_deref().unwrap_or("?"));
        let Some(mut fields) = Fields::of(body, owner.as_str(), findings) else { continue };
        type_is_string(&mut fields, findings);
        let default =
            fields.optional("default").and_then(|n| text(n, &format!("`default` of {owner}"), findings));
        let description = fields
            .optional("description")
            .and_then(|n| text(n, &format!("`description` of {owner}"), findings));
        let mut allowed_values = Vec::new();
        if let Some(list) = fields.optional("allowedValues") {
            let what = format!("`allowedValues` of {owner}");
            for item in findings.items(list, &what).unwrap_or(&[]) {
                allowed_values.extend(text(item, &format!("each of {what}"), findings));
            }
        }
        if let Some(value) =
            default.as_ref().filter(|d| !allowed_values.is_empty() && !allowed_values.contains(d))
        {
            let message = format!("the default `{value}` of {owner} is none of its allowed values");
            let at = body.mapping().and_then(|m| m.get("default")).map_or(body.span, |n| n.span);
            findings.error(at, "default-not-allowed", message).help =
                Some(format!("one of {}", allowed_values.join(", ")));
        }
        fields.finish(findings);
        if let Some(name) = name {
            all.push(Parameter { name, default, description, allowed_values, span: key.span });
        }
    }
    all
}

fn unique_names(constants: &[Constant], parameters: &[Parameter], findings: &mut Findings) {
    let all = constants
        .iter()
        .map(|c| (c.name.as_str(), c.span, "constant"))
        .chain(parameters.iter().map(|p| (p.name.as_str(), p.span, "parameter")));
    let mut sorted: Vec<_> = all.collect();
    sorted.sort_by_key(|(_, span, _)| span.start);
    let mut seen: HashMap<&str, (Span, &str)> = HashMap::new();
    for (name, span, kind) in sorted {
        if let Some((first, other)) = seen.get(name) {
            let message = format!("{kind} `{name}` has the name of the {other} on line {}", first.line);
            findings.error(span, "duplicate-name", message).help =
                Some("parameters and constants share their names; rename one".into());
        } else {
            seen.insert(name, (span, kind));
        }
    }
}

fn phases(fields: &mut Fields, scope: &Scope, findings: &mut Findings) -> Vec<Phase> {
    let Some(node) = fields.required("phases", findings) else { return Vec::new() };
    let Some(items) = findings.items(node, "`phases`") else {
        return Vec::new();
    };
    if items.is_empty() {
        findings.error(node.span, "no-phases", "the document has no phases; it needs at least one").help =
            Some("write at least one of `build`, `validate` and `test`".into());
    }
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut all = Vec::new();
    for item in items {
        let Some(mut fields) = Fields::of(item, "a phase", findings) else { continue };
        let name_node = fields.required("name", findings);
        let name = name_node.and_then(|n| checked_name(n, "a phase", findings));
        let span = name_node.map_or(item.span, |n| n.span);
        if let Some(name) = &name {
            if let Some(first) = seen.insert(name.clone(), span) {
                let message = format!("there is a phase `{name}` already, on line {}", first.line);
                findings.error(span, "duplicate-phase", message);
            }
            phase_of_no_build(name, span, findings);
        }
        let name = name.unwrap_or_else(|| "?".into());
        let disable_logging = flag(&mut fields, "disableLogging", findings);
        let steps = match fields.required("steps", findings) {
            Some(list) => step::steps(list, &name, scope, findings),
            None => Vec::new(),
        };
        fields.finish(findings);
        all.push(Phase { name, steps, disable_logging, span });
    }
    all
}

/// Any name is a phase, but only some are run by a build.
fn phase_of_no_build(name: &str, span: Span, findings: &mut Findings) {
    const KNOWN: [&str; 4] = ["build", "validate", "test", "container-host-test"];
    if KNOWN.contains(&name) {
        return;
    }
    let message = format!("an image build does not run the phase `{name}`");
    findings.warning(span, "unknown-phase", message).help = Some(match similar::nearest(name, KNOWN) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            "a build runs build, validate and test; kiln component run runs all, or those of --phases".into()
        }
    });
}
