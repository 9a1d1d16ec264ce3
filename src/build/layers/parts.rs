//! What of a component goes into a key: of its phases what changes the disk, and no more.
//!
//! Comments, descriptions, constants that nothing uses and phases that run elsewhere are not in it.

use super::key::Part;
use super::span::Ttl;
use crate::build::host_files::HostFiles;
use crate::build::named;
use crate::build::recipe::Lane;
use crate::catalog::Catalog;
use crate::component::action::Verb;
use crate::component::action::execute_document::DEPTH;
use crate::component::expression::{ContextKey, Part as Piece, Reference, Ssm};
use crate::component::{Component, Document, Inputs, Rules, Step, Strictness, World};
use crate::model::VersionedName;
use crate::support::diagnostic::Findings;
use crate::support::source::{Source, Span};
use crate::support::yaml::{self, Node, Value};
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;
use std::collections::BTreeSet;
use std::path::Path;

/// Variables of the service that are others in every build.
const OF_THE_BUILD: [&str; 4] = [
    "IMAGE_WORKFLOW_EXECUTION_ID",
    "IMAGE_STEP_EXECUTION_ID",
    "IMAGE_BUILD_VERSION_ARN",
    "IMAGE_BUILD_VERSION",
];
/// The one that is the recipe's.
const OF_THE_RECIPE: &str = "IMAGE_VERSION";

/// Package managers and what they do when they ask their servers.
const PACKAGES: [(&[&str], &[&str]); 3] = [
    (&["apt-get", "apt", "aptitude"], &["update", "upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade"]),
    (
        &["dnf", "dnf5", "yum", "microdnf", "tdnf", "zypper"],
        &["install", "update", "upgrade", "up", "refresh", "distro-sync", "in"],
    ),
    (&["apk", "pacman"], &["add", "update", "upgrade", "-Sy", "-Syu"]),
];

/// What a component's parts are taken with.
pub struct Surroundings<'a> {
    pub catalog: &'a Catalog,
    pub world: &'a World,
    /// Known to this home folder alone: values from outside go into keys by it, and nobody can guess them back.
    pub secret: &'a [u8],
    /// `2026-11-28`, in UTC.
    pub today: &'a str,
    /// The recipe's; None for one that counts up, which is another one in every build.
    pub version: Option<String>,
    /// The guest has a network.
    pub network: bool,
}

/// Of one component.
#[derive(Clone, Debug, Default)]
pub struct ComponentInputs {
    pub parts: Vec<Part>,
    /// How long what it does holds, and why not for ever.
    pub ttl: Option<(Ttl, String)>,
    /// What makes it another one in every build.
    pub volatile: Option<String>,
}

