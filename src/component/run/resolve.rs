//! What references stand for, at the moment a step runs.

use super::context::StepError;
use super::log::Secrets;
use super::state::{DocumentReport, RunState, Status, join};
use crate::component::action::{Action, Input, Item, Resolved, Value};
use crate::component::bind::Component;
use crate::component::expression::{Chain, ContextKey, LoopField, Part, Reference, Side, Ssm, Template};
use crate::component::provider::Provider;
use crate::support::{clock, random};
use kiln_protocol::message::Facts;

/// Bytes a text may have once its references are resolved.
const LIMIT: usize = 8 << 20;

/// The iteration a text belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Iteration<'a> {
    pub loop_name: Option<&'a str>,
    pub index: u64,
    pub value: &'a str,
}

pub struct Resolver<'a> {
    pub component: &'a Component,
    pub execution_id: &'a str,
    /// What has run of this document.
    pub done: Option<&'a DocumentReport>,
    pub phase: &'a str,
    pub step: &'a str,
    pub iteration: Option<Iteration<'a>>,
    pub environment: &'a [(String, String)],
    pub facts: &'a Facts,
    pub provider: &'a dyn Provider,
    pub secrets: &'a Secrets,
}

impl<'a> Resolver<'a> {
    pub fn new(
        component: &'a Component,
        component_index: usize,
        state: &'a RunState,
        place: (&'a str, &'a str),
        outside: Outside<'a>,
    ) -> Resolver<'a> {
        Resolver {
            component,
            execution_id: &state.execution_id,
            done: state.documents.iter().find(|d| d.component == component_index),
            phase: place.0,
            step: place.1,
            iteration: None,
            environment: outside.environment,
            facts: outside.facts,
            provider: outside.provider,
            secrets: outside.secrets,
        }
    }

    pub async fn text(&self, template: &Template) -> Result<String, StepError> {
        let mut text = String::new();
        for part in &template.parts {
            match part {
                Part::Text(plain) | Part::Malformed { written: plain } => text.push_str(plain),
                Part::Reference { reference, written } => match self.reference(reference).await {
                    Ok(Some(value)) => text.push_str(&value),
                    Ok(None) => text.push_str(written),
                    Err(reason) => {
                        return Err(StepError::failed(format!("{written} cannot be resolved: {reason}")));
                    }
                },
            }
            if text.len() > LIMIT {
                return Err(StepError::failed(format!(
                    "a text is longer than {LIMIT} bytes with its references"
                )));
            }
        }
        Ok(text)
    }

    /// None: it stays as written.
    async fn reference(&self, reference: &Reference) -> Result<Option<String>, String> {
        Ok(Some(match reference {
            Reference::Name(name) => self.name(name)?.to_owned(),
            Reference::Loop { name, field } => match self.iteration {
                Some(it) if name.is_none() || name.as_deref() == it.loop_name => match field {
                    LoopField::Index => it.index.to_string(),
                    LoopField::Value => it.value.to_owned(),
                },
                _ => return Ok(None),
            },
            Reference::Chain(chain) => self.chain(chain)?,
            Reference::Ssm(ssm) => self.ssm(ssm).await?,
            Reference::Imds(path) => self.provider.metadata(path).await?,
            Reference::Env(name) => self
                .environment
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
                .ok_or_else(|| format!("the step's environment has no `{name}`"))?,
            Reference::Context(key @ (ContextKey::AccountId | ContextKey::Region)) => {
                self.provider.context(*key).await?
            }
            Reference::Context(key) => self.context(*key)?,
        }))
    }

    fn name(&self, name: &str) -> Result<&str, String> {
        self.component.value(name).ok_or_else(|| "it is neither a parameter nor a constant".to_owned())
    }

    async fn ssm(&self, ssm: &Ssm) -> Result<String, String> {
        let mut wraps = 0;
        let mut innermost = ssm;
        while let Ssm::OfSsm(inner) = innermost {
            innermost = inner;
            wraps += 1;
        }
        let mut value = match innermost {
            Ssm::Name(name) => name.clone(),
            Ssm::OfParameter(name) => self.name(name)?.to_owned(),
            Ssm::OfSsm(_) => unreachable!("peeled above"),
        };
        for _ in 0..=wraps {
            let found = self.provider.parameter(&value).await?;
            if found.secret {
                self.secrets.add(&found.value);
            }
            value = found.value;
        }
        if value.contains('\n') {
            return Err("its value has several lines, which a reference cannot carry".into());
        }
        Ok(value)
    }

    fn chain(&self, chain: &Chain) -> Result<String, String> {
        let step = self
            .done
            .and_then(|d| d.step(&chain.phase, &chain.step))
            .ok_or_else(|| format!("step `{}` of phase `{}` has not run", chain.step, chain.phase))?;
        if step.status == Status::Skipped {
            return Err(format!("step `{}` was skipped", chain.step));
        }
        match chain.side {
            Side::Inputs => {
                let item = step.inputs.get(chain.index.unwrap_or(0));
                let item = item.ok_or_else(|| format!("step `{}` has no such input", chain.step))?;
                let value = item.iter().find(|(n, _)| *n == chain.field).map(|(_, v)| v);
                match value {
                    Some(serde_json::Value::String(text)) => Ok(text.clone()),
                    Some(value) if !value.is_array() && !value.is_object() => Ok(value.to_string()),
                    Some(_) => Err(format!("`{}` is a list, which a text cannot hold", chain.field)),
                    None => Err(format!("step `{}` was not given `{}`", chain.step, chain.field)),
                }
            }
            Side::Outputs => {
                let joined;
                let outputs = match chain.index {
                    Some(index) => step.outputs.get(index),
                    None => {
                        joined = join(&step.outputs);
                        Some(&joined)
                    }
                };
                let output = outputs.and_then(|o| o.iter().find(|(n, _)| *n == chain.field)).map(|(_, o)| o);
                match output {
                    Some(output) if output.truncated => {
                        Err(format!("`{}` is larger than 1 MiB, which is what can be passed on", chain.field))
                    }
                    Some(output) => Ok(output.text.clone()),
                    None => Err(format!("step `{}` left no `{}`", chain.step, chain.field)),
                }
            }
        }
    }

    fn context(&self, key: ContextKey) -> Result<String, String> {
        let release = |field: &str| {
            self.facts.os_release.iter().find(|(n, _)| n == field).map(|(_, v)| v.clone()).unwrap_or_default()
        };
        let now = clock::rfc3339(clock::now_ms());
        Ok(match key {
            ContextKey::ExecutionId => self.execution_id.to_owned(),
            ContextKey::AccountId | ContextKey::Region => unreachable!("the provider has answered"),
            ContextKey::OsPlatform => "linux".into(),
            ContextKey::OsName => release("NAME"),
            ContextKey::OsVersion => release("VERSION_ID"),
            ContextKey::Date => now[..10].to_owned(),
            ContextKey::DateTime => now,
            ContextKey::Uuid => random::uuid().map_err(|e| e.to_string())?,
            ContextKey::Hostname => self.facts.hostname.clone(),
            ContextKey::Phase => self.phase.to_owned(),
            ContextKey::Step => self.step.to_owned(),
        })
    }

    /// An action's inputs, held against its table once more now that their values are known.
    pub async fn item(&self, action: &Action, input: &Input) -> Result<Item, StepError> {
        let mut item = Item::default();
        for (name, value) in &input.values {
            let resolved = match value {
                Value::Text(template) => {
                    let text = self.text(template).await?;
                    if let Some(fault) = action.field(name).and_then(|f| f.kind.fault(&text)) {
                        return Err(StepError::failed(format!("`{name}` is wrong: {fault}")));
                    }
                    Resolved::Text(text)
                }
                Value::Texts(list) => {
                    let mut texts = Vec::with_capacity(list.len());
                    for template in list {
                        texts.push(self.text(template).await?);
                    }
                    Resolved::Texts(texts)
                }
                Value::Boolean(flag) => Resolved::Boolean(*flag),
                Value::Integer(number) => Resolved::Integer(*number),
                Value::Pairs(pairs) => {
                    let mut resolved = Vec::with_capacity(pairs.len());
                    for (name, template) in pairs {
                        resolved.push((name.clone(), self.text(template).await?));
                    }
                    Resolved::Pairs(resolved)
                }
            };
            item.values.push((name, resolved));
        }
        Ok(item)
    }
}

/// What a resolver needs from around the document.
#[derive(Clone, Copy)]
pub struct Outside<'a> {
    pub environment: &'a [(String, String)],
    pub facts: &'a Facts,
    pub provider: &'a dyn Provider,
    pub secrets: &'a Secrets,
}
