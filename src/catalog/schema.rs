//! Tables and their migrations.

use super::{CatalogError, Doing, Result};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// One script per schema version; a script that was released is never edited.
pub(super) const MIGRATIONS: [&str; 3] = [V1, V2, V3];

const V1: &str = "
CREATE TABLE artifacts (
    digest       TEXT PRIMARY KEY CHECK (length(digest) = 64),
    format       TEXT NOT NULL,
    bytes        INTEGER NOT NULL,
    virtual_size INTEGER NOT NULL,
    backing      TEXT REFERENCES artifacts(digest),
    free         INTEGER,
    created      INTEGER NOT NULL
) STRICT;

CREATE TABLE components (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    slug    TEXT NOT NULL,
    name    TEXT NOT NULL,
    major   INTEGER NOT NULL,
    minor   INTEGER NOT NULL,
    patch   INTEGER NOT NULL,
    build   INTEGER NOT NULL,
    digest  TEXT NOT NULL,
    data    TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (slug, major, minor, patch, build)
) STRICT;

CREATE TABLE recipes (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    slug     TEXT NOT NULL,
    name     TEXT NOT NULL,
    major    INTEGER NOT NULL,
    minor    INTEGER NOT NULL,
    patch    INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    data     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    UNIQUE (slug, major, minor, patch, revision)
) STRICT;

CREATE TABLE images (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    slug         TEXT NOT NULL,
    name         TEXT NOT NULL,
    major        INTEGER NOT NULL,
    minor        INTEGER NOT NULL,
    patch        INTEGER NOT NULL,
    build        INTEGER NOT NULL,
    architecture TEXT NOT NULL,
    status       TEXT NOT NULL,
    reason       TEXT,
    inputs       TEXT NOT NULL,
    recipe       INTEGER NOT NULL REFERENCES recipes(id),
    parent_name  TEXT NOT NULL,
    parent       TEXT REFERENCES artifacts(digest),
    disk         TEXT REFERENCES artifacts(digest),
    details      TEXT NOT NULL,
    created      INTEGER NOT NULL,
    changed      INTEGER NOT NULL,
    UNIQUE (slug, major, minor, patch, build)
) STRICT;
CREATE INDEX images_by_inputs ON images(inputs);

CREATE TABLE builds (
    id      TEXT PRIMARY KEY,
    image   INTEGER NOT NULL REFERENCES images(id),
    state   TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended   INTEGER,
    summary TEXT
) STRICT;
CREATE INDEX builds_by_image ON builds(image);

CREATE TABLE journal (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    build  TEXT NOT NULL,
    at     INTEGER NOT NULL,
    entry  TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX journal_by_build ON journal(build, id);
CREATE TRIGGER journal_is_append_only_1 BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_is_append_only_2 BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TABLE undo (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    build   TEXT NOT NULL,
    kind    TEXT NOT NULL,
    what    TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE INDEX undo_by_build ON undo(build, id);
";

const V2: &str = "
ALTER TABLE artifacts ADD COLUMN file TEXT;
CREATE UNIQUE INDEX artifacts_by_file ON artifacts(file);

CREATE TABLE layers (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    key       TEXT NOT NULL UNIQUE,
    disk      TEXT NOT NULL REFERENCES artifacts(digest),
    modified  INTEGER NOT NULL,
    recipe    TEXT NOT NULL,
    component TEXT NOT NULL,
    position  INTEGER NOT NULL,
    parts     TEXT NOT NULL,
    build     TEXT NOT NULL,
    created   INTEGER NOT NULL,
    used      INTEGER NOT NULL
) STRICT;
CREATE INDEX layers_by_recipe ON layers(recipe, position, created);
CREATE INDEX layers_by_disk ON layers(disk);

CREATE TABLE image_layers (
    image     INTEGER NOT NULL REFERENCES images(id),
    position  INTEGER NOT NULL,
    component TEXT NOT NULL,
    disk      TEXT NOT NULL,
    reused    INTEGER NOT NULL,
    PRIMARY KEY (image, position)
) STRICT;

ALTER TABLE builds ADD COLUMN asked TEXT;

CREATE TABLE pins (
    build TEXT NOT NULL,
    disk  TEXT NOT NULL REFERENCES artifacts(digest),
    PRIMARY KEY (build, disk)
) STRICT;
";

/// What an image came from and what it is called by; builds of components that are gone keep their number.
const V3: &str = "
ALTER TABLE components ADD COLUMN removed INTEGER;
ALTER TABLE images ADD COLUMN parent_image INTEGER REFERENCES images(id);
UPDATE images SET parent_image = (
    SELECT p.id FROM images p
    WHERE p.slug || '/' || p.major || '.' || p.minor || '.' || p.patch || '/' || p.build = images.parent_name
);
CREATE INDEX images_by_parent_image ON images(parent_image);

CREATE TABLE image_components (
    image     INTEGER NOT NULL REFERENCES images(id),
    position  INTEGER NOT NULL,
    title     TEXT NOT NULL,
    digest    TEXT NOT NULL,
    component INTEGER REFERENCES components(id),
    PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX image_components_by_component ON image_components(component);

CREATE TABLE tags (
    image INTEGER NOT NULL REFERENCES images(id),
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (image, key)
) STRICT;
";

/// Brings a catalog of any older schema up to this one, in one transaction.
pub fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    let known = MIGRATIONS.len() as i64;
    let version = |c: &Connection| {
        c.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
            .or_doing("read the schema version")
    };
    if version(connection)? == known {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).or_doing("begin a migration")?;
    // Another kiln may have migrated while this one waited for the lock.
    let found = version(&transaction)?;
    if found > known {
        return Err(CatalogError::Newer { path: path.to_owned(), found, known });
    }
    for script in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(script).or_doing("migrate the catalog")?;
    }
    transaction.pragma_update(None, "user_version", known).or_doing("write the schema version")?;
    transaction.commit().or_doing("commit a migration")
}
