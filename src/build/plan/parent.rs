//! What a recipe starts from: a base image, or an image built before.

use super::Shelf;
use crate::build::details::Details;
use crate::build::recipe::Recipe;
use crate::catalog::image::Image;
use crate::catalog::{CatalogError, artifact::Artifact};
use crate::model::{Architecture, DiskFormat, Failure, Firmware, ImageStatus, VersionedName};
use crate::support::diagnostic::Findings;
use crate::support::similar;
use std::path::PathBuf;

/// A disk that a build starts from.
#[derive(Clone, Debug)]
pub struct Parent {
    /// As the recipe names it, resolved: `debian-12`, `nginx/1.0.0/3`.
    pub name: String,
    /// Of an image.
    pub image: Option<i64>,
    pub architecture: Architecture,
    /// 64 hexadecimal digits: of the disk file.
    pub digest: String,
    pub file: PathBuf,
    pub format: DiskFormat,
    /// Bytes that a guest sees, and those of the file.
    pub virtual_size: u64,
    pub file_size: u64,
    pub firmware: Vec<Firmware>,
    /// Bytes free on its root file system, when a build has looked.
    pub free: Option<u64>,
    /// Not yet in the artifact store: a base image's disk.
    pub adopt: bool,
    /// Digest of what its file is an overlay on.
    pub backing: Option<String>,
}

impl Parent {
    /// BIOS where it can: it boots faster.
    pub fn preferred_firmware(&self) -> Firmware {
        self.firmware.iter().copied().min().unwrap_or(Firmware::Uefi)
    }

    /// Its row in the artifact store.
    pub fn artifact(&self) -> Artifact {
        Artifact {
            digest: self.digest.clone(),
            format: self.format.as_str().into(),
            bytes: self.file_size,
            virtual_size: self.virtual_size,
            backing: self.backing.clone(),
            file: None,
        }
    }
}

/// None, and a finding, when nothing answers to the name.
pub fn find(recipe: &Recipe, shelf: &Shelf, findings: &mut Findings) -> Result<Option<Parent>, Failure> {
    let name = &recipe.parent.value;
    if let Some(base) = shelf.bases.find(name).map_err(Failure::from)? {
        let digest = base.digest.trim_start_matches("sha256:").to_owned();
        return Ok(Some(Parent {
            free: shelf.catalog.read(|t| t.free_space_of(&digest))?,
            name: base.name,
            image: None,
            architecture: base.architecture,
            digest,
            file: base.disk,
            format: DiskFormat::Qcow2,
            virtual_size: base.virtual_size,
            file_size: base.file_size,
            firmware: base.firmware,
            adopt: true,
            backing: None,
        }));
    }
    let wanted: VersionedName = match name.parse() {
        Ok(wanted) => wanted,
        Err(e) => {
            findings.error(recipe.parent.span, "bad-value", format!("`parentImage`: {e}"));
            return Ok(None);
        }
    };
    match shelf.catalog.read(|t| t.find_image(&wanted)) {
        Ok(image) if image.status == ImageStatus::Available => Ok(Some(of_image(&image, shelf)?)),
        Ok(image) => {
            unusable(recipe, &image, findings);
            Ok(None)
        }
        Err(CatalogError::NotFound { known, .. }) => {
            match shelf.catalog.read(|t| t.newest_image(&wanted)) {
                Ok(image) => unusable(recipe, &image, findings),
                Err(_) => unknown(recipe, shelf, known, findings)?,
            }
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

fn of_image(image: &Image, shelf: &Shelf) -> Result<Parent, Failure> {
    let digest = image.disk.clone().unwrap_or_default();
    let details = Details::read(image)?;
    let (artifact, free) =
        shelf.catalog.read(|t| Ok::<_, CatalogError>((t.artifact(&digest)?, t.free_space_of(&digest)?)))?;
    Ok(Parent {
        name: image.to_string(),
        image: Some(image.id),
        architecture: image.architecture,
        file: shelf.catalog.artifact_path(&artifact),
        format: DiskFormat::Qcow2,
        virtual_size: artifact.virtual_size,
        file_size: artifact.bytes,
        firmware: details.firmware(),
        free,
        adopt: false,
        backing: artifact.backing,
        digest,
    })
}

fn unusable(recipe: &Recipe, image: &Image, findings: &mut Findings) {
    let message = format!("image {image} is {}, and only an AVAILABLE one can be a parent", image.status);
    let d = findings.error(recipe.parent.span, "no-parent", message);
    d.help = Some(if image.status.is_final() {
        format!("kiln image show {image} says why; build it again first")
    } else {
        "wait until its build has ended".into()
    });
}

fn unknown(
    recipe: &Recipe,
    shelf: &Shelf,
    images: Vec<String>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let name = &recipe.parent.value;
    let bases: Vec<String> = shelf.bases.list().map_err(Failure::from)?.into_iter().map(|b| b.name).collect();
    let near = similar::nearest(name, bases.iter().chain(&images).map(String::as_str)).map(str::to_owned);
    let d = findings.error(
        recipe.parent.span,
        "no-parent",
        format!("there is no base image and no AVAILABLE image `{name}`"),
    );
    d.help = Some(if crate::base::built_in().any(|b| b == name) {
        format!("make it first: kiln base build {name}")
    } else if crate::base::published().any(|b| b == name) {
        format!("get it first: kiln base pull {name}")
    } else if let Some(near) = near {
        format!("did you mean `{near}`?")
    } else {
        let can: Vec<&str> = crate::base::built_in().collect();
        format!("kiln base list shows what is there; kiln base build makes {}", can.join(", "))
    });
    Ok(())
}
