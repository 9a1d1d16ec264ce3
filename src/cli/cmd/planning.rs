//! What `plan`, `validate` and `build` have in common.

use crate::build::plan::{Plan, Setting};
use crate::cli::Settings;
use crate::cli::settings::Runner;
use crate::component::World;
use crate::model::Failure;
use crate::service::{self, Service};
use crate::support::diagnostic::Diagnostic;
use crate::support::wait::Patience;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub struct Recipe {
    /// Recipe file (YAML)
    pub file: PathBuf,
    /// Give a component's parameter another value
    #[arg(long = "set", value_name = "[COMPONENT.]NAME=VALUE")]
    pub set: Vec<Setting>,
}

/// Opens the home folder and says what was put in order there.
pub fn open(settings: &Settings) -> Result<Service, Failure> {
    let service = Service::open(&settings.home)?;
    for left in &service.reconciled {
        eprintln!(
            "note: cleaned up after the build {} of {}, whose kiln came to its end",
            left.build, left.image
        );
        left.problems.iter().for_each(|p| eprintln!("warning: {p}"));
    }
    Ok(service)
}

pub async fn plan(
    service: &Service,
    recipe: &Recipe,
    settings: &Settings,
    only_plan: bool,
    cancel: &CancellationToken,
) -> Result<Plan, Failure> {
    let patience = Patience::unlimited(cancel);
    let host = service::host(settings.accel.into(), only_plan);
    let world = World { fetching: Some(settings.fetching(Runner::Guest)?) };
    service::build::plan(service, &recipe.file, &recipe.set, host, &world, &patience).await
}

/// Warnings, on stderr.
pub fn warn(warnings: &[Diagnostic]) {
    warnings.iter().for_each(|w| eprint!("{}", w.render()));
}
