//! `kiln build FILE`.

use super::planning::{self, Caching, Recipe};
use crate::build::begin::Begun;
use crate::build::layers::Reuse;
use crate::build::plan::Plan;
use crate::build::warm::Warm;
use crate::build::workshop::{Occasion, Visitor};
use crate::catalog::image::Image;
use crate::cli::render::{self, Curtain, Format, Progress};
use crate::cli::{Settings, terminal};
use crate::guest::Interactive;
use crate::model::{Failure, FailureKind};
use crate::service::build::{self, Built};
use crate::service::{Service, image};
use crate::support::wait::Patience;
use async_trait::async_trait;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Build an image from a recipe: boot, run its components, seal, test in a fresh machine
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    recipe: Recipe,
    #[command(flatten)]
    caching: Caching,
    /// Make the next build also when nothing changed since the last one of this version
    #[arg(long)]
    rebuild: bool,
    /// Fail rather than run a component: everything has to come from layers
    #[arg(long, conflicts_with_all = ["no_cache", "no_cache_from"])]
    locked: bool,
    #[command(flatten)]
    warming: Warming,
    #[command(flatten)]
    failing: Failing,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
}

/// What of a build may wake instead of booting.
#[derive(clap::Args)]
pub struct Warming {
    /// Wake a guest that has booted before instead of booting one, or keep this one for the next time; the
    /// fresh machine of the tests always boots [default: as the recipe says, else no]
    #[arg(long, overrides_with = "no_warm")]
    warm: bool,
    /// Boot everything, whatever the recipe says, also kiln's own appliance, which otherwise wakes
    #[arg(long, overrides_with = "warm")]
    no_warm: bool,
}

impl Warming {
    pub fn wanted(&self, plan: &Plan, settings: &Settings) -> Result<Warm, Failure> {
        if self.no_warm {
            return Ok(Warm::default());
        }
        let store = settings.warm()?;
        let guests = self.warm || plan.recipe.settings.warm;
        Ok(Warm { guests: guests.then(|| store.clone()), appliances: Some(store) })
    }
}

/// What to do when a build fails.
#[derive(clap::Args)]
pub struct Failing {
    /// When the build fails: keep its disk, clean up, or open a shell in the guest of the failed step
    /// while it still runs, and clean up then [default: as the recipe says, else cleanup]
    #[arg(long, value_enum, value_name = "WHAT")]
    on_error: Option<OnError>,
}

