//! Bases, as far as they have to do with images.

use super::Service;
use crate::base::BaseImage;
use crate::boot::warm::Store;
use crate::model::Failure;

/// Removes a base that no image was made from, and what was kept warm of it.
pub fn remove(service: &Service, base: &BaseImage) -> Result<(), Failure> {
    // Under the write lock: no build begins on it meanwhile.
    service.catalog.write(|t| {
        let images = t.images_on_base(base.digest.trim_start_matches("sha256:"))?;
        t.refuse_in_use(&format!("base {}", base.name), "the parent of", &images)?;
        service.bases.remove(base).map_err(Failure::from)
    })?;
    Store::new(service.catalog.home().root(), 0).remove_of(base.digest.trim_start_matches("sha256:"));
    Ok(())
}
