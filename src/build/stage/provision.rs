//! provision: the documents' build and validate phases, in the machine that becomes the image.

use crate::build::begin::steps_folder;
use crate::build::plan::BUILD_PHASES;
use crate::build::steps::StepObserver;
use crate::build::workshop::Workshop;
use crate::component::{Job, Options, provider, run};
use crate::guest::Guest;
use crate::model::{Failure, FailureKind, Stage};
use crate::support::wait::Patience;

impl Workshop {
    pub(in crate::build) async fn provision(&mut self, patience: &Patience) -> Result<(), Failure> {
        self.run_phases(Stage::Provision, &BUILD_PHASES, 0, patience).await
    }

    /// Runs the phases against the guest that is up. `offset` is the number of steps before them.
    pub(in crate::build) async fn run_phases(
        &mut self,
        stage: Stage,
        phases: &[&str],
        offset: u32,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let guest = self.guest.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::Internal, "there is no guest to run the components in")
        })?;
        let recipe = &self.plan.recipe;
        let options = Options { working_directory: recipe.working_directory.clone(), ..Options::default() };
        let job = Job {
            components: &self.plan.components,
            phases: Some(phases),
            options: &options,
            provider: &provider::Nothing,
        };
        let mut observer = StepObserver::new(&self.events, stage, &steps_folder(&self.folder), offset);
        let report = run(job, None, guest as &dyn Guest, &mut observer, patience).await;
        let Some(mut failure) = report.failure else { return Ok(()) };
        failure.files.extend(observer.last_log().map(|p| p.to_owned()));
        Err(self.with_console(failure))
    }
}
