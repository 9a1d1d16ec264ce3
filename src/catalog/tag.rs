//! Tags of images.

use super::{CatalogError, Doing, Result, Transaction};
use crate::model::{MOST_TAGS, Tag};

impl Transaction<'_> {
    /// By key.
    pub fn tags_of(&self, image: i64) -> Result<Vec<Tag>> {
        let sql = "SELECT key, value FROM tags WHERE image = ?1 ORDER BY key";
        self.rows("list tags", sql, [image], |r| Ok(Tag { key: r.get(0)?, value: r.get(1)? }))
    }

    /// Adds tags, or gives them new values.
    ///
    /// # Errors
    /// There would be too many.
    pub fn set_tags(&self, image: i64, tags: &[Tag]) -> Result<()> {
        for tag in tags {
            self.sql
                .execute(
                    "INSERT INTO tags (image, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT (image, key) DO UPDATE SET value = excluded.value",
                    (image, &tag.key, &tag.value),
                )
                .or_doing("set a tag")?;
        }
        let there = self.tags_of(image)?.len();
        if there > MOST_TAGS {
            return Err(CatalogError::TooManyTags { there });
        }
        Ok(())
    }

    /// Whether there was one.
    pub fn remove_tag(&self, image: i64, key: &str) -> Result<bool> {
        let removed = self.sql.execute("DELETE FROM tags WHERE image = ?1 AND key = ?2", (image, key));
        Ok(removed.or_doing("remove a tag")? > 0)
    }
}
