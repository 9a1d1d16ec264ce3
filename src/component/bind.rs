//! A document with the values of its parameters.

use super::document::Document;
use crate::support::similar;
use std::collections::BTreeMap;

/// A document that can be run.
#[derive(Clone, Debug)]
pub struct Component {
    /// What it is called in reports: a path, or a component's name and version.
    pub label: String,
    pub document: Document,
    values: BTreeMap<String, String>,
}

/// How parameters are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As the service: only declared ones, and all that have no default.
    Recipe,
    /// As the command line: others are ignored, missing ones are empty.
    CommandLine,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    #[error("component {component} has no parameter `{name}`{}", hint(.near))]
    Unknown { component: String, name: String, near: Option<String> },
    #[error("component {component} needs a value for its parameter `{name}`, which has no default")]
    Missing { component: String, name: String },
    #[error("`{value}` is not allowed for parameter `{name}` of component {component}: it takes {}", .allowed.join(", "))]
    NotAllowed { component: String, name: String, value: String, allowed: Vec<String> },
    #[error(
        "the value of parameter `{name}` of component {component} has {length} characters; 1024 are allowed"
    )]
    TooLong { component: String, name: String, length: usize },
}

fn hint(near: &Option<String>) -> String {
    near.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}

/// Characters of a parameter's value.
const VALUE_LIMIT: usize = 1024;

impl Component {
    /// # Errors
    /// Everything that is wrong with the values given.
    pub fn bind(
        label: impl Into<String>,
        document: Document,
        given: &[(String, String)],
        strictness: Strictness,
    ) -> Result<Component, Vec<BindError>> {
        let label = label.into();
        let strict = strictness == Strictness::Recipe;
        let mut errors = Vec::new();
        let mut values: BTreeMap<String, String> =
            document.constants.iter().map(|c| (c.name.clone(), c.value.clone())).collect();
        for (name, _) in
            given.iter().filter(|(n, _)| strict && !document.parameters.iter().any(|p| p.name == *n))
        {
            let near = similar::nearest(name, document.parameters.iter().map(|p| p.name.as_str()));
            errors.push(BindError::Unknown {
                component: label.clone(),
                name: name.clone(),
                near: near.map(str::to_owned),
            });
        }
        for parameter in &document.parameters {
            let own = given.iter().rev().find(|(n, _)| *n == parameter.name).map(|(_, v)| v);
            let (component, name) = (label.clone(), parameter.name.clone());
            let value = match own.or(parameter.default.as_ref()) {
                Some(value) => value.clone(),
                None if strict => {
                    errors.push(BindError::Missing { component, name });
                    continue;
                }
                None => String::new(),
            };
            let length = value.chars().count();
            if own.is_some() && length > VALUE_LIMIT {
                errors.push(BindError::TooLong { component, name, length });
                continue;
            }
            let allowed = &parameter.allowed_values;
            if own.is_some() && !allowed.is_empty() && !allowed.contains(&value) {
                errors.push(BindError::NotAllowed { component, name, value, allowed: allowed.clone() });
                continue;
            }
            values.insert(name, value);
        }
        if errors.is_empty() { Ok(Component { label, document, values }) } else { Err(errors) }
    }

    /// The value of a parameter or constant.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}
