//! Layers: disks as they were after a component of a build, by the key of all that went in.

use super::artifact::Artifact;
use super::{Doing, Result, Transaction};
use rusqlite::{OptionalExtension, Row};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of all that went in, in hex.
    pub key: String,
    /// Digest of its disk, an overlay on the one before it.
    pub disk: String,
    /// When its file was written last, in ns since the epoch: another time is another file.
    pub modified: i64,
    /// The recipe's name in the form of paths.
    pub recipe: String,
    /// Label of the component that it is the state after.
    pub component: String,
    /// Index of that component.
    pub position: u32,
    /// JSON of the engine: what the key was made of.
    pub parts: String,
    /// The build that made it.
    pub build: String,
    /// Milliseconds since the epoch.
    pub created: i64,
    pub used: i64,
}

/// What an image's disk was after one of its components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    pub position: u32,
    pub component: String,
    pub disk: String,
    /// It was there before the image's build began.
    pub reused: bool,
}

/// Begins the name by which a run pins.
const RUN: &str = "runs/";

/// Digests of an artifact (?1) and of all that stand on it.
const ABOVE: &str = "WITH RECURSIVE above(digest) AS (
    VALUES (?1) UNION SELECT a.digest FROM artifacts a JOIN above ON a.backing = above.digest)";

const COLUMNS: &str = "key, disk, modified, recipe, component, position, parts, build, created, used";

fn layer(r: &Row) -> rusqlite::Result<Layer> {
    Ok(Layer {
        key: r.get(0)?,
        disk: r.get(1)?,
        modified: r.get(2)?,
        recipe: r.get(3)?,
        component: r.get(4)?,
        position: r.get(5)?,
        parts: r.get(6)?,
        build: r.get(7)?,
        created: r.get(8)?,
        used: r.get(9)?,
    })
}

