//! Images: `name/x.y.z/build`, their status and what they stand on.

use super::{CatalogError, Doing, Result, Transaction};
use crate::model::{Architecture, ImageStatus, ImageVersion, ResourceName, Version, VersionPattern};
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
    pub parent: String,
    pub details: String,
}

/// How a user names an image: `nginx`, `nginx/1.0.x`, `nginx/1.0.0`, `nginx/1.0.0/3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    pub name: String,
    pub version: VersionPattern,
    pub build: Option<u32>,
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

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)?;
        self.build.map_or(Ok(()), |b| write!(f, "/{b}"))
    }
}

impl std::str::FromStr for ImageName {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<ImageName, String> {
        let mut parts = s.split('/');
        let name = parts.next().unwrap_or_default();
        let version = parts.next().unwrap_or("x.x.x").parse().map_err(|e| format!("{e}"))?;
        let build = match parts.next() {
            Some(b) => Some(b.parse().map_err(|_| format!("`{b}` in `{s}` is no build number"))?),
            None => None,
        };
        if name.is_empty() || parts.next().is_some() {
            return Err(format!("`{s}` names no image: name, name/x.y.z or name/x.y.z/build"));
        }
        Ok(ImageName { name: name.into(), version, build })
    }
}

const COLUMNS: &str = "id, name, major, minor, patch, build, architecture, status, reason, inputs, recipe, \
                       parent_name, parent, disk, details, created, changed";

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
        self.free_name("image", "images", &new.name)?;
        let slug = new.name.slug();
        let v = new.version;
        let id = self
            .sql
            .prepare(
                "INSERT INTO images (slug, name, major, minor, patch, build, architecture, status, inputs,
                                     recipe, parent_name, parent, details, created, changed)
                 SELECT ?1, ?2, ?3, ?4, ?5, coalesce(max(build), 0) + 1, ?6, 'PENDING', ?7, ?8, ?9, ?10, ?11,
                        ?12, ?12
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
                ))
            })
            .or_doing("add an image")?;
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
    pub fn find_image(&self, name: &ImageName) -> Result<Image> {
        let slug = crate::model::slug(&name.name);
        let fits = |i: &Image| {
            crate::model::slug(&i.name) == slug
                && name.version.matches(i.version.version)
                && name.build.map_or(i.status == ImageStatus::Available, |b| b == i.version.build)
        };
        self.list_images()?.into_iter().filter(fits).max_by_key(|i| i.version).ok_or_else(|| {
            let kind = if name.build.is_some() { "image" } else { "AVAILABLE image" };
            CatalogError::NotFound { kind, name: name.to_string(), known: self.known_images() }
        })
    }

    /// The newest image that fits, whatever its status.
    pub fn newest_image(&self, name: &ImageName) -> Result<Image> {
        let slug = crate::model::slug(&name.name);
        let fits = |i: &Image| {
            crate::model::slug(&i.name) == slug
                && name.version.matches(i.version.version)
                && name.build.is_none_or(|b| b == i.version.build)
        };
        self.list_images()?.into_iter().filter(fits).max_by_key(|i| i.version).ok_or_else(|| {
            CatalogError::NotFound { kind: "image", name: name.to_string(), known: self.known_images() }
        })
    }

    /// The image has become another than what it was begun from.
    pub fn set_inputs(&self, id: i64, inputs: &str) -> Result<()> {
        let changed = self.sql.execute("UPDATE images SET inputs = ?2 WHERE id = ?1", (id, inputs));
        changed.or_doing("write what an image came from")?;
        Ok(())
    }

    /// At most 20 names, for messages.
    fn known_images(&self) -> Vec<String> {
        let mut names: Vec<String> = self.list_images().into_iter().flatten().map(|i| i.name).collect();
        names.dedup();
        names.truncate(20);
        names
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
    pub fn delete_image(&self, id: i64) -> Result<()> {
        self.set_status(id, ImageStatus::Deleted, None)?;
        self.sql
            .execute("UPDATE images SET disk = NULL, parent = NULL WHERE id = ?1", [id])
            .or_doing("delete an image")?;
        Ok(())
    }
}
