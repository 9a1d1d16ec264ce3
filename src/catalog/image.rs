//! Images: `name/x.y.z/build`, their status and what they stand on.

use super::lineage::UsedComponent;
use super::{CatalogError, Doing, Result, Transaction};
use crate::model::{
    Architecture, ImageStatus, ImageVersion, ResourceName, Tag, Version, VersionPattern, VersionedName,
};
use rusqlite::{OptionalExtension, Row};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: i64,
    pub name: String,
    pub version: ImageVersion,
    pub architecture: Architecture,
    pub status: ImageStatus,
    /// Why it is FAILED or CANCELLED.
    pub reason: Option<String>,
    /// Digest of all that went in: two images with the same one are interchangeable.
    pub inputs: String,
    pub recipe: i64,
    pub parent_name: String,
    /// The image that is its parent; None where that is a base image.
    pub parent_image: Option<i64>,
    /// Digest of the disk it was started from.
    pub parent: Option<String>,
    /// Digest of its own disk, once captured.
    pub disk: Option<String>,
    /// JSON of the engine: disk facts, boot settings.
    pub details: String,
    /// Milliseconds since the epoch.
    pub created: i64,
    pub changed: i64,
}

/// What a new image is given; the build number is allocated.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub name: ResourceName,
    pub version: Version,
    pub architecture: Architecture,
    pub inputs: String,
    pub recipe: i64,
    pub parent_name: String,
    pub parent_image: Option<i64>,
    pub parent: String,
    pub details: String,
    /// In the order of the recipe.
    pub components: Vec<UsedComponent>,
    pub tags: Vec<Tag>,
}

impl Image {
    /// What paths and build ids are made of: `nginx-1.0.0-3`.
    pub fn path_name(&self) -> String {
        format!("{}-{}-{}", crate::model::slug(&self.name), self.version.version, self.version.build)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", crate::model::slug(&self.name), self.version)
    }
}

/// Names that a message lists.
const MOST_KNOWN: usize = 20;

const COLUMNS: &str = "id, name, major, minor, patch, build, architecture, status, reason, inputs, recipe, \
                       parent_name, parent, disk, details, created, changed, parent_image";

fn image(r: &Row) -> rusqlite::Result<(Image, String, String)> {
    let version = Version { major: r.get(2)?, minor: r.get(3)?, patch: r.get(4)? };
    let image = Image {
        id: r.get(0)?,
        name: r.get(1)?,
        version: ImageVersion { version, build: r.get(5)? },
        architecture: Architecture::HOST,
        status: ImageStatus::Pending,
        reason: r.get(8)?,
        inputs: r.get(9)?,
        recipe: r.get(10)?,
        parent_name: r.get(11)?,
        parent: r.get(12)?,
        disk: r.get(13)?,
        details: r.get(14)?,
        created: r.get(15)?,
        changed: r.get(16)?,
        parent_image: r.get(17)?,
    };
    Ok((image, r.get(6)?, r.get(7)?))
}

fn decode((mut image, architecture, status): (Image, String, String)) -> Result<Image> {
    image.architecture = architecture.parse().map_err(CatalogError::Corrupt)?;
    image.status = ImageStatus::parse(&status)
        .ok_or_else(|| CatalogError::Corrupt(format!("image {image} has the status `{status}`")))?;
    Ok(image)
}

