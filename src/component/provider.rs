//! What documents may ask of the world outside the guest.

use super::expression::ContextKey;
use async_trait::async_trait;

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

    /// `context:accountId`, `context:region`: what neither kiln nor the guest knows.
    async fn context(&self, key: ContextKey) -> Result<String, String>;

    /// The text of the component with this ARN.
    async fn document(&self, arn: &str) -> Result<String, String> {
        Err(format!("{arn} is not known here; give the path of a document, or its s3:// address"))
    }
}
