//! Bases, as far as they have to do with images.

use super::{Service, run};
use crate::appliance::warm::Store;
use crate::base::{BaseError, BaseImage, DISK, Damaged};
use crate::model::Failure;
use std::path::Path;

/// Removes a base that nothing was made from or stands on, and what was kept warm of it.
pub fn remove(service: &Service, base: &BaseImage) -> Result<(), Failure> {
    let digits = base.digest.trim_start_matches("sha256:");
    remove_unused(service, &base.name, digits, &base.disk, || service.bases.remove(base))?;
    Store::new(service.catalog.home().root(), 0).remove_of(digits);
    Ok(())
}

/// Removes what is left of a base that cannot be read.
pub fn remove_damaged(service: &Service, base: &Damaged) -> Result<(), Failure> {
    // Only the start of its digest is known; without one nobody can have made anything from it.
    let (title, digits) = (base.title(), base.digits());
    let digits = if digits.is_empty() { "none" } else { &digits };
    remove_unused(service, &title, digits, &base.folder.join(DISK), || service.bases.remove_damaged(base))
}

fn remove_unused(
    service: &Service,
    name: &str,
    digits: &str,
    disk: &Path,
    remove: impl FnOnce() -> Result<(), BaseError>,
) -> Result<(), Failure> {
    // No run or shell begins on it meanwhile, and, under the write lock, no build.
    let _nursery = service.nursery.enter()?;
    service.catalog.write(|t| {
        let images = t.images_on_base(digits)?;
        t.refuse_in_use(&format!("base {name}"), "the parent of", &images)?;
        run::refuse_used(service, &format!("base {name}"), [disk.to_owned()])?;
        remove().map_err(Failure::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Origin;
    use crate::model::{Architecture, FailureKind, Firmware};
    use tokio_util::sync::CancellationToken;

    fn base(service: &Service, digit: &str) -> BaseImage {
        let folder = service.catalog.home().tmp().join("new");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(DISK), b"disk").unwrap();
        let origin = Origin::Import { file: "a.raw".into(), format: "raw".into(), digest: "d".into() };
        let image = BaseImage {
            name: "a".into(),
            description: "d".into(),
            architecture: Architecture::HOST,
            firmware: vec![Firmware::Bios],
            digest: format!("sha256:{}", digit.repeat(64)),
            disk: folder.join(DISK),
            virtual_size: 1 << 30,
            file_size: 4,
            created: 1,
            origin,
            folder,
        };
        service.bases.add(&image).unwrap()
    }

    #[test]
    fn a_base_that_a_run_stands_on_stays() {
        let home = tempfile::tempdir().unwrap();
        let service = Service::open(home.path(), &CancellationToken::new(), |_| ()).unwrap();
        let image = base(&service, "1");
        let (folder, lock) = run::new_folder(&service, "a", Some(&image.disk), false).unwrap();
        let failure = remove(&service, &image).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Conflict);
        assert!(failure.message.contains(folder.to_str().unwrap()), "{}", failure.message);
        // Also when its record is lost.
        std::fs::write(image.folder.join("base.json"), "{").unwrap();
        let damaged = service.bases.damaged("a").unwrap().unwrap();
        assert_eq!(remove_damaged(&service, &damaged).unwrap_err().kind, FailureKind::Conflict);
        assert!(image.disk.exists());

        drop(lock);
        run::remove(&folder).unwrap();
        remove_damaged(&service, &damaged).unwrap();
        assert!(!image.folder.exists());
        let gone = run::new_folder(&service, "a", Some(&image.disk), false).map(drop).unwrap_err();
        assert_eq!(gone.kind, FailureKind::Conflict, "{}", gone.message);
    }
}
