//! A folder, a guest over the local link, and what a run told.

use async_trait::async_trait;
use kiln::component::run::{Event, Observer, Status};
use kiln::component::{Component, Document, Job, Options, Rules, RunReport, RunState, Strictness, Values};
use kiln::guest::link::local::LocalGuest;
use kiln::guest::{Guest, GuestError, Sink};
use kiln::support::source::Source;
use kiln::support::wait::Patience;
use kiln_protocol::message::{ErrorKind, Exec, Exited, Failed, Operation, Reply};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{RwLock, oneshot};
use tokio_util::sync::CancellationToken;

pub struct Rig {
    pub folder: TempDir,
    pub guest: Restarting,
    pub options: Options,
    pub values: Values,
    pub watch: Watch,
}

/// This machine, whose reboot is a new agent.
pub struct Restarting {
    now: RwLock<Arc<LocalGuest>>,
    pub reboots: AtomicU32,
    /// Of these addresses it says that they are another's.
    pub foreign: Vec<IpAddr>,
}

#[derive(Default)]
pub struct Watch {
    /// What was told, one line each.
    pub told: Vec<String>,
    /// The states kept, as JSON.
    pub kept: Vec<String>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        self.told.push(match event {
            Event::StepStarted { place } => format!("start {}.{}", place.phase, place.step),
            Event::Attempt { place, attempt, of } => format!("attempt {attempt}/{of} {}", place.step),
            Event::Output { line, error, .. } => format!("{} {line}", if *error { "err" } else { "out" }),
            Event::Rebooting { place, again } => format!("rebooting {} again={again}", place.step),
            Event::Rebooted { place } => format!("rebooted {}", place.step),
            Event::StepEnded { place, status, .. } => format!("end {} {}", place.step, status.as_str()),
            Event::StepStopped { place, why } => format!("stop {} {:?}", place.step, why.kind),
        });
    }

    fn checkpoint(&mut self, state: &RunState) -> std::io::Result<()> {
        self.kept.push(serde_json::to_string(state)?);
        Ok(())
    }
}

pub fn patience() -> Patience {
    Patience::new(Duration::from_secs(120), &CancellationToken::new())
}

impl Rig {
    pub async fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let working_directory = folder.path().to_str().unwrap().to_owned();
        let guest = Arc::new(LocalGuest::start(&patience()).await.unwrap());
        Rig {
            guest: Restarting { now: RwLock::new(guest), reboots: AtomicU32::new(0), foreign: Vec::new() },
            options: Options { working_directory, ..Options::default() },
            values: Values::default(),
            watch: Watch::default(),
            folder,
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A document in which `HERE` is the rig's folder.
    pub fn component(&self, text: &str, parameters: &[(&str, &str)]) -> Component {
        let text = text.replace("HERE", self.folder.path().to_str().unwrap());
        let document =
            Document::parse(&Source::new("doc.yml", text), &Rules::default()).unwrap_or_else(|all| {
                panic!("{}", all.iter().map(|d| d.render()).collect::<String>());
            });
        let given: Vec<(String, String)> =
            parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Component::bind("doc", document, &given, Strictness::CommandLine).unwrap()
    }

    pub async fn run(&mut self, text: &str) -> RunReport {
        let component = self.component(text, &[]);
        self.run_all(&[component], None, None).await
    }

    pub async fn run_all(
        &mut self,
        components: &[Component],
        phases: Option<&[&str]>,
        resume: Option<RunState>,
    ) -> RunReport {
        let job = Job { components, phases, options: &self.options, provider: &self.values };
        kiln::component::run(job, resume, &self.guest, &mut self.watch, &patience()).await
    }

    pub fn reboots(&self) -> u32 {
        self.guest.reboots.load(Ordering::SeqCst)
    }
}

/// Steps of one build phase.
pub fn steps(steps: &str) -> String {
    format!("schemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n{}", indent(steps, 6))
}

pub fn indent(text: &str, by: usize) -> String {
    text.lines().map(|l| format!("{}{l}\n", " ".repeat(by))).collect()
}

/// Every step as `name status`.
pub fn statuses(report: &RunReport) -> Vec<String> {
    report.state.steps().map(|s| format!("{} {}", s.name, s.status.as_str())).collect()
}

pub fn output(report: &RunReport, step: &str, name: &str) -> String {
    let step = report.state.steps().find(|s| s.name == step).unwrap_or_else(|| panic!("no step {step}"));
    let all = step.outputs.iter().flatten().filter(|(n, _)| n == name);
    all.map(|(_, o)| o.text.clone()).collect::<Vec<_>>().join("|")
}

pub fn succeeded(report: &RunReport) {
    assert!(report.is_success(), "{:?} {:?}", statuses(report), report.failure);
    assert!(matches!(report.status, Status::Success | Status::SuccessWithIgnoredFailure));
}

pub fn exists(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

#[async_trait]
impl Guest for Restarting {
    async fn exec(
        &self,
        command: Exec,
        sink: &mut dyn Sink,
        patience: &Patience,
    ) -> Result<Exited, GuestError> {
        let guest = self.now.read().await.clone();
        guest.exec(command, sink, patience).await
    }

    async fn call(&self, operation: Operation, patience: &Patience) -> Result<Reply, GuestError> {
        let guest = self.now.read().await.clone();
        guest.call(operation, patience).await
    }

    async fn send(
        &self,
        operation: Operation,
        source: &mut (dyn AsyncRead + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let guest = self.now.read().await.clone();
        guest.send(operation, source, patience).await
    }

    async fn get(
        &self,
        operation: Operation,
        limit: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        patience: &Patience,
    ) -> Result<u64, GuestError> {
        let guest = self.now.read().await.clone();
        guest.get(operation, limit, sink, patience).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        stream: UnixStream,
        begun: oneshot::Sender<()>,
        patience: &Patience,
    ) -> Result<(), GuestError> {
        if self.foreign.contains(&address.ip().to_canonical()) {
            let message = "it is no address of this system".into();
            return Err(GuestError::Refused(Failed { kind: ErrorKind::NotFound, message }));
        }
        let guest = self.now.read().await.clone();
        guest.connect(address, stream, begun, patience).await
    }

    async fn reboot(&self, patience: &Patience) -> Result<(), GuestError> {
        *self.now.write().await = Arc::new(LocalGuest::start(patience).await?);
        self.reboots.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
