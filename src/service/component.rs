//! Components of the catalog: documents that recipes use by name.

use super::Service;
use crate::catalog::CatalogError;
use crate::catalog::artifact::digest_bytes;
use crate::catalog::component::Component;
use crate::component::library::{self, Builtin};
use crate::component::{Document, Rules};
use crate::model::{Failure, FailureKind, ResourceName, Version, VersionedName, VersionedNameError, slug};
use crate::support::similar;
use crate::support::source::Source;
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

/// A component that recipes can use by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub version: Version,
    /// None of those that come with kiln.
    pub build: Option<u32>,
    /// SHA-256 of the document, in hex.
    pub digest: String,
    pub text: String,
}

impl Shown {
    /// What recipes call it.
    pub fn title(&self) -> String {
        let name = slug(&self.name);
        let build = self.build.map(|b| format!("/{b}")).unwrap_or_default();
        format!("{name}/{}{build}", self.version)
    }

    /// The document, where it still is a valid one: what is valid may change with kiln.
    pub fn document(&self) -> Option<Document> {
        Document::parse(&Source::new(self.title(), self.text.clone()), &Rules::default()).ok()
    }
}

impl From<Component> for Shown {
    fn from(c: Component) -> Shown {
        let (version, build) = (c.version.version, Some(c.version.build));
        Shown { name: c.name, version, build, digest: c.digest, text: c.data }
    }
}

impl From<&Builtin> for Shown {
    fn from(b: &Builtin) -> Shown {
        Shown {
            name: b.name.into(),
            version: library::VERSION,
            build: None,
            digest: digest_bytes(b.text.as_bytes()),
            text: b.text.into(),
        }
    }
}

/// Those of the catalog, then those that come with kiln.
pub fn all(service: &Service) -> Result<Vec<Shown>, Failure> {
    let own = list(service)?.into_iter().map(Shown::from);
    Ok(own.chain(library::ALL.iter().map(Shown::from)).collect())
}

/// The one that a recipe would get by that name.
pub fn show(service: &Service, name: &str) -> Result<Shown, Failure> {
    let named = parse(name)?;
    match service.catalog.read(|t| t.find_component(&named)) {
        Ok(found) => Ok(found.into()),
        Err(e @ CatalogError::NotFound { .. }) => match library::find(&named.name) {
            Some(builtin) if named.version.matches(library::VERSION) => Ok(builtin.into()),
            _ => Err(unknown(service, &named, e)),
        },
        Err(e) => Err(e.into()),
    }
}

/// One build of a component of the catalog, the newest that fits.
pub fn find(service: &Service, name: &str) -> Result<Component, Failure> {
    let named = parse(name)?;
    service.catalog.read(|t| t.find_component(&named)).map_err(|e| {
        let own = list(service).unwrap_or_default();
        if library::find(&named.name).is_some() && !own.iter().any(|c| slug(&c.name) == slug(&named.name)) {
            let message = format!("component {} comes with kiln and cannot be removed", named.name);
            return Failure::new(FailureKind::Conflict, message);
        }
        unknown(service, &named, e)
    })
}

/// Forgets a document that no image was made with.
pub fn remove(service: &Service, component: &Component) -> Result<(), Failure> {
    Ok(service.catalog.write(|t| t.remove_component(component))?)
}

fn parse(name: &str) -> Result<VersionedName, Failure> {
    name.parse().map_err(|e: VersionedNameError| Failure::from_error(FailureKind::Input, &e))
}

fn unknown(service: &Service, named: &VersionedName, error: CatalogError) -> Failure {
    let (true, Ok(all)) = (matches!(error, CatalogError::NotFound { .. }), all(service)) else {
        return error.into();
    };
    let failure = Failure::new(FailureKind::NotFound, error.to_string());
    let versions: Vec<String> =
        all.iter().filter(|c| slug(&c.name) == slug(&named.name)).map(Shown::title).collect();
    if !versions.is_empty() {
        return failure.hint(format!("There are: {}.", versions.join(", ")));
    }
    match similar::nearest(&named.name, all.iter().map(|c| c.name.as_str())) {
        Some(near) => failure.hint(format!("Did you mean {near}?")),
        None => failure.hint("See kiln component list."),
    }
}
