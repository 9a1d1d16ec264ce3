//! The recipe's components: found, parsed, their parameters bound.

use super::{BUILD_PHASES, NoPlan, Setting, TEST_PHASES, lanes};
use crate::build::named::{self, Named};
use crate::build::recipe::{ComponentUse, Lane, Recipe, Reference};
use crate::catalog::{Catalog, CatalogError};
use crate::component::{BindError, Component, Document, Platform, Rules, Strictness};
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::source::Source;

/// With the rows of those that the catalog has. Findings about the recipe go to `findings`, those about documents to `list`.
pub fn load(
    recipe: &Recipe,
    settings: &[Setting],
    catalog: &Catalog,
    findings: &mut Findings,
    list: &mut Vec<Diagnostic>,
) -> Result<Vec<(Component, Option<i64>)>, NoPlan> {
    let mut documents = Vec::new();
    for used in &recipe.components {
        let Some((label, document, row)) = document(used, catalog, findings, list)? else { continue };
        runs_in_builds(used, &label, &document, findings);
        list.extend(document.warnings.iter().cloned());
        documents.push((used, label, document, row));
    }
    let complete = documents.len() == recipe.components.len();
    if complete {
        check_settings(recipe, settings, &documents, findings);
    }
    let mut bound = Vec::new();
    for (used, label, document, row) in documents {
        let given = values(used, &label, settings, &document, findings);
        match Component::bind(label, document, &given, Strictness::Recipe) {
            Ok(component) => {
                if lanes::lane_of(recipe, used) == Lane::Appliance {
                    list.extend(lanes::refuse(recipe, used, &component));
                }
                bound.push((component, row));
            }
            Err(errors) => errors.iter().for_each(|e| report(used, e, findings)),
        }
    }
    Ok(bound)
}

/// The service refuses a component of which no build would run anything.
fn runs_in_builds(used: &ComponentUse, label: &str, document: &Document, findings: &mut Findings) {
    let phases: Vec<&str> = document.phases.iter().map(|p| p.name.as_str()).collect();
    if !phases.iter().any(|p| BUILD_PHASES.contains(p) || TEST_PHASES.contains(p)) {
        let message = format!("component {label} has none of the phases that a build runs");
        findings.error(used.span, "no-phase-of-builds", message).help =
            Some(format!("a build runs build, validate and test; this one has {}", phases.join(", ")));
    }
}

/// The document behind a reference, what to call it, and its row in the catalog.
fn document(
    used: &ComponentUse,
    catalog: &Catalog,
    findings: &mut Findings,
    list: &mut Vec<Diagnostic>,
) -> Result<Option<(String, Document, Option<i64>)>, NoPlan> {
    let rules = Rules { platform: Some(Platform::Linux), ..Rules::default() };
    let (fallback, parsed) = match &used.reference {
        Reference::File(path) => {
            if !path.is_file() {
                let message = format!("there is no document {}", path.display());
                findings.error(used.span, "no-document", message);
                return Ok(None);
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (stem, Document::load_with(path, &rules))
        }
        Reference::Named(name) => match named::find(catalog, name) {
            Ok(Named { title, text, component }) => {
                let source = Source::new(title.clone(), text);
                return Ok(take(Document::parse(&source, &rules), list).map(|d| (title, d, component)));
            }
            Err(e @ CatalogError::NotFound { .. }) => {
                findings.error(used.span, "no-component", e.to_string()).help = Some(
                    "a document's path starts with ./ ; kiln component add FILE registers one by name, kiln component list shows those that come with kiln".into(),
                );
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        },
    };
    Ok(take(parsed, list).map(|d| (d.name.clone().unwrap_or(fallback), d, None)))
}

fn take(parsed: Result<Document, Vec<Diagnostic>>, list: &mut Vec<Diagnostic>) -> Option<Document> {
    parsed.map_err(|errors| list.extend(errors)).ok()
}

fn applies(setting: &Setting, label: &str) -> bool {
    setting.component.as_deref().is_none_or(|c| c == label)
}

/// A `--set` that no component takes is a mistake.
fn check_settings(
    recipe: &Recipe,
    settings: &[Setting],
    documents: &[(&ComponentUse, String, Document, Option<i64>)],
    findings: &mut Findings,
) {
    for setting in settings {
        let taken = documents.iter().any(|(_, label, d, _)| {
            applies(setting, label) && d.parameters.iter().any(|p| p.name == setting.name)
        });
        if !taken {
            let known: Vec<String> = documents
                .iter()
                .flat_map(|(_, label, d, _)| d.parameters.iter().map(move |p| format!("{label}.{}", p.name)))
                .collect();
            let start = recipe.source.span(0, 0);
            let component = setting.component.iter().map(|c| format!("{c}.")).collect::<String>();
            let message = format!("--set {component}{}: no component has this parameter", setting.name);
            findings.error(start, "unknown-parameter", message).help = Some(match known.is_empty() {
                true => "the components of this recipe have no parameters".into(),
                false => format!("there are: {}", known.join(", ")),
            });
        }
    }
}

/// What the recipe gives, overridden by what the command line sets.
fn values(
    used: &ComponentUse,
    label: &str,
    settings: &[Setting],
    document: &Document,
    findings: &mut Findings,
) -> Vec<(String, String)> {
    let mut given = Vec::new();
    for (name, values, span) in &used.parameters {
        match &values[..] {
            [value] => given.push((name.clone(), value.clone())),
            _ => {
                let message = format!("parameter `{name}` takes one value, not {}", values.len());
                findings.error(*span, "bad-value", message);
            }
        }
    }
    let set = settings
        .iter()
        .filter(|s| applies(s, label) && document.parameters.iter().any(|p| p.name == s.name))
        .map(|s| (s.name.clone(), s.value.clone()));
    given.extend(set);
    given
}

fn report(used: &ComponentUse, error: &BindError, findings: &mut Findings) {
    let name = match error {
        BindError::Unknown { name, .. }
        | BindError::Missing { name, .. }
        | BindError::NotAllowed { name, .. }
        | BindError::TooLong { name, .. } => name,
    };
    let span = used.parameters.iter().find(|(n, ..)| n == name).map_or(used.span, |(.., span)| *span);
    findings.error(span, "bad-parameter", error.to_string());
}