impl Failing {
    /// # Errors
    /// A shell is wanted, and there is no terminal.
    pub fn check(&self, reuse: &Reuse) -> Result<(), Failure> {
        let wanted = self.on_error == Some(OnError::Shell) || !reuse.breaks.is_empty();
        if !wanted || terminal::is_interactive() {
            return Ok(());
        }
        let message = "--on-error shell and --break need a terminal to open the shell at";
        Err(Failure::new(FailureKind::Input, message)
            .hint("--on-error keep keeps the disk: kiln shell IMAGE looks into it later."))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    Keep,
    Cleanup,
    Shell,
}

/// Opens a shell where a step failed, and at breakpoints.
struct ShellThere {
    curtain: Curtain,
    /// Also where a step failed.
    on_error: bool,
}

#[async_trait]
impl Visitor for ShellThere {
    async fn visit(&self, occasion: Occasion<'_>, guest: &dyn Interactive, patience: &Patience) {
        if matches!(occasion, Occasion::Failed(_)) && !self.on_error {
            return;
        }
        self.curtain.down();
        match occasion {
            Occasion::Failed(failure) => {
                render::failure(failure, Format::Human);
                tell!("a shell in the guest that failed, as root; exit ends the build");
            }
            Occasion::Break(place) => {
                tell!("a shell in the guest {place}, as root; exit goes on with the build")
            }
        }
        if let Err(e) = terminal::attach(guest, terminal::command(&[]), patience).await {
            tell!("the shell ended: {e}");
        }
        self.curtain.up();
    }
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let reuse = Reuse { locked: arguments.locked, ..arguments.caching.reuse() };
    let dry = arguments.dry_run;
    let mut plan = planning::plan(&service, &arguments.recipe, settings, dry, &reuse, cancel).await?;
    planning::warn(&plan.warnings);
    if arguments.dry_run {
        match settings.format {
            Format::Human => print!("{}", render::plan::human(&plan)),
            Format::Json => println!("{}", render::plan::json(&plan)),
        }
        return Ok(0);
    }
    let anew = arguments.rebuild || reuse.none || reuse.none_from.is_some() || !reuse.breaks.is_empty();
    if !anew && let Some(found) = build::existing(&service, &plan, &reuse)? {
        unchanged(&service, &plan, found, settings, cancel).await?;
        return Ok(0);
    }
    if arguments.locked {
        build::check_locked(&plan)?;
    }
    arguments.failing.check(&reuse)?;
    if let Some(twin) = build::under_way(&service, &plan)?
        && !matches!(settings.progress, Progress::Json | Progress::None)
    {
        tell!(
            "note: {twin} is being made from the same inputs right now (kiln log {twin}); this is one more"
        );
    }
    let warm = arguments.warming.wanted(&plan, settings)?;
    let begun = build::start(&service, &mut plan, &reuse, &arguments.recipe.asked()?)?;
    carry_out(&service, plan, begun, &arguments.failing, warm, settings, cancel).await
}

/// Runs a begun build to its end, and tells of it.
pub async fn carry_out(
    service: &Service,
    plan: Plan,
    begun: Begun,
    failing: &Failing,
    warm: Warm,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let rendering = render::follow(begun.events.subscribe(), settings.progress);
    let on_failure = failing.on_error == Some(OnError::Shell);
    let on_error = build::OnError {
        keep: failing.on_error.map_or(plan.recipe.keep_on_failure, |o| o == OnError::Keep),
        visitor: (on_failure || !plan.stops.is_empty()).then(|| {
            Arc::new(ShellThere { curtain: rendering.curtain(), on_error: on_failure }) as Arc<dyn Visitor>
        }),
    };
    let built = build::run(service, plan, begun, on_error, warm, settings.layers()?, cancel).await;
    // The last lines come before the result.
    rendering.end().await;
    let built = built?;
    if !built.pruned.is_empty() && !matches!(settings.progress, Progress::Json | Progress::None) {
        tell!("note: {}", super::store::made_room(&built.pruned));
    }
    print(service, built.into_result()?, settings)?;
    Ok(0)
}

fn print(service: &Service, built: Built, settings: &Settings) -> Result<(), Failure> {
    let (artifact, path, _) = image::disk(service, &built.image)?;
    let above_base = service.catalog.read(|t| t.bytes_above_base(&artifact.digest))?;
    match settings.format {
        Format::Json => println!(
            "{}",
            json!({"image": built.image.to_string(), "status": built.image.status.as_str(), "unchanged": false,
                   "build": built.build, "folder": built.folder, "report": built.report,
                   "disk": {"path": path, "digest": format!("sha256:{}", artifact.digest), "bytes": artifact.bytes}})
        ),
        Format::Human => {
            let name = crate::model::slug(&built.image.name);
            println!("{} is {}", built.image, built.image.status);
            println!(
                "  disk    {} ({} MiB with its layers, on {})",
                path.display(),
                above_base >> 20,
                built.image.parent_name
            );
            println!("  logs    {}", built.folder.display());
            if let Some(report) = &built.report {
                println!("  report  {}", report.display());
            }
            println!("  next    kiln run {name}    kiln image export {name} --to raw");
        }
    }
    Ok(())
}

/// The image is there; files that the recipe wants and that are gone are written again.
async fn unchanged(
    service: &Service,
    plan: &Plan,
    found: Image,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let name = found.to_string();
    let missing: Vec<_> = plan.exports().filter(|e| !e.target.exists()).collect();
    let mut written = Vec::new();
    build::keep_tags(service, plan, &found)?;
    let newest = build::newer(service, plan, &found)?;
    if !missing.is_empty() {
        let patience = Patience::unlimited(cancel);
        let (_, files) = image::export(service, &name, &missing, &mut |_| (), &patience).await?;
        written.extend(files.into_iter().map(|f| f.target));
    }
    match settings.format {
        Format::Json => println!(
            "{}",
            json!({"image": name, "status": found.status.as_str(), "unchanged": true, "exported": written,
                   "newest": newest.as_ref().unwrap_or(&found).to_string()})
        ),
        Format::Human => {
            println!(
                "{name} is {}: nothing changed since it was built (--rebuild builds all the same)",
                found.status
            );
            if let Some(newest) = newest {
                println!(
                    "  {newest} came after it and holds other content: without a build number, that one is meant"
                );
            }
            written.iter().for_each(|p| println!("  exported {}", p.display()));
        }
    }
    Ok(())
}
