//! Building an image from a recipe file.

use super::store::{self, Pruned};
use super::{Service, image, log};
use crate::build::begin::{Asked, Begun, TOUCHED, begin, begin_again};
use crate::build::details::Details;
use crate::build::driver::{Order, drive};
use crate::build::event::{StageName, What};
use crate::build::layers::{Reuse, Why};
use crate::build::plan::{self, Host, NoPlan, Plan, Setting};
use crate::build::recipe;
use crate::build::report::Report;
use crate::build::state::Verdict;
use crate::build::warm::Warm;
use crate::build::workshop::{Visitor, Workshop};
use crate::catalog::image::Image;
use crate::component::World;
use crate::machine::last_lines;
use crate::model::{Failure, FailureKind, ImageStatus, Stage, VersionedName};
use crate::support::files;
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a cancelled stage may take to end in order.
const GRACE: Duration = Duration::from_secs(60);
/// Most bytes of one step's log in a report, and of all together.
const REPORT_LOG: usize = 256 << 10;
const REPORT_LOGS: usize = 8 << 20;
/// Lines of the console in a report.
const CONSOLE_LINES: usize = 400;

/// Reads, checks and plans a recipe file. Nothing is changed. `world` is what its documents may reach.
pub async fn plan(
    service: &Service,
    file: &Path,
    settings: &[Setting],
    host: Host,
    reuse: &Reuse,
    world: &World,
    patience: &Patience,
) -> Result<Plan, Failure> {
    let (recipe, diagnostics) = recipe::load(file)?;
    let Some(recipe) = recipe else { return Err(refuse(file, diagnostics)) };
    match plan::plan(recipe, diagnostics, settings, host, reuse, &service.shelf(world, patience)).await {
        Ok(plan) => Ok(plan),
        Err(NoPlan::Input(findings)) => Err(refuse(file, findings)),
        Err(NoPlan::Failure(failure)) => Err(*failure),
    }
}

fn refuse(file: &Path, findings: Vec<crate::support::diagnostic::Diagnostic>) -> Failure {
    Failure::from_findings(&format!("{} cannot be built", file.display()), findings)
}

/// The AVAILABLE image of the same name and version that came from the same inputs, unless something in
/// it has a time to live that is over.
pub fn existing(service: &Service, plan: &Plan, reuse: &Reuse) -> Result<Option<Image>, Failure> {
    let holds = |i: &Image| {
        let ran = Details::read(i).map(|d| d.ran).unwrap_or_default();
        let ran =
            if ran.len() == plan.components.len() { ran } else { vec![i.created; plan.components.len()] };
        plan.layers.is_over_since(&ran, reuse.refresh).is_none()
    };
    let available = |i: &Image| i.status == ImageStatus::Available && i.disk.is_some() && holds(i);
    Ok(same(service, plan)?.into_iter().find(available))
}

/// # Errors
/// A component would run.
pub fn check_locked(plan: &Plan) -> Result<(), Failure> {
    let runs = plan.components.iter().zip(&plan.layers.why).enumerate();
    let runs: Vec<String> = runs
        .filter(|(index, _)| plan.lane(*index).is_some())
        .filter_map(|(_, (component, why))| match why.as_ref()? {
            Why::Reason(reason) => Some(format!("{}: {reason}", component.label)),
            Why::Follows => Some(format!("{}: follows one that runs", component.label)),
        })
        .collect();
    if runs.is_empty() {
        return Ok(());
    }
    let mut failure =
        Failure::new(FailureKind::Conflict, "components would have to run, and --locked forbids it");
    failure.causes = runs;
    Err(failure.hint("Build without --locked, or bring the layers here: kiln store import FILE."))
}

/// An image of the same name and version that another kiln is making from the same inputs right now.
pub fn under_way(service: &Service, plan: &Plan) -> Result<Option<Image>, Failure> {
    Ok(same(service, plan)?.into_iter().find(|i| !i.status.is_final()))
}

fn same(service: &Service, plan: &Plan) -> Result<Vec<Image>, Failure> {
    let recipe = &plan.recipe;
    Ok(service.catalog.read(|t| t.images_by_inputs(&recipe.name, plan.version, &plan.inputs))?)
}

/// Gives an image that is there the tags that its recipe says now. Those that somebody else gave it stay.
pub fn keep_tags(service: &Service, plan: &Plan, image: &Image) -> Result<(), Failure> {
    let wanted = &plan.recipe.tags;
    let there = service.catalog.read(|t| t.tags_of(image.id))?;
    if wanted.iter().all(|tag| there.contains(tag)) {
        return Ok(());
    }
    Ok(service.catalog.write(|t| t.set_tags(image.id, wanted))?)
}

/// The AVAILABLE image that the recipe's version means now, where it is not this one.
pub fn newer(service: &Service, plan: &Plan, image: &Image) -> Result<Option<Image>, Failure> {
    let version = plan.recipe.version;
    let name = VersionedName { name: image.name.clone(), version, build: None };
    let newest = service.catalog.read(|t| t.find_image(&name))?;
    Ok((newest.version > image.version).then_some(newest))
}

