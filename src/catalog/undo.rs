//! Undo rows: what has to go when the build that made it is over, however it ended.
//!
//! A row is written before its thing is acquired and dropped once the thing is
//! released or has become part of an image. So after a crash the rows name
//! everything that may be there, and some things that never came to be:
//! undoing is idempotent.

use super::{CatalogError, Doing, Result, Transaction};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UndoKind {
    /// A file; `what` is its path.
    File,
    /// A folder with all in it; `what` is its path.
    Folder,
    /// An artifact that no row speaks for yet; `what` is its digest and format.
    Artifact,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    pub id: i64,
    pub build: String,
    pub kind: UndoKind,
    pub what: String,
}

impl UndoKind {
    pub const ALL: [UndoKind; 3] = [UndoKind::File, UndoKind::Folder, UndoKind::Artifact];

    pub fn as_str(self) -> &'static str {
        match self {
            UndoKind::File => "file",
            UndoKind::Folder => "folder",
            UndoKind::Artifact => "artifact",
        }
    }
}

impl Transaction<'_> {
    /// Notes the intent to acquire; the id is for [`Transaction::drop_undo`].
    pub fn add_undo(&self, build: &str, kind: UndoKind, what: &str) -> Result<i64> {
        self.sql
            .prepare_cached("INSERT INTO undo (build, kind, what, created) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| s.insert((build, kind.as_str(), what, self.now)))
            .or_doing("add an undo row")
    }

    pub fn drop_undo(&self, id: i64) -> Result<()> {
        self.sql.execute("DELETE FROM undo WHERE id = ?1", [id]).or_doing("drop an undo row")?;
        Ok(())
    }

    /// A build's rows, newest first: the order to undo in.
    pub fn undo_of(&self, build: &str) -> Result<Vec<Undo>> {
        let sql = "SELECT id, build, kind, what FROM undo WHERE build = ?1 ORDER BY id DESC";
        let map = |r: &rusqlite::Row| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get(3)?));
        self.rows("read the undo rows", sql, [build], map)?
            .into_iter()
            .map(|(id, build, kind, what)| {
                let kind = UndoKind::ALL
                    .into_iter()
                    .find(|k| k.as_str() == kind)
                    .ok_or_else(|| CatalogError::Corrupt(format!("undo row of kind `{kind}`")))?;
                Ok(Undo { id, build, kind, what })
            })
            .collect()
    }

    /// An undo row speaks for the stored file of that digest, and so for what lies beside it.
    pub(super) fn is_undone(&self, digest: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM undo WHERE substr(what, 1, length(?1) + 1) = ?1 || '.')";
        self.sql.query_row(sql, [digest], |r| r.get(0)).or_doing("read the undo rows")
    }

    /// Builds that have undo rows, whether they run or not.
    pub fn builds_with_undo(&self) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT build FROM undo ORDER BY build";
        self.rows("read the undo rows", sql, [], |r| r.get(0))
    }
}
