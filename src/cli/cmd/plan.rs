//! `kiln plan FILE`.

use super::planning::{self, Caching, Recipe};
use crate::cli::Settings;
use crate::cli::render::{self, Format};
use crate::model::Failure;
use tokio_util::sync::CancellationToken;

/// Show what a build of a recipe would do, and do nothing
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    recipe: Recipe,
    #[command(flatten)]
    caching: Caching,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let reuse = arguments.caching.reuse();
    let plan = planning::plan(&service, &arguments.recipe, settings, true, &reuse, cancel).await?;
    match settings.format {
        Format::Human => {
            planning::warn(&plan.warnings);
            print!("{}", render::plan::human(&plan));
            if let Some(failure) = &plan.unrunnable {
                println!("  as things are a build would stop: {failure}");
            }
            if let Some(image) = crate::service::build::existing(&service, &plan, &reuse)? {
                println!(
                    "  nothing changed since {image}: a build returns it (--rebuild builds all the same)"
                );
            }
        }
        Format::Json => println!("{}", render::plan::json(&plan)),
    }
    Ok(0)
}
