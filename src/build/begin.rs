//! A build comes into being: rows, folder, lock, event log.

use super::event::Events;
use super::lock::Lock;
use super::plan::Plan;
use super::recover;
use crate::catalog::artifact::digest_bytes;
use crate::catalog::image::{Image, NewImage};
use crate::catalog::{Catalog, CatalogError};
use crate::model::{Failure, FailureKind, Firmware};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A build that is alive: its lock is held as long as this is.
pub struct Begun {
    pub image: Image,
    /// Also the name of its folder.
    pub id: String,
    pub folder: PathBuf,
    pub events: Events,
    _lock: Lock,
}

/// Logs of steps, in a build's folder.
pub fn steps_folder(folder: &Path) -> PathBuf {
    folder.join("steps")
}

pub fn events_path(folder: &Path) -> PathBuf {
    folder.join("events.ndjson")
}

/// Where the machine lives that becomes the image; its console is recorded there.
pub fn machine_folder(folder: &Path) -> PathBuf {
    folder.join("machine")
}

/// Where the fresh machine lives that tests under a firmware.
pub fn test_folder(folder: &Path, firmware: Firmware) -> PathBuf {
    folder.join(format!("test-{firmware}"))
}

/// Registers the image PENDING and makes the build's folder.
pub fn begin(catalog: &Catalog, plan: &Plan) -> Result<Begun, Failure> {
    let nursery = recover::nursery_path(catalog);
    let _nursery = Lock::take(&nursery).map_err(|e| io("lock", &nursery, e))?;
    let parent = &plan.parent;
    if parent.adopt {
        catalog.adopt_file(&parent.file, parent.format.as_str(), &parent.digest)?;
    }
    let recipe_text = copy_of_inputs(plan);
    let (image, id) = catalog.write(|t| {
        t.add_artifact(&parent.artifact())?;
        let recipe = &plan.recipe;
        let digest = digest_bytes(recipe_text.as_bytes());
        let row = t.register_recipe(&recipe.name, recipe.version, &digest, &recipe_text)?;
        let image = t.add_image(&NewImage {
            name: recipe.name.clone(),
            version: recipe.version,
            architecture: plan.architecture(),
            inputs: plan.inputs.clone(),
            recipe: row,
            parent_name: parent.name.clone(),
            parent: parent.digest.clone(),
            details: "{}".into(),
        })?;
        let id = image.path_name();
        t.add_build(&id, image.id)?;
        if let Some(resume) = &plan.layers.resume {
            // It may have gone since the plan was made; who wants it now keeps it.
            t.artifact(&resume.artifact.digest)?;
            t.pin(&id, &resume.artifact.digest)?;
            t.touch_layer(&resume.layer.key)?;
            plan.layers.reused(t, image.id)?;
        }
        t.journal(&id, "begun", &format!("image {image}, inputs {}", plan.inputs))?;
        Ok::<_, CatalogError>((image, id))
    })?;
    let folder = catalog.home().build(&id);
    let steps = steps_folder(&folder);
    std::fs::create_dir_all(&steps).map_err(|e| io("make", &steps, e))?;
    let path = recover::lock_path(&folder);
    let lock = Lock::try_take(&path).map_err(|e| io("lock", &path, e))?;
    let lock = lock.ok_or_else(|| {
        Failure::new(FailureKind::Conflict, format!("somebody holds the lock {}", path.display()))
    })?;
    let log = events_path(&folder);
    let log = File::create(&log).map_err(|e| io("make", &log, e))?;
    Ok(Begun { image, events: Events::new(&id, Some(log)), id, folder, _lock: lock })
}

/// Recipe and documents as they were: images keep what they were made from.
fn copy_of_inputs(plan: &Plan) -> String {
    let documents: Vec<_> = plan
        .components
        .iter()
        .map(|c| serde_json::json!({"label": c.label, "text": c.document.source.text()}))
        .collect();
    serde_json::json!({"recipe": plan.recipe.source.text(), "documents": documents}).to_string()
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Failure {
    Failure::from(CatalogError::Io { doing, path: path.to_owned(), source })
}