impl Surroundings<'_> {
    /// What the given phases of a component come to.
    pub fn inputs(
        &self,
        component: &Component,
        phases: &[&str],
        lane: Option<Lane>,
        files: &[HostFiles],
    ) -> ComponentInputs {
        let mut all = ComponentInputs::default();
        all.parts.extend(lane.map(|lane| Part::new("run", lane.as_str())));
        for files in files {
            let what = format!("file {}", files.destination);
            all.parts.push(Part::new(what, format!("sha256:{}", files.digest())));
        }
        self.collect(component, phases, 0, &mut all);
        all
    }

    /// `depth` documents lie around this one.
    fn collect(&self, component: &Component, phases: &[&str], depth: usize, all: &mut ComponentInputs) {
        let document = &component.document;
        let place = |span: Span| {
            let file = Path::new(&document.source.name).file_name().unwrap_or_default().to_string_lossy();
            format!("{file}:{}", span.line)
        };
        let nodes = step_nodes(component);
        let mut texts = String::new();
        let mut verbs = BTreeSet::new();
        for (phase, nodes) in document.phases.iter().zip(&nodes) {
            if !phases.contains(&phase.name.as_str()) {
                continue;
            }
            for (step, node) in phase.steps.iter().zip(nodes) {
                let text = canonical(node).to_string();
                let part = Part::digest(format!("step {}/{}", phase.name, step.name), text.as_bytes());
                all.parts.push(part.at(place(step.span)));
                texts.push_str(&text);
                verbs.insert(step.action.name);
                self.step(step, depth, all);
            }
        }
        for name in verbs {
            let action = crate::component::action::find(name).expect("it is a step's");
            all.parts.push(Part::new(format!("action {name}"), action.verb.semantics().to_string()));
        }
        // Whoever is named in the text counts; a name that only looks like one costs a layer, no more.
        for constant in document.constants.iter().filter(|c| texts.contains(&c.name)) {
            let part = Part::new(format!("constant {}", constant.name), constant.value.clone());
            all.parts.push(part.at(place(constant.span)));
        }
        for parameter in document.parameters.iter().filter(|p| texts.contains(&p.name)) {
            let value = component.value(&parameter.name).unwrap_or_default();
            let part = Part::new(format!("parameter {}", parameter.name), value);
            all.parts.push(part.at(place(parameter.span)));
        }
        for (name, value) in self.world.used(component, phases, &mut Vec::new()) {
            all.parts.push(Part::new(format!("value {name}"), self.keyed(&value)));
        }
        if texts.contains(OF_THE_RECIPE) {
            match &self.version {
                Some(version) => all.parts.push(Part::new(OF_THE_RECIPE, version.clone())),
                None => all.volatile = Some(OF_THE_RECIPE.into()),
            }
        }
        if let Some(name) = OF_THE_BUILD.into_iter().find(|name| texts.contains(name)) {
            all.parts.push(Part::new(name, "of each build its own"));
            all.volatile = Some(name.into());
        }
    }

    fn step(&self, step: &Step, depth: usize, all: &mut ComponentInputs) {
        for template in step.templates() {
            for piece in &template.parts {
                let Piece::Reference { reference, written } = piece else { continue };
                let key = match reference {
                    Reference::Context(key) => key,
                    // Parameters of a document inside are given when it runs: a name made of them is not
                    // known here.
                    Reference::Ssm(Ssm::OfParameter(_) | Ssm::OfSsm(_)) if depth > 0 => {
                        all.volatile = Some(written.clone());
                        continue;
                    }
                    _ => continue,
                };
                match key {
                    ContextKey::Date => {
                        let part = Part::new("value context:date", self.today);
                        if !all.parts.contains(&part) {
                            all.parts.push(part);
                        }
                    }
                    ContextKey::DateTime | ContextKey::Uuid | ContextKey::ExecutionId => {
                        all.volatile = Some(written.clone());
                    }
                    _ => {}
                }
            }
        }
        if let Some(why) = self.ages(step) {
            all.ttl.get_or_insert((Ttl::DAY, why));
        }
        if step.action.verb == Verb::ExecuteDocument {
            match first_literal(step, "document") {
                Some(name) if name.starts_with("arn:") => self.document(name, depth, all),
                // What lies elsewhere is not read beforehand: it has its time to live.
                Some(_) => {}
                None => {
                    all.volatile = Some(format!("the document that step {} names when it runs", step.name))
                }
            }
        }
    }

    /// Why what the step does is something else after a while.
    fn ages(&self, step: &Step) -> Option<String> {
        let items = match &step.inputs {
            Inputs::Items(items) => items,
            Inputs::Condition(_) => return None,
        };
        let name = &step.name;
        match step.action.verb {
            Verb::UpdateOS => Some(format!("step {name} updates packages")),
            Verb::WebDownload if items.iter().any(|i| i.get("checksum").is_none()) => {
                Some(format!("step {name} downloads without a checksum"))
            }
            Verb::S3Download => Some(format!("step {name} downloads from S3")),
            Verb::ExecuteDocument
                if first_literal(step, "document").is_none_or(|d| !d.starts_with("arn:")) =>
            {
                Some(format!("step {name} fetches a document"))
            }
            Verb::ExecuteBash if self.network => {
                let texts = step.templates().into_iter().flat_map(|t| &t.parts);
                let asks = |piece: &Piece| match piece {
                    Piece::Text(text) => text.lines().find_map(asks_for_packages),
                    _ => None,
                };
                texts.into_iter().find_map(asks).map(|tool| format!("step {name} asks {tool} for packages"))
            }
            _ => None,
        }
    }

    /// A component that a step runs by its ARN, as the catalog has it now, with all that goes into it in turn.
    fn document(&self, arn: &str, depth: usize, all: &mut ComponentInputs) {
        let name: Option<VersionedName> = arn.contains(":component/").then(|| arn.parse().ok()).flatten();
        let found = name.and_then(|name| named::find(self.catalog, &name).ok());
        let Some(found) = found.filter(|_| depth < DEPTH) else {
            // The step fails; and when somebody registers the component it is another one.
            all.volatile = Some(format!("the document {arn}"));
            return;
        };
        all.parts.push(Part::digest(format!("document {}", found.title), found.text.as_bytes()));
        let source = Source::new(&found.title, &found.text);
        let Ok(document) = Document::parse(&source, &Rules::default()) else { return };
        let phases: Vec<String> = document.phases.iter().map(|p| p.name.clone()).collect();
        let phases: Vec<&str> = phases.iter().map(String::as_str).collect();
        // The parameters that it is given stand in the step's text.
        let Ok(component) = Component::bind(found.title, document, &[], Strictness::CommandLine) else {
            return;
        };
        self.collect(&component, &phases, depth + 1, all);
    }

    fn keyed(&self, value: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret).expect("any length will do");
        mac.update(value.as_bytes());
        let digest = mac.finalize().into_bytes();
        digest.iter().fold("keyed:".to_owned(), |text, b| text + &format!("{b:02x}"))
    }
}

