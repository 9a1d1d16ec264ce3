//! Builds: attempts to make an image.

use super::{CatalogError, Doing, Result, Transaction};
use rusqlite::{OptionalExtension, Row};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Also the name of its folder: `nginx-1.0.0-3`.
    pub id: String,
    pub image: i64,
    /// The engine's state, for people.
    pub state: String,
    /// Milliseconds since the epoch.
    pub started: i64,
    pub ended: Option<i64>,
    /// JSON of the engine: outcome, timings.
    pub summary: Option<String>,
    /// JSON of the engine: the recipe's path and how it was to be built.
    pub asked: Option<String>,
}

const COLUMNS: &str = "id, image, state, started, ended, summary, asked";

fn build(r: &Row) -> rusqlite::Result<Build> {
    Ok(Build {
        id: r.get(0)?,
        image: r.get(1)?,
        state: r.get(2)?,
        started: r.get(3)?,
        ended: r.get(4)?,
        summary: r.get(5)?,
        asked: r.get(6)?,
    })
}

impl Transaction<'_> {
    pub fn add_build(&self, id: &str, image: i64, asked: &str) -> Result<()> {
        self.sql
            .execute(
                "INSERT INTO builds (id, image, state, started, asked) VALUES (?1, ?2, 'begun', ?3, ?4)",
                (id, image, self.now, asked),
            )
            .or_doing("add a build")?;
        Ok(())
    }

    pub fn set_build_state(&self, id: &str, state: &str) -> Result<()> {
        self.sql
            .execute("UPDATE builds SET state = ?2 WHERE id = ?1", (id, state))
            .or_doing("set a build's state")?;
        Ok(())
    }

    pub fn end_build(&self, id: &str, summary: &str) -> Result<()> {
        self.sql
            .execute(
                "UPDATE builds SET ended = ?2, state = 'ended', summary = ?3 WHERE id = ?1 AND ended IS NULL",
                (id, self.now, summary),
            )
            .or_doing("end a build")?;
        Ok(())
    }

    pub fn build(&self, id: &str) -> Result<Build> {
        self.sql
            .query_row(&format!("SELECT {COLUMNS} FROM builds WHERE id = ?1"), [id], build)
            .optional()
            .or_doing("read a build")?
            .ok_or_else(|| CatalogError::NotFound { kind: "build", name: id.into(), known: Vec::new() })
    }

    /// An image's builds, oldest first.
    pub fn builds_of(&self, image: i64) -> Result<Vec<Build>> {
        self.builds("WHERE image = ?1 ORDER BY started, id", [image])
    }

    /// Builds without an end: running, or left by a kiln that died.
    pub fn open_builds(&self) -> Result<Vec<Build>> {
        self.builds("WHERE ended IS NULL ORDER BY started, id", [])
    }

    fn builds(&self, rest: &str, parameters: impl rusqlite::Params) -> Result<Vec<Build>> {
        self.rows("list builds", &format!("SELECT {COLUMNS} FROM builds {rest}"), parameters, build)
    }
}
