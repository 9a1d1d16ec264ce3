//! Building an image from a recipe file.

use super::Service;
use crate::build::begin::{Begun, begin};
use crate::build::plan::{self, Host, NoPlan, Plan, Setting};
use crate::build::recipe;
use crate::catalog::image::Image;
use crate::model::Failure;
use crate::support::wait::Patience;
use std::path::Path;

/// Reads, checks and plans a recipe file. Nothing is changed.
pub async fn plan(
    service: &Service,
    file: &Path,
    settings: &[Setting],
    host: Host,
    patience: &Patience,
) -> Result<Plan, Failure> {
    let (recipe, diagnostics) = recipe::load(file)?;
    let Some(recipe) = recipe else { return Err(refuse(file, diagnostics)) };
    match plan::plan(recipe, diagnostics, settings, host, &service.shelf(patience)).await {
        Ok(plan) => Ok(plan),
        Err(NoPlan::Input(findings)) => Err(refuse(file, findings)),
        Err(NoPlan::Failure(failure)) => Err(*failure),
    }
}

fn refuse(file: &Path, findings: Vec<crate::support::diagnostic::Diagnostic>) -> Failure {
    Failure::from_findings(&format!("{} cannot be built", file.display()), findings)
}

/// The AVAILABLE image of the same name and version that came from the same inputs.
pub fn existing(service: &Service, plan: &Plan) -> Result<Option<Image>, Failure> {
    let recipe = &plan.recipe;
    Ok(service.catalog.read(|t| t.image_by_inputs(&recipe.name, recipe.version, &plan.inputs))?)
}

/// Registers the image and makes the build's folder. Subscribe to its events before [`run`].
pub fn start(service: &Service, plan: &Plan) -> Result<Begun, Failure> {
    plan.check_host_space(service.catalog.home().root())?;
    plan.check_exports()?;
    begin(&service.catalog, plan)
}