impl Transaction<'_> {
    /// PENDING, with the next build number of its name and version. Numbers are never used twice.
    pub fn add_image(&self, new: &NewImage) -> Result<Image> {
        self.free_name("image", "images", "status <> 'DELETED'", &new.name)?;
        let slug = new.name.slug();
        let v = new.version;
        let id = self
            .sql
            .prepare(
                "INSERT INTO images (slug, name, major, minor, patch, build, architecture, status, inputs,
                                     recipe, parent_name, parent, details, created, changed, parent_image)
                 SELECT ?1, ?2, ?3, ?4, ?5, coalesce(max(build), 0) + 1, ?6, 'PENDING', ?7, ?8, ?9, ?10, ?11,
                        ?12, ?12, ?13
                 FROM images WHERE slug = ?1 AND major = ?3 AND minor = ?4 AND patch = ?5",
            )
            .and_then(|mut s| {
                s.insert((
                    &slug,
                    new.name.as_str(),
                    v.major,
                    v.minor,
                    v.patch,
                    new.architecture.as_str(),
                    &new.inputs,
                    new.recipe,
                    &new.parent_name,
                    &new.parent,
                    &new.details,
                    self.now,
                    new.parent_image,
                ))
            })
            .or_doing("add an image")?;
        self.add_used(id, &new.components)?;
        self.set_tags(id, &new.tags)?;
        self.image(id)
    }

    pub fn image(&self, id: i64) -> Result<Image> {
        let row = self
            .sql
            .query_row(&format!("SELECT {COLUMNS} FROM images WHERE id = ?1"), [id], image)
            .optional()
            .or_doing("read an image")?;
        row.map(decode).unwrap_or_else(|| {
            Err(CatalogError::NotFound { kind: "image", name: format!("#{id}"), known: Vec::new() })
        })
    }

    /// By the service's rules: with a build number any image; without, the newest version that
    /// matches and its newest build that is AVAILABLE.
    pub fn find_image(&self, name: &VersionedName) -> Result<Image> {
        let kind = if name.build.is_some() { "image" } else { "AVAILABLE image" };
        self.pick_image(name, kind, |i| name.build.is_some() || i.status == ImageStatus::Available)
    }

    /// The newest image that fits, whatever its status.
    pub fn newest_image(&self, name: &VersionedName) -> Result<Image> {
        self.pick_image(name, "image", |_| true)
    }

    fn pick_image(
        &self,
        name: &VersionedName,
        kind: &'static str,
        counts: impl Fn(&Image) -> bool,
    ) -> Result<Image> {
        let fits = |i: &Image| name.fits(&i.name, i.version) && counts(i);
        let all = self.list_images()?;
        let found = all.iter().filter(|i| fits(i)).max_by_key(|i| i.version).cloned();
        found.ok_or_else(|| {
            let any = VersionedName { version: VersionPattern::ANY, build: None, ..name.clone() };
            let of_name = all.iter().filter(|i| any.fits(&i.name, i.version));
            let mut known: Vec<String> = of_name.map(|i| format!("{i} ({})", i.status)).collect();
            if known.is_empty() {
                known = all.iter().map(|i| i.name.clone()).collect();
                known.dedup();
            }
            known.truncate(MOST_KNOWN);
            CatalogError::NotFound { kind, name: name.short(), known }
        })
    }

    /// The version that a build of these inputs gets: the one that is said; where the last number is
    /// open, the newest that has an image from the same inputs, else the next one that was never used.
    pub fn version_for(&self, name: &ResourceName, said: VersionPattern, inputs: &str) -> Result<Version> {
        if let Some(exact) = said.exact() {
            return Ok(exact);
        }
        let slug = name.slug();
        let same = self.list_images()?.into_iter().filter(|i| {
            i.inputs == inputs && crate::model::slug(&i.name) == slug && said.matches(i.version.version)
        });
        if let Some(same) = same.map(|i| i.version.version).max() {
            return Ok(same);
        }
        let version = |r: &Row| Ok(Version { major: r.get(0)?, minor: r.get(1)?, patch: r.get(2)? });
        // Of images that are gone, too.
        let sql = "SELECT DISTINCT major, minor, patch FROM images WHERE slug = ?1";
        let used = self.rows("list versions", sql, [slug], version)?;
        let newest = used.into_iter().filter(|v| said.matches(*v)).max();
        said.next_patch(newest)
            .ok_or_else(|| CatalogError::NoVersion { name: name.to_string(), said: said.to_string() })
    }

    /// The image has become another than what it was begun from.
    pub fn set_inputs(&self, id: i64, inputs: &str) -> Result<()> {
        let changed = self.sql.execute("UPDATE images SET inputs = ?2 WHERE id = ?1", (id, inputs));
        changed.or_doing("write what an image came from")?;
        Ok(())
    }

    /// Every image that is not DELETED, by name and version.
    pub fn list_images(&self) -> Result<Vec<Image>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM images WHERE status <> 'DELETED' ORDER BY slug, major, minor, patch, build"
        );
        self.rows("list images", &sql, [], image)?.into_iter().map(decode).collect()
    }

    /// The images of this name and version that came from the same inputs, newest first.
    pub fn images_by_inputs(
        &self,
        name: &ResourceName,
        version: Version,
        inputs: &str,
    ) -> Result<Vec<Image>> {
        let mut images = self.list_images()?;
        images.retain(|i| {
            crate::model::slug(&i.name) == name.slug() && i.version.version == version && i.inputs == inputs
        });
        images.reverse();
        Ok(images)
    }

    /// Moves an image on; refuses a move that the status machine does not know.
    pub fn set_status(&self, id: i64, to: ImageStatus, reason: Option<&str>) -> Result<()> {
        let image = self.image(id)?;
        if image.status == to {
            return Ok(());
        }
        if !image.status.may_become(to) || (to == ImageStatus::Available && image.disk.is_none()) {
            return Err(CatalogError::Move {
                what: format!("image {image}"),
                from: image.status.to_string(),
                to: to.to_string(),
            });
        }
        self.sql
            .execute(
                "UPDATE images SET status = ?2, reason = ?3, changed = ?4 WHERE id = ?1",
                (id, to.as_str(), reason, self.now),
            )
            .or_doing("set an image's status")?;
        Ok(())
    }

    /// Gives the image its disk, an artifact of the catalog, and what is known of it.
    pub fn set_disk(&self, id: i64, digest: &str, details: &str) -> Result<()> {
        self.sql
            .execute(
                "UPDATE images SET disk = ?2, details = ?3, changed = ?4 WHERE id = ?1",
                (id, digest, details, self.now),
            )
            .or_doing("set an image's disk")?;
        Ok(())
    }

    /// DELETED, and no longer holding its disk or its parent. The number stays used.
    ///
    /// # Errors
    /// Images stand on it.
    pub fn delete_image(&self, id: i64) -> Result<()> {
        let (image, children) = (self.image(id)?, self.children_of(id)?);
        self.refuse_in_use(&format!("image {image}"), "the parent of", &children)?;
        self.set_status(id, ImageStatus::Deleted, None)?;
        self.forget_used(id)?;
        self.sql
            .execute("UPDATE images SET disk = NULL, parent = NULL WHERE id = ?1", [id])
            .or_doing("delete an image")?;
        Ok(())
    }
}
