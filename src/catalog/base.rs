//! Base images: where recipes start.

use super::{CatalogError, Doing, Result, Transaction};
use crate::model::{Architecture, Firmware, ResourceName};
use rusqlite::Row;

/// A registered base image. Building or importing one again under the same name adds a
/// row; the newest answers to the name, older ones stay while images stand on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub id: i64,
    pub name: String,
    pub architecture: Architecture,
    /// Digest of the artifact that is its disk.
    pub digest: String,
    /// What it can be booted with.
    pub firmware: Vec<Firmware>,
    /// Where it came from, for people: a definition's name and digest, or an imported file.
    pub origin: String,
    /// What is known of the disk (JSON of the room that made it).
    pub details: String,
    /// Milliseconds since the epoch.
    pub created: i64,
}

const COLUMNS: &str = "id, name, architecture, digest, firmware, origin, details, created";

fn base(r: &Row) -> rusqlite::Result<(Base, String, String)> {
    let base = Base {
        id: r.get(0)?,
        name: r.get(1)?,
        architecture: Architecture::HOST,
        digest: r.get(3)?,
        firmware: Vec::new(),
        origin: r.get(5)?,
        details: r.get(6)?,
        created: r.get(7)?,
    };
    Ok((base, r.get(2)?, r.get(4)?))
}

fn decode((mut base, architecture, firmware): (Base, String, String)) -> Result<Base> {
    base.architecture = architecture.parse().map_err(CatalogError::Corrupt)?;
    base.firmware = firmware
        .split(',')
        .filter(|s| !s.is_empty())
        .map(|s| s.parse().map_err(CatalogError::Corrupt))
        .collect::<Result<_>>()?;
    Ok(base)
}

impl Transaction<'_> {
    /// The artifact has to be in the catalog. `base.id` and `base.created` are set here.
    pub fn register_base(&self, name: &ResourceName, base: Base) -> Result<Base> {
        self.free_name("base image", "bases", name)?;
        let firmware = base.firmware.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(",");
        let id = self
            .sql
            .prepare(
                "INSERT INTO bases (slug, name, architecture, digest, firmware, origin, details, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .and_then(|mut s| {
                s.insert((
                    name.slug(),
                    name.as_str(),
                    base.architecture.as_str(),
                    &base.digest,
                    firmware,
                    &base.origin,
                    &base.details,
                    self.now,
                ))
            })
            .or_doing("register a base image")?;
        Ok(Base { id, name: name.to_string(), created: self.now, ..base })
    }

    /// The newest base image of that name.
    pub fn find_base(&self, name: &str) -> Result<Base> {
        let slug = crate::model::slug(name);
        self.list_bases()?.into_iter().find(|b| crate::model::slug(&b.name) == slug).ok_or_else(|| {
            CatalogError::NotFound { kind: "base image", name: name.into(), known: self.known_names("bases") }
        })
    }

    /// All rows, of each name the newest first.
    pub fn list_bases(&self) -> Result<Vec<Base>> {
        let sql = format!("SELECT {COLUMNS} FROM bases ORDER BY slug, id DESC");
        self.rows("list base images", &sql, [], base)?.into_iter().map(decode).collect()
    }

    /// Forgets every row of that name; [`super::Catalog::collect`] drops disks that nothing stands on.
    pub fn remove_base(&self, name: &str) -> Result<usize> {
        self.find_base(name)?;
        self.sql
            .execute("DELETE FROM bases WHERE slug = ?1", [crate::model::slug(name)])
            .or_doing("remove a base image")
    }
}
