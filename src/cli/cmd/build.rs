//! `kiln build FILE`.

use super::planning::{self, Recipe};
use crate::build::plan::Plan;
use crate::catalog::image::Image;
use crate::cli::Settings;
use crate::cli::render::{self, Format};
use crate::model::Failure;
use crate::service::build::{self, Built};
use crate::service::{Service, image};
use crate::support::wait::Patience;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Build an image from a recipe: boot, run its components, seal, test in a fresh machine
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    recipe: Recipe,
    /// Build also when nothing changed since the last build of this version
    #[arg(long)]
    rebuild: bool,
    /// What becomes of the disk of a build that fails [default: as the recipe says, else cleanup]
    #[arg(long, value_enum, value_name = "WHAT")]
    on_error: Option<OnError>,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    Keep,
    Cleanup,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings)?;
    let plan = planning::plan(&service, &arguments.recipe, settings, arguments.dry_run, cancel).await?;
    planning::warn(&plan.warnings);
    if arguments.dry_run {
        match settings.format {
            Format::Human => print!("{}", render::plan::human(&plan)),
            Format::Json => println!("{}", render::plan::json(&plan)),
        }
        return Ok(0);
    }
    if !arguments.rebuild
        && let Some(found) = build::existing(&service, &plan)?
    {
        unchanged(&service, &plan, found, settings, cancel).await?;
        return Ok(0);
    }
    let keep = arguments.on_error.map_or(plan.recipe.keep_on_failure, |o| o == OnError::Keep);
    let begun = build::start(&service, &plan)?;
    let rendering = render::follow(begun.events.subscribe(), settings.progress);
    let built = build::run(&service, plan, begun, keep, cancel).await;
    // The last lines come before the result.
    let _ = rendering.await;
    print(&service, built?.into_result()?, settings)?;
    Ok(0)
}

fn print(service: &Service, built: Built, settings: &Settings) -> Result<(), Failure> {
    let (artifact, path, _) = image::disk(service, &built.image)?;
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
                "  disk    {} ({} MiB on {})",
                path.display(),
                artifact.bytes >> 20,
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
    if !missing.is_empty() {
        let patience = Patience::unlimited(cancel);
        let (_, files) = image::export(service, &name, &missing, &mut |_| (), &patience).await?;
        written.extend(files.into_iter().map(|f| f.target));
    }
    match settings.format {
        Format::Json => println!(
            "{}",
            json!({"image": name, "status": found.status.as_str(), "unchanged": true, "exported": written})
        ),
        Format::Human => {
            println!(
                "{name} is {}: nothing changed since it was built (--rebuild builds all the same)",
                found.status
            );
            written.iter().for_each(|p| println!("  exported {}", p.display()));
        }
    }
    Ok(())
}
