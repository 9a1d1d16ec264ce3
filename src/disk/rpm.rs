//! rpm's database of installed packages, from a disk of strangers: an SQLite file with a record per package.
//!
//! SQLite opens it for two queries. The second is asked only of a table that is defined as rpm defines
//! it, so what else a database can have (views, triggers, virtual tables, computed columns) never
//! runs; and SQLite's own steps, the time and the bytes of records are limited.

mod header;

use crate::model::Package;
use crate::support::wait::{Impatience, Patience};
use header::Header;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use std::path::Path;
use std::time::{Duration, Instant};

/// A package of 200,000 files has a record of some 40 MiB.
const RECORD_LIMIT: i32 = 64 << 20;
/// All packages of a large distribution, at the same time.
const MOST_PACKAGES: usize = 100_000;
/// Of what packages bring, in memory.
const PATHS_LIMIT: usize = 128 << 20;

/// SQLite's steps for the schema: rpm's has 70 entries, and takes some 700.
const SCHEMA_STEPS: u32 = 20_000;
/// And for all packages; each takes 5.
const STEPS: u32 = 10 * MOST_PACKAGES as u32;
/// Steps between two looks at what is left. One can read a whole record.
const PACE: u32 = 50;
/// A database of 200 MiB takes a second.
const TIME: Duration = Duration::from_secs(20);

const WHAT: &str = "rpm's database to be read";

/// rpm's own definition, without blanks and quotes.
const TABLE: &str = "createtablepackages(hnumintegerprimarykeyautoincrement,blobblobnotnull)";

#[derive(Debug, thiserror::Error)]
pub enum RpmError {
    #[error("SQLite says: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("it has no table of packages that is made as rpm makes it")]
    Table,
    #[error("the record of package {number} is not sound: {what}")]
    Record { number: i64, what: &'static str },
    #[error("it has more than {MOST_PACKAGES} packages")]
    Packages,
    #[error("its records are larger than itself")]
    Size,
    #[error("it takes too much work")]
    Work,
    #[error("it cannot be looked at: {0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

/// The packages in the database at `path`, in the order of their installation; its write-ahead log, if
/// there is one, lies beside it. The keys that rpm trusts are among them, as in `rpm -qa` (`gpg-pubkey`):
/// whose packages an image takes is worth comparing. Blocks.
pub fn packages(path: &Path, patience: &Patience) -> Result<Vec<Package>, RpmError> {
    let mut packages = Vec::new();
    scan(path, patience, |header| {
        packages.push(header.package()?);
        Ok(true)
    })?;
    Ok(packages)
}

/// The paths that these packages (name, architecture) have brought. Blocks.
pub fn paths(path: &Path, wanted: &[(String, String)], patience: &Patience) -> Result<Vec<String>, RpmError> {
    let (mut paths, mut room) = (Vec::new(), PATHS_LIMIT);
    scan(path, patience, |header| {
        let package = header.package()?;
        let is_wanted = wanted.iter().any(|(n, a)| *n == package.name && *a == package.architecture);
        if is_wanted { header.paths(&mut paths, &mut room) } else { Ok(true) }
    })?;
    Ok(paths)
}

/// Shows each record to `look`, until that has seen enough.
fn scan(
    path: &Path,
    patience: &Patience,
    mut look: impl FnMut(Header) -> Result<bool, &'static str>,
) -> Result<(), RpmError> {
    let begun = Instant::now();
    patience.check(WHAT, begun)?;
    let mut room = std::fs::metadata(path)?.len();
    if let Ok(log) = std::fs::metadata(path.with_extension("sqlite-wal")) {
        room += log.len();
    }
    let told = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => match patience.check(WHAT, begun) {
            Err(impatience) => RpmError::Impatience(impatience),
            Ok(()) => RpmError::Work,
        },
        _ => RpmError::Sqlite(e),
    };
    let connection = open(path, |new| limit(new, SCHEMA_STEPS, begun, patience)).map_err(told)?;
    if !is_of_rpm(&connection).map_err(told)? {
        return Err(RpmError::Table);
    }
    limit(&connection, STEPS, begun, patience);
    let query = "SELECT hnum, blob FROM main.Packages NOT INDEXED ORDER BY hnum LIMIT ?1";
    let mut query = connection.prepare(query).map_err(told)?;
    let mut rows = query.query([MOST_PACKAGES + 1]).map_err(told)?;
    let mut seen = 0;
    while let Some(row) = rows.next().map_err(told)? {
        seen += 1;
        if seen > MOST_PACKAGES {
            return Err(RpmError::Packages);
        }
        let number = row.get(0).map_err(told)?;
        let bad = |what| RpmError::Record { number, what };
        let value = row.get_ref(1).map_err(told)?;
        let record = value.as_blob().map_err(|_| bad("it is no row of bytes"))?;
        // Sound records share no pages.
        room = room.checked_sub(record.len() as u64).ok_or(RpmError::Size)?;
        if !look(Header::parse(record).map_err(bad)?).map_err(bad)? {
            break;
        }
    }
    Ok(())
}

fn open(path: &Path, limit: impl FnOnce(&Connection)) -> rusqlite::Result<Connection> {
    // Names are paths only. Links are followed: kiln makes the file itself, and the home folder that it lies
    // in may be reached through one.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    limit(&connection);
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    ] {
        connection.set_db_config(option, on)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, RECORD_LIMIT),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 4096),
        (Limit::SQLITE_LIMIT_COLUMN, 20),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// From now on SQLite has so many steps left.
fn limit(connection: &Connection, steps: u32, begun: Instant, patience: &Patience) {
    let (mut left, patience) = (steps / PACE, patience.clone());
    let is_over = move || {
        left = left.saturating_sub(1);
        left == 0 || begun.elapsed() > TIME || !patience.remains()
    };
    connection.progress_handler(PACE as i32, Some(is_over));
}

/// SQLite makes sure that what it calls a table of this name is what its text says.
fn is_of_rpm(connection: &Connection) -> rusqlite::Result<bool> {
    let query = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = 'Packages'";
    let text: Option<String> = connection.query_row(query, [], |row| row.get(0)).optional()?;
    let plain = |text: String| text.chars().filter(|c| !matches!(c, ' ' | '\'' | '"')).collect::<String>();
    Ok(text.is_some_and(|text| plain(text).eq_ignore_ascii_case(TABLE)))
}

#[cfg(test)]
mod tests;
