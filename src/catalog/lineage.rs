//! What images came from, and what came from them.

use super::image::Image;
use super::{CatalogError, Doing, Result, Transaction};

/// Dependents named in a message.
const NAMED: usize = 10;

/// A component as one image used it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedComponent {
    /// `install/1.0.0/2`, or a document's own name.
    pub title: String,
    /// SHA-256 of the document, in hex.
    pub digest: String,
    /// Its row, where it is one of the catalog.
    pub component: Option<i64>,
}

impl Transaction<'_> {
    pub(super) fn add_used(&self, image: i64, components: &[UsedComponent]) -> Result<()> {
        for (position, used) in (0_i64..).zip(components) {
            self.sql
                .execute(
                    "INSERT INTO image_components (image, position, title, digest, component)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    (image, position, &used.title, &used.digest, used.component),
                )
                .or_doing("add an image's components")?;
        }
        Ok(())
    }

    pub(super) fn forget_used(&self, image: i64) -> Result<()> {
        self.sql
            .execute("DELETE FROM image_components WHERE image = ?1", [image])
            .or_doing("forget an image's components")?;
        self.sql.execute("DELETE FROM tags WHERE image = ?1", [image]).or_doing("forget an image's tags")?;
        Ok(())
    }

    /// The components of an image, in the order of its recipe.
    pub fn used_by(&self, image: i64) -> Result<Vec<UsedComponent>> {
        let sql = "SELECT title, digest, component FROM image_components WHERE image = ?1 ORDER BY position";
        self.rows("list an image's components", sql, [image], |r| {
            Ok(UsedComponent { title: r.get(0)?, digest: r.get(1)?, component: r.get(2)? })
        })
    }

    /// The images whose parent is this one.
    pub fn children_of(&self, image: i64) -> Result<Vec<Image>> {
        Ok(self.list_images()?.into_iter().filter(|i| i.parent_image == Some(image)).collect())
    }

    /// The images that were started from a disk of a base whose digest starts so.
    pub fn images_on_base(&self, digest: &str) -> Result<Vec<Image>> {
        let on = |i: &Image| {
            i.parent_image.is_none() && i.parent.as_deref().is_some_and(|p| p.starts_with(digest))
        };
        Ok(self.list_images()?.into_iter().filter(on).collect())
    }

    /// The images that this component of the catalog was used for.
    pub fn users_of(&self, component: i64) -> Result<Vec<Image>> {
        let sql = "SELECT DISTINCT image FROM image_components WHERE component = ?1";
        let ids: Vec<i64> = self.rows("list a component's images", sql, [component], |r| r.get(0))?;
        Ok(self.list_images()?.into_iter().filter(|i| ids.contains(&i.id)).collect())
    }

    /// # Errors
    /// There are images that depend on it.
    pub fn refuse_in_use(&self, what: &str, is: &str, by: &[Image]) -> Result<()> {
        if by.is_empty() {
            return Ok(());
        }
        let told = |i: &Image| match i.status {
            crate::model::ImageStatus::Available => i.to_string(),
            status => format!("{i} ({status})"),
        };
        let mut names: Vec<String> = by.iter().take(NAMED).map(told).collect();
        if by.len() > NAMED {
            names.push(format!("{} more", by.len() - NAMED));
        }
        // The newest first: they may stand on one another.
        let remove: Vec<String> = by.iter().rev().take(NAMED).map(Image::to_string).collect();
        Err(CatalogError::InUse {
            what: what.into(),
            by: format!("{is} {}", names.join(", ")),
            next: format!(
                "Remove first what came from it and is not needed: kiln image remove {} (kiln image lineage \
                 shows all of it).",
                remove.join(" ")
            ),
        })
    }
}
