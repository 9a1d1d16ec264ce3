//! Recipes as they were built from. The name and version say which; an edit without a
//! new version is kept as the next revision, since images keep the recipe they came from.

use super::{Doing, Result, Transaction};
use crate::model::{ResourceName, Version};
use rusqlite::OptionalExtension;

impl Transaction<'_> {
    /// Returns the row of this content: the newest revision when it is the same, else a new one.
    pub fn register_recipe(
        &self,
        name: &ResourceName,
        version: Version,
        digest: &str,
        data: &str,
    ) -> Result<i64> {
        let living = "id IN (SELECT recipe FROM images WHERE status <> 'DELETED')";
        self.free_name("recipe", "recipes", living, name)?;
        let newest: Option<(i64, u32, String)> = self
            .sql
            .query_row(
                "SELECT id, revision, digest FROM recipes WHERE slug = ?1 AND major = ?2 AND minor = ?3
                 AND patch = ?4 ORDER BY revision DESC LIMIT 1",
                (name.slug(), version.major, version.minor, version.patch),
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .optional()
            .or_doing("read a recipe")?;
        let revision = match newest {
            Some((id, _, same)) if same == digest => return Ok(id),
            Some((_, revision, _)) => revision + 1,
            None => 1,
        };
        self.sql
            .prepare(
                "INSERT INTO recipes (slug, name, major, minor, patch, revision, digest, data, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut s| {
                s.insert((
                    name.slug(),
                    name.as_str(),
                    version.major,
                    version.minor,
                    version.patch,
                    revision,
                    digest,
                    data,
                    self.now,
                ))
            })
            .or_doing("add a recipe")
    }

    /// The text a recipe row holds.
    pub fn recipe_data(&self, id: i64) -> Result<String> {
        self.sql
            .query_row("SELECT data FROM recipes WHERE id = ?1", [id], |r| r.get(0))
            .or_doing("read a recipe")
    }
}
