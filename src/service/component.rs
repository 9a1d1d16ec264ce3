//! Components of the catalog: documents that recipes use by name.

use super::Service;
use crate::catalog::artifact::digest_bytes;
use crate::catalog::component::Component;
use crate::component::Document;
use crate::model::{Failure, FailureKind, ResourceName, Version};
use std::path::Path;

/// Registers a document under a name (its own unless given). The same content again is the
/// build that is there; other content is the version's next build.
pub fn add(
    service: &Service,
    file: &Path,
    name: Option<&str>,
    version: Version,
) -> Result<Component, Failure> {
    let document = Document::load(file)
        .map_err(|findings| Failure::from_findings("this document cannot be registered", findings))?;
    let name = name.or(document.name.as_deref()).ok_or_else(|| {
        Failure::new(FailureKind::Input, "the document has no name of its own").hint("Give one with --name.")
    })?;
    let name: ResourceName = name
        .parse()
        .map_err(|e| Failure::from_error(FailureKind::Input, &e).hint("Give one with --name."))?;
    let text = document.source.text();
    let digest = digest_bytes(text.as_bytes());
    Ok(service.catalog.write(|t| t.register_component(&name, version, &digest, text))?)
}

pub fn list(service: &Service) -> Result<Vec<Component>, Failure> {
    Ok(service.catalog.read(|t| t.list_components())?)
}
