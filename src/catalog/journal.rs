//! The journal: what a build was about to do and what it has done. Append-only.

use super::{Doing, Result, Transaction};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    pub build: String,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// `moved`, `acquiring`, `acquired`, `released`, `reconciled` ...
    pub entry: String,
    pub detail: String,
}

impl Transaction<'_> {
    pub fn journal(&self, build: &str, entry: &str, detail: &str) -> Result<()> {
        self.sql
            .prepare_cached("INSERT INTO journal (build, at, entry, detail) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| s.execute((build, self.now, entry, detail)))
            .or_doing("write to the journal")?;
        Ok(())
    }

    /// A build's rows, oldest first.
    pub fn journal_of(&self, build: &str) -> Result<Vec<Entry>> {
        self.rows(
            "read the journal",
            "SELECT id, build, at, entry, detail FROM journal WHERE build = ?1 ORDER BY id",
            [build],
            |r| {
                Ok(Entry {
                    id: r.get(0)?,
                    build: r.get(1)?,
                    at: r.get(2)?,
                    entry: r.get(3)?,
                    detail: r.get(4)?,
                })
            },
        )
    }
}
