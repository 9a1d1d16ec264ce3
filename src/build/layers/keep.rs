//! Keeping a layer: writes are held for a moment, the disk goes on in a new file, the guest runs on.

use crate::build::event::What;
use crate::build::running::Running;
use crate::build::workshop::{Held, Workshop, out_of_order};
use crate::catalog::artifact::Artifact;
use crate::catalog::home::Home;
use crate::catalog::layer::{ImageLayer, Layer};
use crate::catalog::undo::UndoKind;
use crate::disk;
use crate::guest::GuestFiles;
use crate::model::{DiskFormat, Failure, FailureKind, Stage};
use crate::support::wait::Patience;
use crate::support::{clock, random};
use kiln_protocol::message::Operation;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guest's watchdog lets writes be held.
const HOLD_LIMIT: Duration = Duration::from_secs(30);
/// Writing out what the guest has in memory, which comes before.
const FLUSH_LIMIT: Duration = Duration::from_secs(300);

/// What a build's disk stands on: an artifact.
#[derive(Clone, Debug)]
pub struct Base {
    pub digest: String,
    /// Its file's name in the store.
    pub file: String,
}

impl Base {
    pub fn of(artifact: &Artifact) -> Base {
        Base { digest: artifact.digest.clone(), file: artifact.file_name() }
    }

    pub fn path(&self, home: &Home) -> PathBuf {
        home.artifacts().join(&self.file)
    }
}

impl Workshop {
    /// Keeps the disk as it is after a component, where the plan says so. A layer that could not be made
    /// costs a later build time, never this one its success.
    pub(in crate::build) async fn keep_layer(
        &mut self,
        component: usize,
        patience: &Patience,
    ) -> Result<(), Failure> {
        self.ran.push(clock::now_ms());
        if self.touched {
            return Ok(());
        }
        if self.plan.layers.entries[component].idle {
            return Ok(self.catalog.write(|t| self.plan.layers.pass_on(t, self.image, component))?);
        }
        if !self.plan.layers.keeps(component) {
            return Ok(());
        }
        let begun = Instant::now();
        let name = new_name()?;
        let undo = self.acquire(UndoKind::Artifact, &name)?;
        let current =
            self.overlay.as_ref().map(|o| o.path.clone()).ok_or_else(|| out_of_order("there is no disk"))?;
        let next = current.with_file_name(format!("overlay-{}.qcow2", component + 1));
        let stored = self.catalog.home().artifacts().join(&name);
        let make = disk::create_overlay_unopened(&stored, &next, self.plan.disk_size, patience);
        let held = self.hold(&next, make).await?;
        // In the appliance files of kiln's stand in for the image's: they have no place in a layer.
        if let Some(Running::Chroot(chroot)) = &mut self.running {
            chroot.take_out(patience).await.map_err(|e| e.failure())?;
        }
        let switched = self.switch(&held.path, patience).await;
        if let (Some(Running::Chroot(chroot)), false) =
            (&mut self.running, matches!(switched, Err(NotKept::Broken(_))))
        {
            chroot.put_in(patience).await.map_err(|e| e.failure())?;
        }
        let frozen = match switched {
            Ok(frozen) => frozen,
            Err(NotKept::Untouched(why)) => {
                let label = &self.plan.layers.entries[component].label;
                self.events.send(What::Warning { text: format!("no layer is kept after {label}: {why}") });
                self.give_back(&held)?;
                return Ok(self.catalog.write(|t| t.drop_undo(undo))?);
            }
            Err(NotKept::Broken(failure)) => return Err(*failure),
        };
        let before = self.overlay.replace(held).ok_or_else(|| out_of_order("there is no disk"))?;
        let bytes = self.store_layer(component, &name, undo, before, frozen.whole, patience).await?;
        self.events.send(What::Layer {
            component: self.plan.layers.entries[component].label.clone(),
            bytes,
            held_ms: frozen.held.as_millis() as u64,
            wall_ms: begun.elapsed().as_millis() as u64,
        });
        self.shorten(patience).await
    }

    /// The machine's disk goes on in `next`. What it wrote to is whole then, if the guest held its writes.
    async fn switch(&mut self, next: &Path, patience: &Patience) -> Result<Frozen, NotKept> {
        let nothing = || NotKept::Untouched("nothing runs".into());
        let running = self.running.as_mut().ok_or_else(nothing)?;
        let flush = patience.at_most(FLUSH_LIMIT);
        let limit_ms = HOLD_LIMIT.as_millis() as u32;
        let freeze = running.guest().ok_or_else(nothing)?.act(Operation::Freeze { limit_ms }, &flush).await;
        freeze.map_err(|e| NotKept::Untouched(e.to_string()))?;
        let begun = Instant::now();
        let at_once = patience.at_most(HOLD_LIMIT);
        let switched = running.snapshot_disk(next, &at_once).await;
        let thawed = running.guest().ok_or_else(nothing)?.act(Operation::Thaw, &at_once).await;
        match switched {
            Ok(()) => Ok(Frozen { whole: thawed.is_ok(), held: begun.elapsed() }),
            Err(e) if thawed.is_ok() => Err(NotKept::Untouched(e.to_string())),
            Err(e) => Err(NotKept::Broken(Box::new(Failure::from_error(FailureKind::Environment, &e)))),
        }
    }