/// Registers the image and makes the build's folder. Subscribe to its events before [`run`].
pub fn start(service: &Service, plan: &mut Plan, reuse: &Reuse, asked: &Asked) -> Result<Begun, Failure> {
    plan.check_exports()?;
    with_layers(service, plan, reuse, |plan| begin(&service.catalog, &service.nursery, plan, asked))
}

/// Layers that the plan counts on may go before its build pins them: then it starts from what there is.
fn with_layers(
    service: &Service,
    plan: &mut Plan,
    reuse: &Reuse,
    begin: impl Fn(&Plan) -> Result<Begun, Failure>,
) -> Result<Begun, Failure> {
    loop {
        // What has to run depends on the layers.
        plan.check_host_space(service.catalog.home().root())?;
        let begun = begin(plan);
        let gone = |plan: &mut Plan| {
            plan.layers.choose_again(&plan.recipe.name.slug(), reuse, &service.catalog).map_err(Failure::from)
        };
        if begun.is_ok() || !gone(plan)? {
            return begun;
        }
        if reuse.locked {
            check_locked(plan)?;
        }
    }
}

/// An image whose build did not work, and how that build was asked for.
pub fn failed(service: &Service, name: &str) -> Result<(Image, Asked), Failure> {
    let image = image::newest_of_any_status(service, name)?;
    if !matches!(image.status, ImageStatus::Failed | ImageStatus::Cancelled) {
        let message =
            format!("image {image} is {}: only a FAILED or CANCELLED one is tried again", image.status);
        return Err(Failure::new(FailureKind::Conflict, message));
    }
    let builds = service.catalog.read(|t| t.builds_of(image.id))?;
    let asked = builds.iter().rev().find_map(|b| serde_json::from_str(b.asked.as_deref()?).ok());
    let asked = asked.ok_or_else(|| {
        let message = format!("nobody wrote down how image {image} was asked for");
        Failure::new(FailureKind::Conflict, message).hint("kiln build RECIPE makes the next build.")
    })?;
    Ok((image, asked))
}

/// As [`start`], in the same build number: from the layer before what failed, or, when the disk was
/// captured, from the stage that failed.
pub fn restart(
    service: &Service,
    plan: &mut Plan,
    reuse: &Reuse,
    image: Image,
    asked: &Asked,
) -> Result<Begun, Failure> {
    plan.check_exports()?;
    if plan.inputs != image.inputs.strip_suffix(TOUCHED).unwrap_or(&image.inputs) {
        let message = format!("what goes into {image} has changed since it was begun");
        return Err(Failure::new(FailureKind::Conflict, message)
            .hint(format!("kiln build {} makes the next build of it.", asked.recipe.display())));
    }
    if image.disk.is_some() {
        if *reuse != Reuse::default() {
            let message = format!("{image} goes on from its captured disk: no component runs again");
            return Err(Failure::new(FailureKind::Input, message)
                .hint("Leave out --no-cache, --no-cache-from, --refresh and --break; or kiln build makes the next build."));
        }
        let builds = service.catalog.read(|t| t.builds_of(image.id))?;
        let summary: serde_json::Value =
            builds.last().and_then(|b| serde_json::from_str(b.summary.as_deref()?).ok()).unwrap_or_default();
        let distribute = summary["stage"] == Stage::Distribute.as_str();
        plan.route = plan.route.clone().from(if distribute { Stage::Distribute } else { Stage::Test });
    }
    with_layers(service, plan, reuse, |plan| {
        begin_again(&service.catalog, &service.nursery, plan, image.clone(), asked)
    })
}

/// What to do about a build that fails.
#[derive(Clone, Default)]
pub struct OnError {
    /// Its disk stays.
    pub keep: bool,
    /// Called to the guest of a failed step.
    pub visitor: Option<Arc<dyn Visitor>>,
}

/// A build that has ended.
#[derive(Debug)]
pub struct Built {
    /// As it is now.
    pub image: Image,
    pub build: String,
    pub folder: PathBuf,
    pub report: Option<PathBuf>,
    pub verdict: Verdict,
    /// The component that its first layer was the state after.
    pub resumed: Option<String>,
    /// Its disk, as it was when the build failed.
    disk_kept: bool,
    /// Layers that were dropped to make room, when there were.
    pub pruned: Vec<Pruned>,
}

