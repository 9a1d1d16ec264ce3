//! Components by their names: registered in the catalog, or come with kiln.

use crate::catalog::{Catalog, CatalogError};
use crate::component::library;
use crate::model::VersionedName;

/// What a name stands for.
pub struct Named {
    /// `name/version`.
    pub title: String,
    pub text: String,
    /// Its row, where it is registered.
    pub component: Option<i64>,
}

/// A registered one wins over one that comes with kiln.
pub fn find(catalog: &Catalog, name: &VersionedName) -> Result<Named, CatalogError> {
    match catalog.read(|t| t.find_component(name)) {
        Ok(found) => Ok(Named {
            title: format!("{}/{}", found.name, found.version),
            text: found.data,
            component: Some(found.id),
        }),
        Err(e @ CatalogError::NotFound { .. }) => match library::find(&name.name) {
            Some(builtin) if name.version.matches(library::VERSION) => Ok(Named {
                title: format!("{}/{}", builtin.name, library::VERSION),
                text: builtin.text.to_owned(),
                component: None,
            }),
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}
