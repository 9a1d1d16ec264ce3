//! provision: the documents' build and validate phases, in the machine that becomes the image.

use crate::build::begin::steps_folder;
use crate::build::host_files::HostFiles;
use crate::build::plan::BUILD_PHASES;
use crate::build::steps::StepObserver;
use crate::build::workshop::Workshop;
use crate::component::{Job, Options, provider, run};
use crate::guest::Guest;
use crate::model::{Failure, FailureKind, Stage};
use crate::support::wait::Patience;
use std::ops::Range;

impl Workshop {
    pub(in crate::build) async fn provision(&mut self, patience: &Patience) -> Result<(), Failure> {
        let plan = self.plan.clone();
        for (index, component) in plan.components.iter().enumerate() {
            self.hand_over(&component.label, &plan.files[index], patience).await?;
            let before = plan.provision.iter().filter(|s| s.component < index).count();
            let only = index..index + 1;
            self.run_phases(Stage::Provision, only, &BUILD_PHASES, before as u32, patience).await?;
        }
        Ok(())
    }

    /// Puts what a component brings along into the guest.
    async fn hand_over(&self, label: &str, files: &[HostFiles], patience: &Patience) -> Result<(), Failure> {
        for files in files {
            let text = format!("{label}: bringing {files}");
            self.note(Stage::Provision, text);
            files.hand_over(self.guest()?, patience).await.map_err(|e| {
                let mut failure = e.failure();
                failure.component = Some(label.into());
                self.with_console(failure)
            })?;
        }
        Ok(())
    }

    fn guest(&self) -> Result<&dyn Guest, Failure> {
        let none = || Failure::new(FailureKind::Internal, "there is no guest to run the components in");
        self.guest.as_ref().map(|g| g as &dyn Guest).ok_or_else(none)
    }

    /// Runs the phases of some components against the guest that is up. `offset` is the number of
    /// steps before them.
    pub(in crate::build) async fn run_phases(
        &mut self,
        stage: Stage,
        components: Range<usize>,
        phases: &[&str],
        offset: u32,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let guest = self.guest()?;
        let recipe = &self.plan.recipe;
        let options = Options { working_directory: recipe.working_directory.clone(), ..Options::default() };
        let job = Job {
            components: &self.plan.components[components],
            phases: Some(phases),
            options: &options,
            provider: &provider::Nothing,
        };
        let mut observer = StepObserver::new(&self.events, stage, &steps_folder(&self.folder), offset);
        let report = run(job, None, guest, &mut observer, patience).await;
        let Some(mut failure) = report.failure else { return Ok(()) };
        failure.files.extend(observer.last_log().map(|p| p.to_owned()));
        Err(self.with_console(failure))
    }
}
