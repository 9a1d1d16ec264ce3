//! What the stages of one build work with, and how they acquire and give back.

use super::begin::{Begun, TOUCHED};
use super::breaks::Stop;
use super::driver::Works;
use super::event::{Events, StageName, What};
use super::layers::Base;
use super::machines::BuildWatch;
use super::plan::Plan;
use super::running::Running;
use super::tray::Tray;
use super::warm::Warm;
use crate::appliance::{BootFiles, DiskFacts, Kit};
use crate::catalog::undo::UndoKind;
use crate::catalog::{Catalog, CatalogError};
use crate::disk::blocklist::BlockList;
use crate::guest::Interactive;
use crate::model::{Failure, FailureKind, ImageVersion, Inventory, Stage};
use crate::support::wait::Patience;
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines of the console that a failed step shows.
const CONSOLE_LINES: usize = 10;

/// Why somebody is called to a guest.
pub enum Occasion<'a> {
    /// A step failed; the guest is taken down afterwards.
    Failed(&'a Failure),
    /// The build has come to a breakpoint, and goes on afterwards.
    Break(&'a str),
}

/// Who is called to a guest while it runs.
#[async_trait]
pub trait Visitor: Send + Sync {
    async fn visit(&self, occasion: Occasion<'_>, guest: &dyn Interactive, patience: &Patience);
}

/// The real works: machines, disks, guests. One file per stage in `stage/`.
pub struct Workshop {
    pub(super) plan: Arc<Plan>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) build: String,
    pub(super) image: i64,
    pub(super) version: ImageVersion,
    pub(super) folder: PathBuf,
    pub(super) events: Events,
    pub(super) watch: Arc<BuildWatch>,
    pub(super) kit: Option<Kit>,
    /// The disk that becomes the image.
    pub(super) overlay: Option<Held>,
    /// Names under which machines of this build wrote what is a layer now.
    pub(super) links: Vec<Held>,
    /// What it stands on.
    pub(super) base: Option<Base>,
    /// When each component ran whose work is on the disk, in ms since the epoch.
    pub(super) ran: Vec<i64>,
    /// What the appliance found on it.
    pub(super) facts: Option<DiskFacts>,
    /// The packages on the sealed disk.
    pub(super) packages: Option<Inventory>,
    /// Kernel and initramfs for the first boot.
    pub(super) boot_files: Option<BootFiles>,
    /// What the files contain that the components still bring, once a machine needed it.
    pub(super) tray: Option<(Held, Tray)>,
    /// The machine that runs, of the build or of a test.
    pub(super) running: Option<Running>,
    pub(super) visitor: Option<Arc<dyn Visitor>>,
    /// Somebody was in the guest: what is in it came from more than the plan.
    pub(super) touched: bool,
    pub(super) warm: Warm,
    /// The captured disk, in the store.
    pub(super) captured: Option<PathBuf>,
    /// What it holds.
    pub(super) blocks: Option<BlockList>,
}

/// A file that an undo row speaks for.
#[derive(Debug)]
pub struct Held {
    pub path: PathBuf,
    pub undo: i64,
}

impl Workshop {
    pub fn new(
        plan: Arc<Plan>,
        catalog: Arc<Catalog>,
        begun: &Begun,
        visitor: Option<Arc<dyn Visitor>>,
        warm: Warm,
    ) -> Workshop {
        let watch = Arc::new(BuildWatch::new(catalog.clone(), &begun.id, &begun.events));
        Workshop {
            plan,
            catalog,
            watch,
            kit: None,
            boot_files: None,
            build: begun.id.clone(),
            image: begun.image.id,
            version: begun.image.version,
            folder: begun.folder.clone(),
            events: begun.events.clone(),
            overlay: None,
            links: Vec::new(),
            base: None,
            ran: Vec::new(),
            facts: None,
            packages: None,
            tray: None,
            running: None,
            visitor,
            touched: false,
            warm,
            captured: None,
            blocks: None,
        }
    }

    /// What the image's disk is, for a build that goes on after its capture.
    pub(super) fn recall_captured(&mut self) -> Result<(), Failure> {
        if self.captured.is_some() {
            return Ok(());
        }
        let digest = self.catalog.read(|t| t.image(self.image))?.disk;
        let digest = digest.ok_or_else(|| out_of_order("no disk was captured"))?;
        let artifact = self.catalog.read(|t| t.artifact(&digest))?;
        self.blocks = BlockList::load(&self.catalog.block_list_path(&digest))
            .map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
        self.captured = Some(self.catalog.artifact_path(&artifact));
        Ok(())
    }

    /// Writes down that something is about to be made.
    pub(super) fn acquire(&self, kind: UndoKind, what: &str) -> Result<i64, CatalogError> {
        self.catalog.write(|t| {
            t.journal(&self.build, "acquiring", &format!("{} {what}", kind.as_str()))?;
            t.add_undo(&self.build, kind, what)
        })
    }

    /// Makes a file, its undo row first.
    pub(super) async fn hold<F, E>(&self, path: &Path, make: F) -> Result<Held, Failure>
    where
        F: Future<Output = Result<(), E>>,
        Failure: From<E>,
    {
        let what = path.to_string_lossy();
        let undo = self.acquire(UndoKind::File, &what)?;
        make.await?;
        self.catalog.write(|t| t.journal(&self.build, "acquired", &what))?;
        Ok(Held { path: path.to_owned(), undo })
    }

    /// Removes a file and its undo row.
    pub(super) fn give_back(&self, held: &Held) -> Result<(), CatalogError> {
        let path = &held.path;
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(CatalogError::Io { doing: "remove", path: path.clone(), source });
            }
            _ => {}
        }
        self.catalog.write(|t| {
            t.journal(&self.build, "released", &path.to_string_lossy())?;
            t.drop_undo(held.undo)
        })
    }

    pub(super) fn facts(&self) -> Result<&DiskFacts, Failure> {
        self.facts.as_ref().ok_or_else(|| out_of_order("nothing is known of the disk"))
    }

    pub(super) fn overlay(&self) -> Result<&Path, Failure> {
        self.overlay.as_ref().map(|o| &*o.path).ok_or_else(|| out_of_order("there is no disk"))
    }

    pub(super) fn captured(&self) -> Result<&Path, Failure> {
        self.captured.as_deref().ok_or_else(|| out_of_order("no disk was captured"))
    }

    /// A failure with what the guest's console said last.
    pub(super) fn with_console(&self, mut failure: Failure) -> Failure {
        // A command that ended by itself has said what was wrong. One that was killed may not have:
        // the kernel says on the console what it kills.
        let by_itself = failure.exit_code.is_some_and(|code| (0..128).contains(&code));
        if let Some(running) = &self.running
            && failure.console.is_empty()
            && !by_itself
        {
            failure.console = running.console_tail(CONSOLE_LINES);
        }
        failure
    }

    /// Only where there is a guest to look at, and nobody wants to stop.
    async fn call_visitor(&self, occasion: Occasion<'_>, patience: &Patience) {
        let (Some(visitor), Some(running)) = (&self.visitor, &self.running) else { return };
        let Some(guest) = running.guest().filter(|_| running.is_alive()) else { return };
        if !patience.cancel.is_cancelled() {
            visitor.visit(occasion, guest, patience).await;
        }
    }

    /// Calls somebody in where a breakpoint is.
    pub(super) async fn stop_at(
        &mut self,
        component: usize,
        steps: Option<usize>,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let here = |stop: &&Stop| stop.component == component && stop.steps == steps;
        let Some(text) = self.plan.stops.iter().find(here).map(|stop| stop.text.clone()) else {
            return Ok(());
        };
        self.note(Stage::Provision, format!("at the breakpoint {text}"));
        self.call_visitor(Occasion::Break(&text), patience).await;
        if !std::mem::replace(&mut self.touched, true) {
            let text = "somebody was in the guest: no layers are kept from here on, and the image is not \
                        taken for one that its recipe makes";
            self.events.send(What::Warning { text: text.into() });
            self.catalog.write(|t| t.set_inputs(self.image, &format!("{}{TOUCHED}", self.plan.inputs)))?;
        }
        Ok(())
    }

    /// Ends the machine as if its power failed, and waits until it is gone.
    pub(super) async fn end_machine(&mut self) {
        if let Some(running) = self.running.take() {
            running.end().await;
        }
    }

    pub(super) fn note(&self, stage: Stage, text: impl Into<String>) {
        self.events.send(What::Note { stage: StageName(stage), text: text.into() });
    }
}

#[async_trait]
impl Works for Workshop {
    async fn run(&mut self, stage: Stage, patience: &Patience) -> Result<(), Failure> {
        self.watch.enter(stage);
        let result = match stage {
            Stage::Prepare => self.prepare(patience).await,
            Stage::Boot => self.boot(patience).await,
            Stage::Provision => self.provision(patience).await,
            Stage::Seal => self.seal(patience).await,
            Stage::Capture => self.capture(patience).await,
            Stage::Test => self.test(patience).await,
            Stage::Distribute => self.distribute(patience).await,
        };
        if let (Err(failure), Stage::Provision | Stage::Test) = (&result, stage) {
            self.call_visitor(Occasion::Failed(failure), patience).await;
        }
        result
    }

    async fn close(&mut self, keep: bool) {
        if keep && let Some(running) = self.running.take() {
            running.power_off().await;
        }
        self.end_machine().await;
        // What cannot be removed now has its undo row.
        let _ = self.drop_links();
    }
}

pub(super) fn out_of_order(what: &str) -> Failure {
    Failure::new(FailureKind::Internal, format!("a stage began before its time: {what}"))
}
