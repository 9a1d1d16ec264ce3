//! Component versions. Immutable; other content under the same version is its next build.

use super::{CatalogError, Doing, Result, Transaction};
use crate::model::{ImageVersion, ResourceName, Version, VersionedName};
use rusqlite::{OptionalExtension, Row};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    pub id: i64,
    pub name: String,
    pub version: ImageVersion,
    /// SHA-256 of `data`, in hex.
    pub digest: String,
    /// The document, as written.
    pub data: String,
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", crate::model::slug(&self.name), self.version)
    }
}

const COLUMNS: &str = "id, name, major, minor, patch, build, digest, data";

fn component(r: &Row) -> rusqlite::Result<Component> {
    let version = Version { major: r.get(2)?, minor: r.get(3)?, patch: r.get(4)? };
    Ok(Component {
        id: r.get(0)?,
        name: r.get(1)?,
        version: ImageVersion { version, build: r.get(5)? },
        digest: r.get(6)?,
        data: r.get(7)?,
    })
}

impl Transaction<'_> {
    /// The newest build of this version when its content is the same, else the next build.
    pub fn register_component(
        &self,
        name: &ResourceName,
        version: Version,
        digest: &str,
        data: &str,
    ) -> Result<Component> {
        self.free_name("component", "components", "removed IS NULL", name)?;
        let newest = self
            .sql
            .query_row(
                &format!(
                    "SELECT {COLUMNS}, removed IS NULL FROM components
                     WHERE slug = ?1 AND major = ?2 AND minor = ?3 AND patch = ?4 ORDER BY build DESC LIMIT 1"
                ),
                (name.slug(), version.major, version.minor, version.patch),
                |r| Ok((component(r)?, r.get::<_, bool>(8)?)),
            )
            .optional()
            .or_doing("read a component")?;
        let build = match newest {
            Some((newest, true)) if newest.digest == digest => return Ok(newest),
            Some((newest, _)) => newest.version.build + 1,
            None => 1,
        };
        let id = self
            .sql
            .prepare(
                "INSERT INTO components (slug, name, major, minor, patch, build, digest, data, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut s| {
                s.insert((
                    name.slug(),
                    name.as_str(),
                    version.major,
                    version.minor,
                    version.patch,
                    build,
                    digest,
                    data,
                    self.now,
                ))
            })
            .or_doing("add a component")?;
        let version = ImageVersion { version, build };
        Ok(Component { id, name: name.to_string(), version, digest: digest.into(), data: data.into() })
    }

    /// The newest version that fits, its newest build unless one is named.
    pub fn find_component(&self, name: &VersionedName) -> Result<Component> {
        self.list_components()?
            .into_iter()
            .filter(|c| name.fits(&c.name, c.version))
            .max_by_key(|c| c.version)
            .ok_or_else(|| CatalogError::NotFound {
                kind: "component",
                name: name.to_string(),
                known: self.known_components(),
            })
    }

    pub fn list_components(&self) -> Result<Vec<Component>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM components WHERE removed IS NULL ORDER BY slug, major, minor, patch, build"
        );
        self.rows("list components", &sql, [], component)
    }

    /// Forgets the document. The number stays used.
    ///
    /// # Errors
    /// Images were made with it.
    pub fn remove_component(&self, component: &Component) -> Result<()> {
        let users = self.users_of(component.id)?;
        self.refuse_in_use(&format!("component {component}"), "in the recipes of", &users)?;
        self.sql
            .execute("UPDATE components SET removed = ?2, data = '' WHERE id = ?1", (component.id, self.now))
            .or_doing("remove a component")?;
        Ok(())
    }

    /// Fails when another spelling of the same name is that of something there: `living` is what the rows
    /// of the table have to fulfil for that. What is gone keeps its numbers, and no name.
    pub(super) fn free_name(
        &self,
        kind: &'static str,
        table: &'static str,
        living: &str,
        name: &ResourceName,
    ) -> Result<()> {
        let sql = format!("SELECT name FROM {table} WHERE slug = ?1 AND name <> ?2 AND {living} LIMIT 1");
        let taken: Option<String> = self
            .sql
            .query_row(&sql, [name.slug().as_str(), name.as_str()], |r| r.get(0))
            .optional()
            .or_doing("look a name up")?;
        match taken {
            Some(taken) => Err(CatalogError::NameTaken { kind, name: name.to_string(), taken }),
            None => Ok(()),
        }
    }

    /// At most 20 names, for messages.
    fn known_components(&self) -> Vec<String> {
        let sql = "SELECT DISTINCT name FROM components WHERE removed IS NULL ORDER BY name LIMIT 20";
        self.rows("list names", sql, [], |r| r.get(0)).unwrap_or_default()
    }
}
