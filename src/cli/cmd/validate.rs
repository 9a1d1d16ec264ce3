//! `kiln validate FILE`.

use super::planning::{self, Recipe};
use crate::build::layers::Reuse;
use crate::cli::Settings;
use crate::cli::render::Format;
use crate::model::Failure;
use crate::support::size::count;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Check a recipe, its components and what they refer to; exit code 2 when something is wrong
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    recipe: Recipe,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let plan = planning::plan(&service, &arguments.recipe, settings, true, &Reuse::default(), cancel).await?;
    match settings.format {
        Format::Human => {
            planning::warn(&plan.warnings);
            println!(
                "{} is good: {}, {}",
                arguments.recipe.file.display(),
                count(plan.components.len(), "component"),
                count(plan.step_count() as usize, "step")
            );
        }
        Format::Json => println!(
            "{}",
            json!({"valid": true, "findings": plan.warnings.iter().map(|w| w.json()).collect::<Vec<_>>()})
        ),
    }
    Ok(0)
}