impl Transaction<'_> {
    /// One of the same key is replaced: it was made on purpose.
    pub fn put_layer(&self, layer: &Layer) -> Result<()> {
        self.sql
            .prepare(
                "INSERT INTO layers (key, disk, modified, recipe, component, position, parts, build, created, used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)
                 ON CONFLICT (key) DO UPDATE SET disk = ?2, modified = ?3, recipe = ?4, component = ?5,
                     position = ?6, parts = ?7, build = ?8, created = ?9, used = ?9",
            )
            .and_then(|mut s| {
                s.execute((
                    &layer.key,
                    &layer.disk,
                    layer.modified,
                    &layer.recipe,
                    &layer.component,
                    layer.position,
                    &layer.parts,
                    &layer.build,
                    self.now,
                ))
            })
            .or_doing("add a layer")?;
        Ok(())
    }

    pub fn find_layer(&self, key: &str) -> Result<Option<Layer>> {
        self.sql
            .query_row(&format!("SELECT {COLUMNS} FROM layers WHERE key = ?1"), [key], layer)
            .optional()
            .or_doing("read a layer")
    }

    /// The newest one that a recipe of this name left after this component.
    pub fn newest_layer(&self, recipe: &str, component: &str) -> Result<Option<Layer>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM layers WHERE recipe = ?1 AND component = ?2 ORDER BY created DESC, id DESC LIMIT 1"
        );
        self.sql.query_row(&sql, [recipe, component], layer).optional().or_doing("read a layer")
    }

    /// Least recently used first.
    pub fn list_layers(&self) -> Result<Vec<Layer>> {
        self.rows("list layers", &format!("SELECT {COLUMNS} FROM layers ORDER BY used, id"), [], layer)
    }

    /// Returns whether there was one. Its disk stays as long as something else stands on it.
    pub fn drop_layer(&self, key: &str) -> Result<bool> {
        let dropped = self.sql.execute("DELETE FROM layers WHERE key = ?1", [key]);
        Ok(dropped.or_doing("drop a layer")? > 0)
    }

    pub fn touch_layer(&self, key: &str) -> Result<()> {
        self.sql
            .execute("UPDATE layers SET used = ?2 WHERE key = ?1", (key, self.now))
            .or_doing("use a layer")?;
        Ok(())
    }

    /// The disk stays for this build: until its end, and as long as its own disk is kept after that.
    pub fn pin(&self, build: &str, disk: &str) -> Result<()> {
        let sql = "INSERT INTO pins (build, disk) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.sql.execute(sql, [build, disk]).or_doing("pin a disk")?;
        Ok(())
    }

    /// The disk stays as long as there is a folder of this name among the home's runs.
    pub fn pin_for_run(&self, run: &str, disk: &str) -> Result<()> {
        self.pin(&format!("{RUN}{run}"), disk)
    }

    /// Drops the pins of those who have come to their end.
    pub fn release_pins(&self) -> Result<()> {
        let sql = "SELECT DISTINCT p.build, b.id IS NOT NULL AND b.ended IS NULL
                   FROM pins p LEFT JOIN builds b ON b.id = p.build";
        let holders: Vec<(String, bool)> =
            self.rows("list the pins", sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        for (holder, runs) in holders {
            let lives = match holder.strip_prefix(RUN) {
                Some(run) => self.home.runs().join(run).exists(),
                None => runs || self.home.build_disk(&holder).exists(),
            };
            if !lives {
                let dropped = self.sql.execute("DELETE FROM pins WHERE build = ?1", [&holder]);
                dropped.or_doing("unpin disks")?;
            }
        }
        Ok(())
    }

    /// What stands on the one disk is not changed by it; what is the other's from now on was the one's.
    pub fn swap_disk(&self, one: &str, other: &str, modified: i64) -> Result<()> {
        let swap = |sql: &str| self.sql.execute(sql, (one, other, modified)).or_doing("swap a layer's disk");
        swap("UPDATE layers SET disk = ?2, modified = ?3 WHERE disk = ?1")?;
        swap("UPDATE image_layers SET disk = ?2 WHERE disk = ?1 AND ?3 IS NOT NULL")?;
        Ok(())
    }

    /// [`super::Catalog::modified`] of the layer that is this disk, as it was when the layer was kept.
    pub fn modified_once(&self, disk: &str) -> Result<Option<i64>> {
        self.sql
            .query_row("SELECT modified FROM layers WHERE disk = ?1", [disk], |r| r.get(0))
            .optional()
            .or_doing("read a layer")
    }

    pub fn note_image_layer(&self, image: i64, layer: &ImageLayer) -> Result<()> {
        self.sql
            .execute(
                "INSERT INTO image_layers (image, position, component, disk, reused) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (image, position) DO UPDATE SET component = ?3, disk = ?4, reused = ?5",
                (image, layer.position, &layer.component, &layer.disk, layer.reused),
            )
            .or_doing("note an image's layer")?;
        Ok(())
    }

    /// In the order of the components. The disks need not be there any more.
    pub fn layers_of(&self, image: i64) -> Result<Vec<ImageLayer>> {
        let sql =
            "SELECT position, component, disk, reused FROM image_layers WHERE image = ?1 ORDER BY position";
        self.rows("list an image's layers", sql, [image], |r| {
            Ok(ImageLayer { position: r.get(0)?, component: r.get(1)?, disk: r.get(2)?, reused: r.get(3)? })
        })
    }

    /// Layers whose disk is this artifact, or stands on it.
    pub fn layers_on(&self, artifact: &Artifact) -> Result<Vec<Layer>> {
        let sql = format!("{ABOVE} SELECT {COLUMNS} FROM layers WHERE disk IN above ORDER BY used, id");
        self.rows("list the layers on a disk", &sql, [&artifact.digest], layer)
    }

    /// Images whose disk is this artifact, or stands on it.
    pub fn images_on(&self, artifact: &Artifact) -> Result<Vec<i64>> {
        let sql = format!("{ABOVE} SELECT id FROM images WHERE disk IN above ORDER BY id");
        self.rows("list the images on a disk", &sql, [&artifact.digest], |r| r.get(0))
    }

    /// Builds and runs that have pinned this artifact, or what stands on it.
    pub fn pins_on(&self, artifact: &Artifact) -> Result<Vec<String>> {
        let sql = format!("{ABOVE} SELECT DISTINCT build FROM pins WHERE disk IN above ORDER BY build");
        self.rows("list who uses a disk", &sql, [&artifact.digest], |r| r.get(0))
    }
}
