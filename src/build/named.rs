//! Components by their names: registered in the catalog, or come with kiln.

use crate::catalog::{Catalog, CatalogError};
use crate::component::library;
use crate::model::VersionPattern;

/// What a name stands for.
pub struct Named {
    /// `name/version`.
    pub title: String,
    pub text: String,
}

/// A registered one wins over one that comes with kiln.
pub fn find(catalog: &Catalog, name: &str, pattern: VersionPattern) -> Result<Named, CatalogError> {
    match catalog.read(|t| t.find_component(name, pattern)) {
        Ok(found) => Ok(Named { title: format!("{}/{}", found.name, found.version), text: found.data }),
        Err(e @ CatalogError::NotFound { .. }) => match library::find(name) {
            Some(builtin) if pattern.matches(library::VERSION) => Ok(Named {
                title: format!("{}/{}", builtin.name, library::VERSION),
                text: builtin.text.to_owned(),
            }),
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}
