//! What documents may ask of the world outside the guest.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;

/// A value of Parameter Store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub value: String,
    /// It may not be seen in logs.
    pub secret: bool,
}

/// Answers references that neither the document nor the guest can. Errors are sentences for people.
#[async_trait]
pub trait Provider: Send + Sync {
    /// `aws:ssm:NAME`.
    async fn parameter(&self, name: &str) -> Result<Parameter, String>;

    /// `aws:imds:PATH`.
    async fn metadata(&self, path: &str) -> Result<String, String>;

    /// The text of the component with this ARN.
    async fn document(&self, arn: &str) -> Result<String, String> {
        Err(format!(
            "{arn} is not known here; give the path of a document in the guest, or its s3:// address"
        ))
    }
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

#[async_trait]
impl Provider for Nothing {
    async fn parameter(&self, name: &str) -> Result<Parameter, String> {
        Err(format!("there is no source of Parameter Store values, so {name} has none"))
    }

    async fn metadata(&self, path: &str) -> Result<String, String> {
        Err(format!("there is no source of instance metadata, so {path} has no value"))
    }
}

/// Values from a file of this machine:
/// `{"parameters": {"/a/b": "text", "/c": {"value": "text", "secret": true}}, "metadata": {"instance-id": "i-1"}}`.
#[derive(Clone, Debug, Default)]
pub struct Values {
    parameters: BTreeMap<String, Parameter>,
    metadata: BTreeMap<String, String>,
}

impl Values {
    /// # Errors
    /// The file cannot be read or is not of the form above.
    pub fn load(path: &Path) -> Result<Values, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        Values::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Values, String> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            parameters: BTreeMap<String, Entry>,
            #[serde(default)]
            metadata: BTreeMap<String, String>,
        }
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Plain(String),
            Full {
                value: String,
                #[serde(default)]
                secret: bool,
            },
        }
        let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let parameters = file.parameters.into_iter().map(|(name, entry)| {
            let (value, secret) = match entry {
                Entry::Plain(value) => (value, false),
                Entry::Full { value, secret } => (value, secret),
            };
            (name, Parameter { value, secret })
        });
        Ok(Values { parameters: parameters.collect(), metadata: file.metadata })
    }
}

#[async_trait]
impl Provider for Values {
    async fn parameter(&self, name: &str) -> Result<Parameter, String> {
        self.parameters.get(name).cloned().ok_or_else(|| format!("the values file has no parameter {name}"))
    }

    async fn metadata(&self, path: &str) -> Result<String, String> {
        self.metadata.get(path).cloned().ok_or_else(|| format!("the values file has no metadata {path}"))
    }
}