fn first_literal<'s>(step: &'s Step, field: &str) -> Option<&'s str> {
    match &step.inputs {
        Inputs::Items(items) => items.first()?.literal(field),
        Inputs::Condition(_) => None,
    }
}

/// The package manager that a line of a script has ask its servers.
fn asks_for_packages(line: &str) -> Option<&'static str> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let mut words =
        line.split(|c: char| c.is_whitespace() || ";&|()`\"'".contains(c)).filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let name = word.rsplit('/').next().unwrap_or(word);
        let found = PACKAGES
            .iter()
            .find_map(|(tools, verbs)| tools.iter().find(|tool| **tool == name).map(|tool| (*tool, *verbs)));
        if let Some((tool, verbs)) = found {
            let is_option = |w: &&str| !verbs.contains(w) && (w.starts_with('-') || w.contains('='));
            if words.clone().find(|w| !is_option(w)).is_some_and(|verb| verbs.contains(&verb)) {
                return Some(tool);
            }
        }
    }
    None
}

/// The document's steps as they are written, phase by phase.
fn step_nodes(component: &Component) -> Vec<Vec<Node>> {
    let source = &component.document.source;
    let root = yaml::parse(source, yaml::Limits::default(), &mut Findings::new(source));
    let steps = |phase: &Node| -> Vec<Node> {
        let steps = phase.mapping().and_then(|m| m.get("steps")).and_then(Node::sequence);
        steps.unwrap_or_default().to_vec()
    };
    let phases = root.as_ref().and_then(Node::mapping).and_then(|m| m.get("phases")).and_then(Node::sequence);
    phases.unwrap_or_default().iter().map(steps).collect()
}

/// A node without where and how it was written.
fn canonical(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Scalar(s) => json!([format!("{:?}", s.kind()), s.text]),
        Value::Sequence(items) => items.iter().map(canonical).collect(),
        Value::Mapping(mapping) => {
            let pairs =
                mapping.entries.iter().map(|(k, v)| json!({"key": canonical(k), "value": canonical(v)}));
            json!({"tag": node.tag, "pairs": pairs.collect::<Vec<_>>()})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::asks_for_packages;

    #[test]
    fn package_managers_are_found_where_they_ask() {
        for line in [
            "apt-get update",
            "sudo DEBIAN_FRONTEND=noninteractive /usr/bin/apt-get -y -o Foo=bar upgrade",
            "if true; then dnf -y install httpd; fi",
            "(yum update)",
            "apk add --no-cache curl",
            "out=$(apt update)",
            "pacman -Syu",
        ] {
            assert!(asks_for_packages(line).is_some(), "{line}");
        }
        for line in [
            "# apt-get update",
            "apt-get install -y ./local.deb",
            "echo update apt",
            "dpkg -i x.deb",
            "my-apt update",
            "",
        ] {
            assert!(asks_for_packages(line).is_none(), "{line}");
        }
    }
}
