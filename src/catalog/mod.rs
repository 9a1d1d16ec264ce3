//! L2: what kiln remembers. SQLite for rows, a folder for artifacts by digest.
//!
//! All SQL of kiln's own is in this room, one resource per file. Everything happens
//! inside a [`Transaction`], so that a move of the engine, its journal row and
//! the undo rows it makes or drops are one write.

pub mod artifact;
pub mod build;
pub mod component;
pub mod home;
pub mod image;
pub mod journal;
pub mod layer;
pub mod lineage;
pub mod recipe;
mod schema;
pub mod tag;
pub mod undo;

use crate::model::{Failure, FailureKind};
use home::Home;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a write waits for another kiln's write.
const BUSY: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot open the catalog {}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("the catalog {} is of a newer kiln (schema {found}; this kiln knows up to {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("catalog: cannot {doing}")]
    Sql { doing: &'static str, source: rusqlite::Error },
    #[error("cannot {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("no {kind} named `{name}`")]
    NotFound { kind: &'static str, name: String, known: Vec<String> },
    #[error(
        "the {kind} name `{name}` is the same as `{taken}`: case, blanks and underscores do not tell names apart"
    )]
    NameTaken { kind: &'static str, name: String, taken: String },
    /// In what use, by whom; what to do then.
    #[error("{what} cannot be removed: it is {by}")]
    InUse { what: String, by: String, next: String },
    #[error("the version {said} of {name} has no number left to count up")]
    NoVersion { name: String, said: String },
    #[error("an image has {} tags at most; it would have {there}", crate::model::MOST_TAGS)]
    TooManyTags { there: usize },
    #[error("{what} cannot go from {from} to {to}")]
    Move { what: String, from: String, to: String },
    #[error("the catalog holds what this kiln cannot read: {0}")]
    Corrupt(String),
}

pub type Result<T> = std::result::Result<T, CatalogError>;

/// One open catalog. Cheap calls (below some ms), made from async code as they are.
pub struct Catalog {
    home: Home,
    connection: Mutex<Connection>,
}

/// Reads and writes that happen together or not at all.
pub struct Transaction<'a> {
    sql: rusqlite::Transaction<'a>,
    home: &'a Home,
    now: i64,
}

impl Transaction<'_> {
    fn rows<T>(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: impl rusqlite::Params,
        map: impl FnMut(&rusqlite::Row) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let read =
            || self.sql.prepare_cached(sql)?.query_map(parameters, map)?.collect::<rusqlite::Result<_>>();
        read().or_doing(doing)
    }
}

impl Catalog {
    /// Opens the catalog of a home folder, which is made when there is none.
    pub fn open(home: Home) -> Result<Catalog> {
        home.make_folders()?;
        let path = home.catalog();
        let open = |source| CatalogError::Open { path: path.clone(), source };
        let connection = Connection::open(&path).map_err(open)?;
        connection.busy_timeout(BUSY).map_err(open)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(open)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(open)?;
        let mut connection = connection;
        schema::migrate(&mut connection, &path)?;
        Ok(Catalog { home, connection: Mutex::new(connection) })
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Runs `work` in one transaction and commits it; an error takes everything back.
    pub fn write<T, E: From<CatalogError>>(
        &self,
        work: impl FnOnce(&Transaction) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sql =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).or_doing("begin a write")?;
        let transaction = Transaction { sql, home: &self.home, now: crate::support::clock::now_ms() };
        let value = work(&transaction)?;
        transaction.sql.commit().or_doing("commit a write")?;
        Ok(value)
    }

    /// Runs `work` on one consistent state; what it writes is dropped.
    pub fn read<T, E: From<CatalogError>>(
        &self,
        work: impl FnOnce(&Transaction) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sql =
            connection.transaction_with_behavior(TransactionBehavior::Deferred).or_doing("begin a read")?;
        work(&Transaction { sql, home: &self.home, now: crate::support::clock::now_ms() })
    }
}

/// Names what was being done when SQLite said no.
trait Doing<T> {
    fn or_doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn or_doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| CatalogError::Sql { doing, source })
    }
}

impl CatalogError {
    /// Nothing can be written, for the disk of the home folder is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            CatalogError::Open { source, .. } | CatalogError::Sql { source, .. } => {
                source.sqlite_error_code() == Some(ErrorCode::DiskFull)
            }
            CatalogError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Failure {
        let kind = match &error {
            CatalogError::NotFound { .. } => FailureKind::NotFound,
            CatalogError::NameTaken { .. } | CatalogError::InUse { .. } | CatalogError::Move { .. } => {
                FailureKind::Conflict
            }
            CatalogError::NoVersion { .. } | CatalogError::TooManyTags { .. } => FailureKind::Input,
            CatalogError::Corrupt(_) => FailureKind::Internal,
            _ => FailureKind::Environment,
        };
        let failure = Failure::from_error(kind, &error);
        match error {
            _ if error.is_disk_full() => failure.hint("Make room on this host where kiln's home folder is."),
            CatalogError::NotFound { known, .. } if !known.is_empty() => {
                failure.hint(format!("There are: {}.", known.join(", ")))
            }
            CatalogError::NotFound { kind: "image" | "AVAILABLE image", .. } => {
                failure.hint("There is no image yet: kiln build RECIPE makes one.")
            }
            CatalogError::InUse { next, .. } => failure.hint(next),
            CatalogError::NameTaken { kind, taken, .. } => {
                let what = if kind == "component" { "component" } else { "image" };
                failure.hint(format!(
                    "Write it as `{taken}`, or remove what has that name (kiln {what} list, kiln {what} remove)."
                ))
            }
            CatalogError::NoVersion { .. } => failure.hint("Go on with the next minor version."),
            CatalogError::TooManyTags { .. } => {
                failure.hint("Remove some: kiln image tag IMAGE --remove KEY")
            }
            CatalogError::Newer { .. } => failure.hint("Use the newer kiln, or another --home."),
            CatalogError::Open { .. } => failure.hint("Check that the folder is yours and writable."),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests;