    /// The file that is whole now goes into the store. QEMU opens its files by their names again when it
    /// likes to: the name that it knows stays as long as the machine.
    async fn store_layer(
        &mut self,
        component: usize,
        name: &str,
        undo: i64,
        file: Held,
        whole: bool,
        patience: &Patience,
    ) -> Result<u64, Failure> {
        let below = self.base.clone().ok_or_else(|| out_of_order("the disk stands on nothing"))?;
        disk::rename_backing(&file.path, &below.file).map_err(|e| system("write a layer's header", e))?;
        let link = self.catalog.home().tmp().join(name);
        let linked = self.acquire(UndoKind::File, &link.to_string_lossy())?;
        std::fs::hard_link(&file.path, &link).map_err(|e| system("link a layer", e))?;
        self.links.push(file);
        let digest = disk::sha256(&link, patience).await?;
        let bytes = std::fs::metadata(&link).map_err(|e| system("look at a layer", e))?.len();
        let artifact = Artifact {
            digest: digest.clone(),
            format: DiskFormat::Qcow2.as_str().into(),
            bytes,
            virtual_size: self.plan.disk_size,
            backing: Some(below.digest),
            file: Some(name.into()),
        };
        let layers = &self.plan.layers;
        let label = layers.entries[component].label.clone();
        let layer = Layer {
            key: layers.keys[component + 1].clone(),
            disk: digest.clone(),
            modified: 0,
            recipe: self.plan.recipe.name.slug(),
            component: label.clone(),
            position: component as u32,
            parts: layers.record(component + 1, &self.ran),
            build: self.build.clone(),
            created: 0,
            used: 0,
        };
        let position = component as u32;
        let of_image = ImageLayer { position, component: label, disk: digest.clone(), reused: false };
        let short_key = layer.key[..16].to_owned();
        let (catalog, own) = (self.catalog.clone(), name.to_owned());
        let (build, image) = (self.build.clone(), self.image);
        let stored = tokio::task::spawn_blocking(move || {
            // A component that wrote nothing leaves what another build's left: then that file is the layer.
            catalog.take_in(&link, &artifact, |t| {
                t.pin(&build, &digest)?;
                // One that was not held still is part of this build's disk, and of no other's.
                if whole {
                    let modified = catalog.modified(&t.artifact(&digest)?)?;
                    t.put_layer(&Layer { modified, ..layer })?;
                    t.note_image_layer(image, &of_image)?;
                }
                // Another build's file goes by this name as long as the build lasts.
                if t.artifact(&digest)?.file_name() == own {
                    t.drop_undo(undo)?;
                }
                t.drop_undo(linked)?;
                t.journal(&build, "layer", &format!("{own} {digest}"))
            })
        });
        let stored = stored.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))??;
        if stored.file_name() != name {
            // What the machine writes to now says in its header that it stands on this name, until its capture.
            let alias = self.catalog.home().artifacts().join(name);
            let linked = std::fs::hard_link(self.catalog.artifact_path(&stored), alias);
            linked.map_err(|e| system("link a layer", e))?;
        }
        self.base = Some(Base::of(&stored));
        if !whole {
            let text = "the guest's watchdog let writes go on before the layer was made: it is not reused";
            self.events.send(What::Warning { text: text.into() });
        }
        self.note(Stage::Provision, format!("layer {short_key}, {} MiB", bytes >> 20));
        Ok(bytes)
    }
}

impl Workshop {
    /// Once the machine is gone nobody needs the names any more under which it wrote the layers. The disk
    /// gets the name that it is looked for under.
    pub(in crate::build) fn drop_links(&mut self) -> Result<(), Failure> {
        while let Some(link) = self.links.pop() {
            self.give_back(&link)?;
        }
        let first = self.catalog.home().build_disk(&self.build);
        if let Some(overlay) = self.overlay.as_mut().filter(|o| o.path != first) {
            let named =
                self.catalog.write(|t| t.add_undo(&self.build, UndoKind::File, &first.to_string_lossy()))?;
            std::fs::rename(&overlay.path, &first).map_err(|e| system("name the disk", e))?;
            self.catalog.write(|t| t.drop_undo(overlay.undo))?;
            *overlay = Held { path: first, undo: named };
        }
        Ok(())
    }
}

struct Frozen {
    /// Writes were held all the time.
    whole: bool,
    held: Duration,
}

/// Why there is no layer.
enum NotKept {
    /// The disk is as before, and writable.
    Untouched(String),
    /// Nobody knows.
    Broken(Box<Failure>),
}

/// A layer is named before its content is known: what stands on it names it.
pub(super) fn new_name() -> Result<String, Failure> {
    let name = random::hexadecimal(16).map_err(|e| system("take random bytes for a layer's name", e))?;
    Ok(format!("layer-{name}.qcow2"))
}

pub(super) fn system(doing: &str, source: std::io::Error) -> Failure {
    Failure::new(FailureKind::Environment, format!("cannot {doing}: {source}"))
}
