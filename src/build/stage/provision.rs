//! provision: the documents' build and validate phases, each component in the machine that the plan has for it.

use crate::build::begin::steps_folder;
use crate::build::host_files::HostFiles;
use crate::build::outside::{Outside, environment};
use crate::build::plan::BUILD_PHASES;
use crate::build::recipe::Lane;
use crate::build::steps::StepObserver;
use crate::build::workshop::{Workshop, out_of_order};
use crate::component::run::{Ending, Reboots};
use crate::component::{Job, Options, run};
use crate::guest::{Guest, GuestFiles};
use crate::model::{Failure, FailureKind, Stage};
use crate::support::wait::Patience;
use std::ops::Range;
use std::time::Duration;

/// systemctl takes it for what it is then: not the time to start anything.
const OFFLINE: (&str, &str) = ("SYSTEMD_OFFLINE", "1");

const NO_REBOOT: &str = "its component runs in the appliance, where nothing is booted \
                         (`run: booted` in the recipe runs it in the guest)";

/// Bytes free on the guest's root below which nothing works there.
const NO_ROOM: u64 = 4 << 20;
/// A guest that is up answers at once.
const ROOM_LIMIT: Duration = Duration::from_secs(10);

/// What of the plan's documents is to be run.
pub(super) struct Phases<'a> {
    pub stage: Stage,
    pub components: Range<usize>,
    pub names: &'a [&'a str],
    /// Steps of the build before these.
    pub offset: u32,
}

impl Workshop {
    pub(in crate::build) async fn provision(&mut self, patience: &Patience) -> Result<(), Failure> {
        let plan = self.plan.clone();
        for (index, component) in plan.components.iter().enumerate().skip(plan.layers.done()) {
            let Some(lane) = plan.lane(index) else {
                self.keep_layer(index, patience).await?;
                continue;
            };
            self.take_lane(lane, Stage::Provision, patience).await?;
            self.stop_at(index, None, patience).await?;
            self.hand_over(&component.label, &plan.files[index], patience).await?;
            let mut options = self.options(Stage::Provision);
            if lane == Lane::Appliance {
                options.reboots = Reboots::Refuse(NO_REBOOT);
                options.environment.push((OFFLINE.0.into(), OFFLINE.1.into()));
            }
            let before = plan.to_provision().filter(|s| s.component < index).count();
            let phases = Phases {
                stage: Stage::Provision,
                components: index..index + 1,
                names: &BUILD_PHASES,
                offset: before as u32,
            };
            self.run_phases(phases, options, patience).await?;
            let steps = plan.provision.iter().filter(|s| s.component == index).count();
            self.stop_at(index, Some(steps), patience).await?;
            self.keep_layer(index, patience).await?;
        }
        self.give_tray_back()
    }

    /// Puts what a component brings along into the guest.
    async fn hand_over(&self, label: &str, files: &[HostFiles], patience: &Patience) -> Result<(), Failure> {
        if files.is_empty() {
            return Ok(());
        }
        let named = |mut failure: Failure| {
            failure.component = Some(label.into());
            failure
        };
        let mut tray = self.inserted(patience).await.map_err(named)?;
        for files in files {
            let text = format!("{label}: bringing {files}");
            self.note(Stage::Provision, text);
            let mut handed_over = files.hand_over(self.guest()?, tray.as_ref(), patience).await;
            if tray.is_some() && handed_over.as_ref().is_err_and(|e| self.does_without_tray(e)) {
                tray = None;
                handed_over = files.hand_over(self.guest()?, None, patience).await;
            }
            handed_over.map_err(|e| self.with_console(named(e.failure())))?;
        }
        Ok(())
    }

    /// Breakpoints within the steps of one component, in order.
    fn stops_in(&self, stage: Stage, components: &Range<usize>) -> Vec<usize> {
        let own =
            self.plan.stops.iter().filter(|s| stage == Stage::Provision && s.component == components.start);
        let mut all: Vec<usize> = own.filter_map(|stop| stop.steps).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn guest(&self) -> Result<&dyn Guest, Failure> {
        let running =
            self.running.as_ref().and_then(|running| running.guest()).map(|guest| guest as &dyn Guest);
        running.ok_or_else(|| out_of_order("there is nothing to run components in"))
    }

    pub(super) fn options(&self, stage: Stage) -> Options {
        let environment = environment(&self.plan, &self.build, self.version, stage);
        let working_directory = self.plan.recipe.working_directory.clone();
        let fetching = self.plan.world.fetching.clone();
        Options { environment, working_directory, fetching, ..Options::default() }
    }

    /// Runs phases in the machine that is up.
    pub(super) async fn run_phases(
        &mut self,
        phases: Phases<'_>,
        options: Options,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let Phases { stage, components, names, offset } = phases;
        let plan = self.plan.clone();
        let provider = Outside { values: plan.world.values.clone(), catalog: self.catalog.clone() };
        let mut observer = StepObserver::new(&self.events, stage, &steps_folder(&self.folder), offset);
        let mut stops = self.stops_in(stage, &components).into_iter();
        let (mut options, mut state) = (options, None);
        let report = loop {
            options.pause_before = stops.next();
            let components_here = &plan.components[components.clone()];
            let job = Job {
                components: components_here,
                phases: Some(names),
                options: &options,
                provider: &provider,
            };
            let report = run(job, state.take(), self.guest()?, &mut observer, patience).await;
            if report.ending != Ending::Paused {
                break report;
            }
            self.stop_at(components.start, options.pause_before, patience).await?;
            state = Some(report.state);
        };
        let guest = self.guest()?;
        let Some(mut failure) = report.failure else { return Ok(()) };
        failure.files.extend(observer.last_log().map(|p| p.to_owned()));
        if matches!(failure.kind, FailureKind::Build | FailureKind::Test) {
            look_for_room(guest, &mut failure, patience).await;
        }
        Err(self.with_console(failure))
    }
}

/// Programs that meet a full disk say many things; whose disk it is, hardly one.
async fn look_for_room(guest: &dyn Guest, failure: &mut Failure, patience: &Patience) {
    let patience = Patience::new(ROOM_LIMIT, &patience.cancel);
    let space = guest.space("/", &patience).await;
    let cause = match space {
        Ok((total, free)) if free < NO_ROOM => {
            format!(
                "the guest's disk is full: {} of the {} MiB of its root are free",
                free >> 20,
                total >> 20
            )
        }
        _ if failure.last_lines.iter().any(|line| line.contains("No space left on device")) => {
            "a file system of the guest was full (not this host's disk)".into()
        }
        _ => return,
    };
    failure.causes.push(cause);
    failure.hints.push(
        "Give the image a larger disk: `blockDeviceMappings` in the recipe, `ebs: {volumeSize: GiB}`.".into(),
    );
}
