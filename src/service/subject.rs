//! What people look into: a base image, an image, or the disk that a failed build kept.

use super::{Service, image};
use crate::build::details::Details;
use crate::build::layers;
use crate::catalog::CatalogError;
use crate::catalog::artifact::Artifact;
use crate::catalog::image::Image;
use crate::machine::Interface;
use crate::model::{Architecture, Failure, FailureKind};
use std::fmt;
use std::path::PathBuf;

const MEMORY: u64 = 1024;

/// A moment of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    Before(String),
    After(String),
}

impl Moment {
    fn component(&self) -> &str {
        match self {
            Moment::Before(component) | Moment::After(component) => component,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Before(component) => write!(f, "before {component}"),
            Moment::After(component) => write!(f, "after {component}"),
        }
    }
}

/// A disk to look at, which stays as it is.
pub(super) struct Subject {
    pub title: String,
    /// What has to be said before: of an image that is not AVAILABLE.
    pub caution: Option<String>,
    pub path_name: String,
    pub architecture: Architecture,
    pub disk: PathBuf,
    /// Of the disk in the artifact store.
    pub digest: Option<String>,
    /// Of a disk that never changes: its digest, in hex, and the bytes that a guest sees.
    pub fixed: Option<(String, u64)>,
    /// MiB.
    pub memory: u64,
    pub interface: Interface,
}

impl Subject {
    /// A base image of that name, else an image.
    pub fn find(service: &Service, name: &str) -> Result<Subject, Failure> {
        if let Some(base) = service.bases.find(name)? {
            return Ok(Subject {
                title: base.name.clone(),
                caution: None,
                path_name: base.name,
                architecture: base.architecture,
                digest: None,
                disk: base.disk,
                fixed: Some((base.digest.trim_start_matches("sha256:").to_owned(), base.virtual_size)),
                memory: MEMORY,
                interface: Interface::Virtio,
            });
        }
        Subject::of_image(service, image::newest(service, name)?)
    }

    /// What an image's disk was before or after one of its components.
    pub fn at(service: &Service, name: &str, moment: &Moment) -> Result<Subject, Failure> {
        let mut image = image::newest_of_any_status(service, name)?;
        // Who asks for a name alone does not mean a build that is under way.
        if !image.status.is_final() {
            image = image::newest(service, name)?;
        }
        let layer = layer(service, &image, moment)?;
        let recorded = image.disk.is_some().then(|| Details::read(&image)).transpose()?;
        let (memory, interface) = recorded.map_or((MEMORY, Interface::Virtio), |d| (d.memory, interface(&d)));
        Ok(Subject {
            title: format!("{image} {moment}"),
            caution: image::unfinished(&image),
            path_name: image.path_name(),
            architecture: image.architecture,
            disk: service.catalog.artifact_path(&layer),
            digest: None,
            fixed: Some((layer.digest, layer.virtual_size)),
            memory,
            interface,
        })
    }

    fn of_image(service: &Service, image: Image) -> Result<Subject, Failure> {
        let (disk, artifact, memory, interface) = if image.disk.is_some() {
            let (artifact, disk, details) = image::disk(service, &image)?;
            (disk, Some(artifact), details.memory, interface(&details))
        } else {
            (kept_disk(service, &image)?, None, MEMORY, Interface::Virtio)
        };
        Ok(Subject {
            title: image.to_string(),
            caution: image::unfinished(&image),
            path_name: image.path_name(),
            architecture: image.architecture,
            digest: image.disk,
            disk,
            fixed: artifact.map(|a| (a.digest, a.virtual_size)),
            memory,
            interface,
        })
    }
}

fn interface(details: &Details) -> Interface {
    if details.interface == "nvme" { Interface::Nvme } else { Interface::Virtio }
}

/// The layer that holds an image's disk as it was then.
fn layer(service: &Service, image: &Image, moment: &Moment) -> Result<Artifact, Failure> {
    let (layers, components) =
        service.catalog.read(|t| Ok::<_, CatalogError>((t.layers_of(image.id)?, t.used_by(image.id)?)))?;
    let labels = components.iter().map(|c| c.title.as_str());
    let place = layers::position(labels, moment.component());
    let after = |place: usize| layers.iter().find(|l| l.position as usize == place).map(|l| l.disk.clone());
    let digest = match (moment, place) {
        (Moment::After(_), Some(place)) => after(place),
        (Moment::Before(_), Some(0)) => image.parent.clone(),
        // Only the one right before it: what another had done between would be missing.
        (Moment::Before(_), Some(place)) => after(place - 1),
        (_, None) => {
            let message = format!("image {image} has no component `{}`", moment.component());
            let titles: Vec<&str> = components.iter().map(|c| c.title.as_str()).collect();
            let failure = Failure::new(FailureKind::NotFound, message);
            return Err(failure.hint(format!("Its components are: {}.", titles.join(", "))));
        }
    };
    let digest = digest.ok_or_else(|| {
        let labels: Vec<&str> = layers.iter().map(|l| l.component.as_str()).collect();
        let list = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        Failure::new(FailureKind::NotFound, format!("image {image} has no layer {moment}"))
            .hint(format!("There are layers after: {list}."))
    })?;
    service.catalog.read(|t| t.find_artifact(&digest))?.ok_or_else(|| {
        let message = format!("the layer of image {image} {moment} is not kept any more");
        Failure::new(FailureKind::NotFound, message).hint("A build makes it again.")
    })
}

/// The disk that a failed build left behind because it was told to.
fn kept_disk(service: &Service, image: &Image) -> Result<PathBuf, Failure> {
    let builds = service.catalog.read(|t| t.builds_of(image.id))?;
    if !image.status.is_final() || builds.iter().any(|b| b.ended.is_none()) {
        let message = format!("image {image} is {}: its build is going on", image.status);
        return Err(Failure::new(FailureKind::Conflict, message)
            .hint("A shell in a build that runs opens where a step fails: kiln build --on-error shell"));
    }
    image::kept_disks(service, &builds).into_iter().next().map(|(path, _)| path).ok_or_else(|| {
        let message = format!("image {image} is {} and its build's disk was not kept", image.status);
        Failure::new(FailureKind::Conflict, message).hint(
            "kiln build --on-error keep keeps it; --on-error shell opens a shell while the guest still runs.",
        )
    })
}
