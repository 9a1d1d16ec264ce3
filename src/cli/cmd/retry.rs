//! `kiln retry IMAGE`.

use super::build::{self, Failing, Warming};
use super::planning::{self, Caching, Recipe};
use crate::cli::Settings;
use crate::model::Failure;
use crate::service;
use tokio_util::sync::CancellationToken;

/// Try a build again that did not work, in the same build number
///
/// It goes on from the layer before the component that failed: what that one had written is not there.
/// When the disk was captured already it goes on with the stage that failed, test or distribute. For a
/// recipe that was changed since, `kiln build` makes the next build.
#[derive(clap::Args)]
pub struct Arguments {
    /// name, name/1.0.0 or name/1.0.0/3: the newest of that name
    image: String,
    #[command(flatten)]
    caching: Caching,
    #[command(flatten)]
    warming: Warming,
    #[command(flatten)]
    failing: Failing,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let (image, asked) = service::build::failed(&service, &arguments.image)?;
    let recipe = Recipe::again(&asked);
    let reuse = arguments.caching.reuse();
    arguments.failing.check(&reuse)?;
    let mut plan = planning::plan(&service, &recipe, settings, false, &reuse, cancel).await?;
    planning::warn(&plan.warnings);
    let warm = arguments.warming.wanted(&plan, settings)?;
    let begun = service::build::restart(&service, &mut plan, &reuse, image, &asked)?;
    build::carry_out(&service, plan, begun, &arguments.failing, warm, settings, cancel).await
}