/// Runs a begun build to its end.
///
/// Layers that only serve later builds may have `keep` bytes afterwards; None: as many as they will.
///
/// # Errors
/// The catalog cannot be written; how a build ends is in the verdict.
pub async fn run(
    service: &Service,
    plan: Plan,
    begun: Begun,
    on_error: OnError,
    warm: Warm,
    keep: Option<u64>,
    cancel: &CancellationToken,
) -> Result<Built, Failure> {
    let resume = plan.layers.resume.as_ref().filter(|_| plan.route.stages().contains(&Stage::Provision));
    let resumed = resume.map(|r| r.layer.component.clone());
    let plan = Arc::new(plan);
    begun.events.send(What::BuildStarted {
        image: begun.image.to_string(),
        stages: plan.route.stages().iter().copied().map(StageName).collect(),
        steps: plan.step_count(),
        folder: begun.folder.clone(),
    });
    let order = Order {
        catalog: service.catalog.clone(),
        build: begun.id.clone(),
        image: begun.image.id,
        image_name: begun.image.to_string(),
        route: plan.route.clone(),
        limit: Duration::from_secs(plan.recipe.settings.timeouts.build),
        grace: GRACE,
        keep: on_error.keep,
        events: begun.events.clone(),
    };
    let workshop = Box::new(Workshop::new(plan, service.catalog.clone(), &begun, on_error.visitor, warm));
    let driven = drive(&order, workshop, cancel).await;
    begun.events.close();
    let verdict = driven?;
    let image = service.catalog.read(|t| t.image(begun.image.id))?;
    let report = write_report(service, &begun, &verdict);
    let pruned = store::keep_within(service, keep)?;
    Ok(Built {
        image,
        build: begun.id.clone(),
        folder: begun.folder.clone(),
        report,
        verdict,
        resumed,
        disk_kept: service.catalog.home().build_disk(&begun.id).is_file(),
        pruned,
    })
}

/// One file that tells the whole build. A build is no worse for the lack of it.
fn write_report(service: &Service, begun: &Begun, verdict: &Verdict) -> Option<PathBuf> {
    let records = log::find(service, &begun.id).ok()?;
    let events = records.events().ok()?;
    let logs: Vec<(String, String)> = records
        .steps(None)
        .ok()?
        .into_iter()
        .filter_map(|s| Some((s.name.clone(), s.text().ok()?)))
        .scan(REPORT_LOGS, |left, (name, text)| Some((name, end_of(text, left))))
        .collect();
    // The machine that ran last is the one that a failure is about.
    let console = records.consoles().pop().map(|(_, text)| text).unwrap_or_default();
    let console = last_lines(console.as_bytes(), CONSOLE_LINES);
    let failure = match verdict {
        Verdict::Failed(failure) => Some(&**failure),
        _ => None,
    };
    let screenshots: Vec<(String, Vec<u8>)> = failure
        .iter()
        .flat_map(|f| &f.files)
        .filter(|f| f.extension().is_some_and(|e| e == "png"))
        .filter_map(|f| Some((f.file_name()?.to_string_lossy().into_owned(), std::fs::read(f).ok()?)))
        .collect();
    let image = begun.image.to_string();
    let report = Report {
        image: &image,
        events: &events,
        failure,
        logs: &logs,
        console: &console,
        screenshots: &screenshots,
    };
    let path = records.report_path();
    files::write_atomic(&path, report.html().as_bytes()).ok()?;
    Some(path)
}

/// The last part of a log, as far as there is room; the file has all.
fn end_of(text: String, left: &mut usize) -> String {
    let room = REPORT_LOG.min(*left);
    let end = &text[text.ceil_char_boundary(text.len().saturating_sub(room))..];
    *left -= end.len();
    if end.len() == text.len() {
        return text;
    }
    format!("(the first {} KiB are in the log's file only)\n{end}", (text.len() - end.len()).div_ceil(1024))
}

impl Built {
    /// The image, or why there is none, with where to look.
    pub fn into_result(self) -> Result<Built, Failure> {
        let mut failure = match &self.verdict {
            Verdict::Available => return Ok(self),
            Verdict::Failed(failure) => (**failure).clone(),
            Verdict::Cancelled => {
                Failure::new(FailureKind::Cancelled, format!("the build of {} was cancelled", self.image))
            }
        };
        failure.files.extend(self.report.clone());
        if matches!(self.verdict, Verdict::Failed(_)) {
            failure = failure.hint(format!("kiln log {} shows the logs of all steps.", self.build));
            if let Some(after) = &self.resumed {
                failure = failure.hint(format!(
                    "This build started from the layer after {after}: --no-cache tells whether that matters."
                ));
            }
            let of_a_step = failure.kind == FailureKind::Build && failure.step.is_some();
            failure = failure.hint(match of_a_step {
                true => format!(
                    "Mend it and run the same build again: it goes on from the last layer that still holds. \
                     With nothing mended, kiln retry {} tries it once more.",
                    self.image
                ),
                false => format!("kiln retry {} tries it again from here.", self.image),
            });
            if self.disk_kept {
                failure = failure.hint(format!(
                    "The disk is kept: kiln shell {0} opens it, kiln image remove {0} frees it.",
                    self.image
                ));
            } else if failure.step.is_some() && failure.console.is_empty() {
                // A guest whose console counts was lost: nobody can go into that one.
                failure =
                    failure.hint("With --on-error shell you get a shell in the guest where a step fails.");
            }
            if self.image.disk.is_some() {
                failure = failure.hint(format!(
                    "The captured disk is kept: kiln run {0} looks inside, kiln image remove {0} frees it.",
                    self.image
                ));
            }
        }
        Err(failure)
    }
}
