//! What documents may ask of the host.

use super::bind::Component;
use super::expression::{ContextKey, Part, Reference, Ssm};
use super::fetch::Fetching;
use super::values::Values;
use crate::support::diagnostic::{Diagnostic, Findings};

/// What there is outside of the guest that a run's documents can reach.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// None: actions that fetch from the network fail.
    pub fetching: Option<Fetching>,
    /// Of references to what is outside.
    pub values: Values,
}

impl World {
    /// Names and values of everything outside that the component's phases of these names refer to, in the
    /// order of its text; to `missing` a warning for each that has no value.
    pub fn used(
        &self,
        component: &Component,
        phases: &[&str],
        missing: &mut Vec<Diagnostic>,
    ) -> Vec<(String, String)> {
        let document = &component.document;
        let mut findings = Findings::new(&document.source);
        let mut used = Vec::new();
        let phases = document.phases.iter().filter(|p| phases.contains(&p.name.as_str()));
        let steps = phases.flat_map(|p| &p.steps);
        for template in steps.flat_map(|s| s.templates()) {
            for part in &template.parts {
                let Part::Reference { reference, written } = part else { continue };
                match self.value(component, reference) {
                    None => {}
                    Some(Ok(value)) => used.push((written.clone(), value)),
                    Some(Err(reason)) => {
                        let span = findings.source.find(template.span, written, 0);
                        let message = format!("{written} has no value: {reason}");
                        findings.warning(span, "no-value", message).help =
                            Some("the step fails, unless its `if` skips it".into());
                    }
                }
            }
        }
        missing.extend(findings.into_sorted());
        used
    }

    /// None for a reference to what is inside.
    fn value(&self, component: &Component, reference: &Reference) -> Option<Result<String, String>> {
        match reference {
            Reference::Ssm(ssm) => Some(self.parameter(component, ssm)),
            Reference::Imds(path) => Some(self.values.metadata_now(path)),
            Reference::Context(key @ (ContextKey::AccountId | ContextKey::Region)) => {
                Some(self.values.context_now(*key))
            }
            _ => None,
        }
    }

    fn parameter(&self, component: &Component, ssm: &Ssm) -> Result<String, String> {
        let name = match ssm {
            Ssm::Name(name) => name.clone(),
            // The checker has told of one that is not declared.
            Ssm::OfParameter(name) => component.value(name).unwrap_or_default().to_owned(),
            Ssm::OfSsm(inner) => self.parameter(component, inner)?,
        };
        self.values.parameter_now(&name).map(|p| p.value)
    }
}
