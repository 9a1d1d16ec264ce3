//! Where documents and settings files lie: on this machine, in S3, or with the service.

use crate::component::action::target_of;
use crate::component::document::{Document, Rules};
use crate::component::fetch::{self, Fetching};
use crate::component::provider::Provider;
use crate::support::diagnostic::Diagnostic;
use crate::support::source::Source;
use crate::support::wait::Patience;
use std::path::Path;

/// What it takes to read them.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// None: nothing is read from S3.
    pub fetching: Option<&'a Fetching>,
    /// The account that must own the buckets.
    pub owner: Option<&'a str>,
    pub provider: &'a dyn Provider,
    pub patience: &'a Patience,
}

impl Sources<'_> {
    /// Reads and checks a document: a path, an `s3://` address or a component's ARN.
    ///
    /// # Errors
    /// Everything found, as [`Document::load_with`].
    pub async fn document(&self, path: &Path, rules: &Rules) -> Result<Document, Vec<Diagnostic>> {
        let name = path.display().to_string();
        match self.text_elsewhere(&name).await {
            None => Document::load_with(path, rules),
            Some(Ok(text)) => Document::parse(&Source::new(name, text), rules),
            Some(Err(reason)) => {
                let source = Source::new(name, "");
                let message = format!("the document cannot be read: {reason}");
                Err(vec![Diagnostic::error(&source, source.span(0, 0), "unreadable", message)])
            }
        }
    }

    /// None for a file of this machine; an error is a sentence.
    pub(super) async fn text_elsewhere(&self, address: &str) -> Option<Result<String, String>> {
        if address.starts_with("arn:") {
            return Some(self.provider.document(address).await);
        }
        address.starts_with("s3://").then_some(())?;
        Some(self.object(address).await)
    }

    async fn object(&self, address: &str) -> Result<String, String> {
        let target = target_of(address, self.owner).map_err(|e| e.to_string())?;
        let fetching = self.fetching.ok_or("nothing can be fetched here")?;
        let bytes = fetch::document(fetching, target, self.patience).await.map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".into())
    }
}
