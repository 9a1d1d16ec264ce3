//! Values of Parameter Store, of instance metadata and of the account, from a file of this machine.
//!
//! ```yaml
//! parameters:
//!   /app/version: 1.4.2
//!   /app/key: {value: hunter2, secret: true}   # masked in logs
//!   /app/zones: [a, b]                         # a StringList: `a,b`
//! metadata: {placement/region: eu-west-1, instance-id: i-0}
//! context: {accountId: 123456789012, region: eu-west-1}
//! ```

use super::expression::ContextKey;
use super::provider::{Parameter, Provider};
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::source::Source;
use crate::support::yaml::{self, Fields, Node, Value};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the file holds. Nothing else can be asked for, so it is also the list of what documents may see.
#[derive(Clone, Debug, Default)]
pub struct Values {
    parameters: BTreeMap<String, Parameter>,
    metadata: BTreeMap<String, String>,
    account: Option<String>,
    region: Option<String>,
}

impl Values {
    /// # Errors
    /// The file cannot be read, or everything in it that is not of the form above.
    pub fn load(path: &Path) -> Result<Values, Vec<Diagnostic>> {
        let name = path.to_string_lossy();
        match std::fs::read_to_string(path) {
            Ok(text) => Values::parse(&Source::new(name, text)),
            Err(e) => {
                let source = Source::new(name, "");
                let mut findings = Findings::new(&source);
                findings.error(source.span(0, 0), "unreadable", format!("the values cannot be read: {e}"));
                Err(findings.into_sorted())
            }
        }
    }

    /// # Errors
    /// As [`Values::load`].
    pub fn parse(source: &Arc<Source>) -> Result<Values, Vec<Diagnostic>> {
        let mut findings = Findings::new(source);
        let values = yaml::parse(source, yaml::Limits::default(), &mut findings)
            .map(|root| file(&root, &mut findings));
        match values {
            Some(values) if !findings.has_errors() => Ok(values),
            _ => Err(findings.into_sorted()),
        }
    }

    /// A parameter's value; an error is a sentence.
    pub fn parameter_now(&self, name: &str) -> Result<Parameter, String> {
        let found = self.parameters.get(name).cloned();
        found
            .ok_or_else(|| format!("there is no value for the parameter {name} (--values FILE gives values)"))
    }

    pub fn metadata_now(&self, path: &str) -> Result<String, String> {
        let found = self.metadata.get(path.trim_end_matches('/')).cloned();
        found.ok_or_else(|| format!("there is no value for the metadata {path} (--values FILE gives values)"))
    }

    pub fn context_now(&self, key: ContextKey) -> Result<String, String> {
        let found = match key {
            ContextKey::AccountId => self.account.as_ref(),
            ContextKey::Region => self.region.as_ref().or_else(|| self.metadata.get("placement/region")),
            _ => None,
        };
        let none = || format!("a guest of kiln has no {} (--values FILE gives values)", key.as_str());
        found.cloned().ok_or_else(none)
    }
}

#[async_trait]
impl Provider for Values {
    async fn parameter(&self, name: &str) -> Result<Parameter, String> {
        self.parameter_now(name)
    }

    async fn metadata(&self, path: &str) -> Result<String, String> {
        self.metadata_now(path)
    }

    async fn context(&self, key: ContextKey) -> Result<String, String> {
        self.context_now(key)
    }
}

fn file(root: &Node, findings: &mut Findings) -> Values {
    let mut values = Values::default();
    let Some(mut fields) = Fields::of(root, "the values file", findings) else { return values };
    for (name, node) in fields.optional("parameters").map(|n| entries(n, findings)).unwrap_or_default() {
        if let Some(parameter) = parameter(&name, node, findings) {
            values.parameters.insert(name, parameter);
        }
    }
    for (path, node) in fields.optional("metadata").map(|n| entries(n, findings)).unwrap_or_default() {
        if let Some(text) = findings.text(node, &format!("the metadata `{path}`")) {
            values.metadata.insert(path.trim_matches('/').to_owned(), text.to_owned());
        }
    }
    if let Some(node) = fields.optional("context")
        && let Some(mut inner) = Fields::of(node, "`context`", findings)
    {
        for (name, slot) in [("accountId", &mut values.account), ("region", &mut values.region)] {
            if let Some(node) = inner.optional(name) {
                *slot = findings.text(node, &format!("`{name}`")).map(str::to_owned);
            }
        }
        inner.finish(findings);
    }
    fields.finish(findings);
    values
}

/// Names and values of a mapping that may hold any name.
fn entries<'n>(node: &'n Node, findings: &mut Findings) -> Vec<(String, &'n Node)> {
    let Value::Mapping(mapping) = &node.value else {
        let message = format!("a mapping of names to values belongs here, not {}", node.describe());
        findings.error(node.span, "wrong-type", message);
        return Vec::new();
    };
    mapping.entries.iter().filter_map(|(key, value)| Some((key.scalar()?.text.clone(), value))).collect()
}

fn parameter(name: &str, node: &Node, findings: &mut Findings) -> Option<Parameter> {
    let what = format!("the parameter `{name}`");
    if let Some(items) = node.sequence() {
        let texts: Option<Vec<&str>> = items.iter().map(|item| findings.text(item, &what)).collect();
        return Some(Parameter { value: texts?.join(","), secret: false });
    }
    if node.mapping().is_none() {
        return Some(Parameter { value: findings.text(node, &what)?.to_owned(), secret: false });
    }
    let mut fields = Fields::of(node, what.as_str(), findings)?;
    let value = fields.required("value", findings).and_then(|n| findings.text(n, &what));
    let secret = fields.optional("secret").and_then(|n| findings.boolean(n, "`secret`")).unwrap_or(false);
    fields.finish(findings);
    Some(Parameter { value: value?.to_owned(), secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Values, String> {
        let source = Source::new("values.yaml", text);
        Values::parse(&source).map_err(|all| all.iter().map(Diagnostic::render).collect())
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let values = parse(
            "parameters:
  /a/b: 0777
  /key: {value: hunter22, secret: true}
  /zones: [a, b]
metadata: {/placement/region: eu-west-1}
context: {accountId: 012345678901}
",
        )
        .unwrap();
        let parameter = |name: &str| values.parameter_now(name).map(|p| (p.value, p.secret)).unwrap();
        assert_eq!(parameter("/a/b"), ("0777".into(), false));
        assert_eq!(parameter("/key"), ("hunter22".into(), true));
        assert_eq!(parameter("/zones"), ("a,b".into(), false));
        assert_eq!(values.metadata_now("placement/region").unwrap(), "eu-west-1");
        assert_eq!(values.context_now(ContextKey::AccountId).unwrap(), "012345678901");
        assert_eq!(values.context_now(ContextKey::Region).unwrap(), "eu-west-1");
        assert!(values.parameter_now("/none").unwrap_err().contains("--values FILE"));
    }

    #[test]
    fn mistakes_are_told_all_at_once_with_their_places() {
        let told = parse("parameters: [x]\nmetadata: {a: {b: c}}\ncontext: {account: 1}\nparameter: {}\n");
        let told = told.unwrap_err();
        for part in
            ["values.yaml:1:13", "values.yaml:2:15", "no field `account`", "did you mean `parameters`"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
