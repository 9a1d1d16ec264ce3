//! `components`: which documents, in which order, with which parameters.

use super::Located;
use super::settings::one_of;
use crate::build::layers::choice::Wishes;
use crate::model::{VersionedName, slug};
use crate::support::diagnostic::Findings;
use crate::support::source::Span;
use crate::support::yaml::{Fields, Node, Value};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq)]
pub struct ComponentUse {
    pub reference: Reference,
    /// None: as the recipe says for all.
    pub run: Option<Lane>,
    /// As written: name, values, where.
    pub parameters: Vec<(String, Vec<String>, Span)>,
    /// What it brings along from this machine, there before its first step runs.
    pub files: Vec<FileUse>,
    /// What it says of its layer.
    pub wishes: Wishes,
    pub span: Span,
}

/// A file or folder of this machine, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct FileUse {
    pub source: Located<PathBuf>,
    /// Absolute, in the guest; one that ends in `/` is the folder to put the source into.
    pub destination: Located<String>,
}

/// Where a component's build and validate phases run. Its tests always have a booted machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// In the guest.
    Booted,
    /// In kiln's appliance, on the image's mounted disk, without a boot.
    Appliance,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Booted => "booted",
            Lane::Appliance => "appliance",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    /// A document's path.
    File(PathBuf),
    /// A component of the catalog.
    Named(VersionedName),
}

/// The service's default quota.
const LIMIT: usize = 20;

pub fn components(node: &Node, folder: &Path, findings: &mut Findings) -> Vec<ComponentUse> {
    let Some(items) = findings.items(node, "`components`") else { return Vec::new() };
    if items.len() > LIMIT {
        let message = format!("a recipe has at most {LIMIT} components, this one has {}", items.len());
        findings.error(items[LIMIT].span, "too-many", message);
    }
    let mut found: Vec<ComponentUse> = Vec::new();
    for item in items {
        let Some(component) = component(item, folder, findings) else { continue };
        if let Some(same) = found.iter().find(|c| c.reference.key() == component.reference.key()) {
            let line = same.span.line;
            findings
                .error(
                    component.span,
                    "duplicate",
                    format!("this component is in the recipe already (line {line})"),
                )
                .help = Some("a component is used at most once, whatever its version".into());
            continue;
        }
        found.push(component);
    }
    found
}

fn component(node: &Node, folder: &Path, findings: &mut Findings) -> Option<ComponentUse> {
    if !matches!(node.value, Value::Mapping(_)) {
        let reference = reference(node, folder, findings)?;
        let (parameters, files, wishes) = (Vec::new(), Vec::new(), Wishes::default());
        return Some(ComponentUse { reference, run: None, parameters, files, wishes, span: node.span });
    }
    let mut fields = Fields::of(node, "a component of the recipe", findings)?;
    let given: Vec<&Node> =
        ["component", "path", "componentArn"].into_iter().filter_map(|name| fields.optional(name)).collect();
    let parameters = fields.optional("parameters").map(|p| parameters(p, findings)).unwrap_or_default();
    let files = fields.optional("files").map(|f| files(f, folder, findings)).unwrap_or_default();
    let run = fields.optional("run").and_then(|n| lane(n, findings));
    let wishes = wishes(&mut fields, findings);
    fields.finish(findings);
    match given[..] {
        [one] => {
            let reference = reference(one, folder, findings)?;
            Some(ComponentUse { reference, run, parameters, files, wishes, span: one.span })
        }
        [] => {
            findings
                .error(node.span, "missing-field", "this component has no `component`, which it needs")
                .help = Some("component: ./file.yml, or a name of the catalog such as install/1.0.x".into());
            None
        }
        [_, second, ..] => {
            let message = "`component`, `path` and `componentArn` say the same thing: give one of them";
            findings.error(second.span, "conflict", message);
            None
        }
    }
}

/// `needs: live`, `ttl: 7d`, `freeze: false`.
fn wishes(fields: &mut Fields, findings: &mut Findings) -> Wishes {
    let mut wishes = Wishes::default();
    if let Some(node) = fields.optional("needs") {
        let live = one_of(node, "`needs`", &["live"], |name: &str| name, findings);
        wishes.needs_live = live.is_some();
    }
    if let Some(node) = fields.optional("ttl")
        && let Some(text) = findings.text(node, "`ttl`")
    {
        match text.parse() {
            Ok(ttl) => wishes.ttl = Some(ttl),
            Err(e) => drop(findings.error(node.span, "bad-value", format!("`ttl`: {e}"))),
        }
    }
    if let Some(node) = fields.optional("freeze") {
        wishes.no_freeze = findings.boolean(node, "`freeze`") == Some(false);
    }
    wishes
}

