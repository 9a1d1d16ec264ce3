//! What people look into: a base image, an image, or the disk that a failed build kept.

use super::{Service, image};
use crate::build::details::Details;
use crate::catalog::image::Image;
use crate::machine::Interface;
use crate::model::{Architecture, Failure, FailureKind};
use std::path::PathBuf;

const MEMORY: u64 = 1024;

/// A disk to look at, which stays as it is.
pub(super) struct Subject {
    pub title: String,
    pub path_name: String,
    pub architecture: Architecture,
    pub disk: PathBuf,
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
                path_name: base.name,
                architecture: base.architecture,
                disk: base.disk,
                memory: MEMORY,
                interface: Interface::Virtio,
            });
        }
        let image = image::newest(service, name)?;
        let (disk, memory, interface) = if image.disk.is_some() {
            let (_, disk, details) = image::disk(service, &image)?;
            let Details { memory, interface, .. } = details;
            (disk, memory, if interface == "nvme" { Interface::Nvme } else { Interface::Virtio })
        } else {
            (kept_disk(service, &image)?, MEMORY, Interface::Virtio)
        };
        Ok(Subject {
            title: image.to_string(),
            path_name: image.path_name(),
            architecture: image.architecture,
            disk,
            memory,
            interface,
        })
    }
}

/// The disk that a failed build left behind because it was told to.
fn kept_disk(service: &Service, image: &Image) -> Result<PathBuf, Failure> {
    let builds = service.catalog.read(|t| t.builds_of(image.id))?;
    if !image.status.is_final() || builds.iter().any(|b| b.ended.is_none()) {
        let message = format!("image {image} is {}: its build is going on", image.status);
        return Err(Failure::new(FailureKind::Conflict, message)
            .hint("A shell in a build that runs opens where a step fails: kiln build --on-error shell"));
    }
    let disks = builds.iter().rev().map(|b| service.catalog.home().build(&b.id).join("overlay.qcow2"));
    disks.into_iter().find(|d| d.is_file()).ok_or_else(|| {
        let message = format!("image {image} is {} and its build's disk was not kept", image.status);
        Failure::new(FailureKind::Conflict, message).hint(
            "kiln build --on-error keep keeps it; --on-error shell opens a shell while the guest still runs.",
        )
    })
}
