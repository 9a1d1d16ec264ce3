//! What `plan`, `validate` and `build` have in common.

use crate::build::begin::Asked;
use crate::build::breaks::Break;
use crate::build::layers::Reuse;
use crate::build::plan::{Plan, Setting};
use crate::cli::Settings;
use crate::cli::settings::Runner;
use crate::component::{Values, World};
use crate::model::{Failure, FailureKind};
use crate::service::{self, Service};
use crate::support::diagnostic::Diagnostic;
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub struct Recipe {
    /// Recipe file (YAML)
    pub file: PathBuf,
    /// Give a component's parameter another value
    #[arg(long = "set", value_name = "[COMPONENT.]NAME=VALUE")]
    pub set: Vec<Setting>,
    /// Values of {{ aws:ssm:... }}, {{ aws:imds:... }}, {{ context:accountId }}, {{ context:region }} (YAML or JSON)
    #[arg(long, value_name = "FILE", env = "KILN_VALUES")]
    pub values: Option<PathBuf>,
}

/// What of earlier builds may be used.
#[derive(clap::Args)]
pub struct Caching {
    /// Start from the parent image: use no layer of an earlier build
    #[arg(long)]
    pub no_cache: bool,
    /// Use no layer from this component on
    #[arg(long, value_name = "COMPONENT", conflicts_with = "no_cache")]
    pub no_cache_from: Option<String>,
    /// Run again what updates packages or downloads, however recent it is
    #[arg(long)]
    pub refresh: bool,
    /// Open a shell in the guest at a place of build and validate: before:COMPONENT, after:COMPONENT/STEP
    #[arg(long = "break", value_name = "WHERE")]
    pub breaks: Vec<Break>,
}

impl Recipe {
    /// # Errors
    /// The current folder is gone.
    pub fn asked(&self) -> Result<Asked, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| Failure::from_error(FailureKind::Environment, &e))
        };
        Ok(Asked {
            recipe: absolute(&self.file)?,
            set: self.set.iter().map(ToString::to_string).collect(),
            values: self.values.as_deref().map(absolute).transpose()?,
        })
    }

    /// As it was asked for before.
    pub fn again(asked: &Asked) -> Recipe {
        Recipe {
            file: asked.recipe.clone(),
            set: asked.set.iter().filter_map(|s| s.parse().ok()).collect(),
            values: asked.values.clone(),
        }
    }
}

impl Caching {
    pub fn reuse(&self) -> Reuse {
        Reuse {
            locked: false,
            none: self.no_cache,
            none_from: self.no_cache_from.clone(),
            refresh: self.refresh,
            breaks: self.breaks.clone(),
        }
    }
}

/// Opens the home folder and says what was put in order there.
pub fn open(settings: &Settings, cancel: &CancellationToken) -> Result<Service, Failure> {
    let service = Service::open(&settings.home, cancel, |line| tell!("{line}"))?;
    for left in &service.reconciled {
        tell!(
            "note: cleaned up after the build {} of {}, whose kiln came to its end",
            left.build,
            left.image
        );
        left.problems.iter().for_each(|p| tell!("warning: {p}"));
    }
    Ok(service)
}

pub async fn plan(
    service: &Service,
    recipe: &Recipe,
    settings: &Settings,
    only_plan: bool,
    reuse: &Reuse,
    cancel: &CancellationToken,
) -> Result<Plan, Failure> {
    let patience = Patience::unlimited(cancel);
    let host = service::host(settings.accel.into(), only_plan);
    let fetching = Some(settings.fetching(Runner::Guest)?);
    let world = World { fetching, values: values(recipe.values.as_deref())? };
    service::build::plan(service, &recipe.file, &recipe.set, host, reuse, &world, &patience).await
}

/// What `--values` names; without it nothing has a value.
pub fn values(path: Option<&Path>) -> Result<Values, Failure> {
    let Some(path) = path else { return Ok(Values::default()) };
    Values::load(path).map_err(|findings| Failure::from_findings("the values cannot be used", findings))
}

/// Warnings, on stderr.
pub fn warn(warnings: &[Diagnostic]) {
    warnings.iter().for_each(|w| tell!("{}", w.render().trim_end()));
}