/// `run: appliance`.
pub fn lane(node: &Node, findings: &mut Findings) -> Option<Lane> {
    one_of(node, "`run`", &[Lane::Booted, Lane::Appliance], Lane::as_str, findings)
}

fn reference(node: &Node, folder: &Path, findings: &mut Findings) -> Option<Reference> {
    let text = findings.text(node, "a component")?;
    let is_path = text.starts_with(['.', '/'])
        || [".yml", ".yaml", ".json"].iter().any(|end| text.to_ascii_lowercase().ends_with(end));
    if is_path {
        return Some(Reference::File(super::beside(folder, text)));
    }
    if text.starts_with("arn:") && !text.contains(":component/") {
        findings.error(node.span, "bad-value", format!("`{text}` is no ARN of a component"));
        return None;
    }
    let named: VersionedName = match text.parse() {
        Ok(named) => named,
        Err(e) => {
            findings.error(node.span, "bad-value", e.to_string());
            return None;
        }
    };
    if let Err(e) = named.name.parse::<crate::model::ResourceName>() {
        let d = findings.error(node.span, "bad-value", e.to_string());
        d.help = Some(format!("a document's path starts with ./ : ./{text}"));
        return None;
    }
    Some(Reference::Named(named))
}

/// `[{source: ./site, destination: /srv/www}]`.
fn files(node: &Node, folder: &Path, findings: &mut Findings) -> Vec<FileUse> {
    let mut found = Vec::new();
    for item in findings.items(node, "`files`").unwrap_or_default() {
        let Some(mut fields) = Fields::of(item, "an entry of `files`", findings) else { continue };
        let source = fields.required("source", findings);
        let destination = fields.required("destination", findings);
        fields.finish(findings);
        let source = source.and_then(|node| {
            let path = super::beside(folder, findings.text(node, "`source`")?);
            if !path.exists() {
                let message = format!("there is nothing at {}", path.display());
                findings.error(node.span, "no-file", message).help =
                    Some("a source is a path on this machine, counted from the recipe's folder".into());
                return None;
            }
            Some(Located { value: path, span: node.span })
        });
        let destination = destination.and_then(|node| {
            let path = super::decode::absolute(node, "`destination`", findings)?;
            Some(Located { value: path, span: node.span })
        });
        if let (Some(source), Some(destination)) = (source, destination) {
            found.push(FileUse { source, destination });
        }
    }
    found
}

/// `[{name: N, value: [V]}]`, or short `{N: V}`.
fn parameters(node: &Node, findings: &mut Findings) -> Vec<(String, Vec<String>, Span)> {
    let mut found: Vec<(String, Vec<String>, Span)> = Vec::new();
    let mut add = |name: &Node, value: &Node, findings: &mut Findings| {
        let Some(text) = findings.text(name, "a parameter's name") else { return };
        let values = values(value, text, findings);
        if found.iter().any(|(n, ..)| n == text) {
            findings.error(name.span, "duplicate", format!("parameter `{text}` is given twice"));
        } else if let Some(values) = values {
            found.push((text.into(), values, name.span));
        }
    };
    match &node.value {
        Value::Mapping(mapping) => {
            mapping.entries.iter().for_each(|(name, value)| add(name, value, findings))
        }
        _ => {
            for item in findings.items(node, "`parameters`").unwrap_or_default() {
                let Some(mut fields) = Fields::of(item, "a parameter", findings) else { continue };
                let name = fields.required("name", findings);
                let value = match fields.written("value") {
                    None => fields.required("value", findings),
                    written => written,
                };
                fields.finish(findings);
                if let (Some(name), Some(value)) = (name, value) {
                    add(name, value, findings);
                }
            }
        }
    }
    found
}

fn values(node: &Node, name: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let what = format!("the value of parameter `{name}`");
    match node.sequence() {
        Some(items) => items.iter().map(|i| findings.text(i, &what).map(str::to_owned)).collect(),
        None => Some(vec![findings.text(node, &what)?.to_owned()]),
    }
}

impl Reference {
    /// Same key, same component.
    fn key(&self) -> String {
        match self {
            Reference::File(path) => path.display().to_string(),
            Reference::Named(named) => slug(&named.name),
        }
    }
}
