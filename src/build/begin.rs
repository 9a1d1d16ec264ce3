//! A build comes into being: rows, folder, lock, event log.

use super::event::Events;
use super::lock::{Lock, Nursery};
use super::plan::Plan;
use super::recover;
use crate::catalog::artifact::digest_bytes;
use crate::catalog::image::{Image, NewImage};
use crate::catalog::lineage::UsedComponent;
use crate::catalog::{Catalog, CatalogError, Transaction};
use crate::component::Component;
use crate::model::{Failure, FailureKind, Firmware, ImageStatus};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Behind the digest of an image's inputs: people have been in its guest, too.
pub const TOUCHED: &str = " touched";

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

/// How a build was asked for, so that it can be asked for again.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Absolute.
    pub recipe: PathBuf,
    /// As on the command line.
    pub set: Vec<String>,
    pub values: Option<PathBuf>,
}

impl Asked {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("it is plain data")
    }
}

/// Registers the image PENDING and makes the build's folder.
pub fn begin(catalog: &Catalog, nursery: &Nursery, plan: &Plan, asked: &Asked) -> Result<Begun, Failure> {
    let _nursery = nursery.enter()?;
    let parent = &plan.parent;
    let recipe_text = copy_of_inputs(plan);
    let (image, id) = catalog.write(|t| {
        // Under the lock of the write: who makes room meanwhile takes the file away with its row.
        if parent.adopt {
            catalog.adopt_file(&parent.file, parent.format.as_str(), &parent.digest)?;
        }
        t.add_artifact(&parent.artifact())?;
        let recipe = &plan.recipe;
        let digest = digest_bytes(recipe_text.as_bytes());
        // Another kiln may have taken the version since the plan was made.
        let version = t.version_for(&recipe.name, recipe.version, &plan.inputs)?;
        let row = t.register_recipe(&recipe.name, version, &digest, &recipe_text)?;
        let image = t.add_image(&NewImage {
            name: recipe.name.clone(),
            version,
            architecture: plan.architecture(),
            inputs: plan.inputs.clone(),
            recipe: row,
            parent_name: parent.name.clone(),
            parent_image: parent.image,
            parent: parent.digest.clone(),
            details: "{}".into(),
            components: used(plan),
            tags: recipe.tags.clone(),
        })?;
        let id = image.path_name();
        add(t, plan, &image, &id, asked)?;
        Ok::<_, CatalogError>((image, id))
    })?;
    come_alive(catalog, image, id)
}

/// Another build of an image whose last one did not work: the same number, a folder of its own.
pub fn begin_again(
    catalog: &Catalog,
    nursery: &Nursery,
    plan: &Plan,
    image: Image,
    asked: &Asked,
) -> Result<Begun, Failure> {
    let _nursery = nursery.enter()?;
    let id = catalog.write(|t| {
        let builds = t.builds_of(image.id)?;
        let id = format!("{}-retry-{}", image.path_name(), builds.len());
        let status = t.image(image.id)?.status;
        let at_work = builds.iter().any(|b| b.ended.is_none());
        if at_work || !matches!(status, ImageStatus::Failed | ImageStatus::Cancelled) {
            let from = if at_work { "a build at work".into() } else { status.to_string() };
            let to = ImageStatus::Creating.to_string();
            return Err(CatalogError::Move { what: format!("image {image}"), from, to });
        }
        // Whoever was in the guest then, it is another guest now.
        if image.disk.is_none() {
            t.set_inputs(image.id, &plan.inputs)?;
        }
        add(t, plan, &image, &id, asked)?;
        Ok(id)
    })?;
    come_alive(catalog, image, id)
}

/// The build's rows.
fn add(t: &Transaction, plan: &Plan, image: &Image, id: &str, asked: &Asked) -> Result<(), CatalogError> {
    t.add_build(id, image.id, &asked.json())?;
    if let Some(resume) = &plan.layers.resume {
        // It may have gone since the plan was made; from here on it stays.
        t.artifact(&resume.artifact.digest)?;
        t.pin(id, &resume.artifact.digest)?;
        t.touch_layer(&resume.layer.key)?;
        plan.layers.reused(t, image.id)?;
    }
    t.journal(id, "begun", &format!("image {image}, inputs {}", plan.inputs))
}

/// Folder, lock and event log.
fn come_alive(catalog: &Catalog, image: Image, id: String) -> Result<Begun, Failure> {
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

fn used(plan: &Plan) -> Vec<UsedComponent> {
    let used = |(c, row): (&Component, &Option<i64>)| UsedComponent {
        title: c.label.clone(),
        digest: digest_bytes(c.document.source.text().as_bytes()),
        component: *row,
    };
    plan.components.iter().zip(&plan.registered).map(used).collect()
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
