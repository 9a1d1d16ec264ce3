//! The driver with works that follow a script: rare paths without a machine.

use super::*;
use crate::build::lock::{Lock, Nursery};
use crate::catalog::home::Home;
use crate::catalog::image::NewImage;
use crate::catalog::undo::UndoKind;
use crate::model::{Architecture, ImageStatus};
use std::path::PathBuf;
use std::sync::Mutex;

/// What a stage does.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Succeed,
    Fail,
    Panic,
    /// Waits to be cancelled, then ends.
    Wait,
    /// Does not listen.
    Hang,
}

struct Script {
    at: Stage,
    act: Act,
    catalog: Arc<Catalog>,
    image: i64,
    build: String,
    file: PathBuf,
    trace: Arc<Mutex<Vec<String>>>,
    reached: CancellationToken,
}

impl Script {
    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.note("dropped".into());
    }
}

#[async_trait]
impl Works for Script {
    async fn run(&mut self, stage: Stage, patience: &Patience) -> Result<(), Failure> {
        self.note(stage.to_string());
        if stage == Stage::Prepare {
            self.catalog.write(|t| t.add_undo(&self.build, UndoKind::File, &self.file.to_string_lossy()))?;
            std::fs::write(&self.file, "overlay").unwrap();
        }
        if stage == self.at {
            self.reached.cancel();
            match self.act {
                Act::Succeed => {}
                Act::Fail => return Err(Failure::new(FailureKind::Build, "scripted")),
                Act::Panic => panic!("scripted"),
                Act::Hang => std::future::pending().await,
                Act::Wait => {
                    let ended = patience.wait("the moon", std::future::pending::<()>()).await;
                    return Err(Failure::from_error(FailureKind::Cancelled, &ended.unwrap_err()));
                }
            }
        }
        if stage == Stage::Capture {
            let digest = crate::catalog::artifact::digest_bytes(b"overlay");
            self.catalog.store_file(&self.file, "qcow2", &digest)?;
            let artifact = crate::catalog::artifact::Artifact {
                digest: digest.clone(),
                format: "qcow2".into(),
                bytes: 7,
                virtual_size: 7,
                backing: None,
                file: None,
            };
            self.catalog.write(|t| {
                t.add_artifact(&artifact)?;
                t.set_disk(self.image, &digest, "{}")
            })?;
        }
        Ok(())
    }

    async fn close(&mut self, _: bool) {
        self.note("closed".into());
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    order: Order,
    file: PathBuf,
    trace: Arc<Mutex<Vec<String>>>,
    reached: CancellationToken,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Arc::new(Catalog::open(Home::new(folder.path())).unwrap());
    let name: crate::model::ResourceName = "nginx".parse().unwrap();
    let version = "1.0.0".parse().unwrap();
    let image = catalog
        .write::<_, CatalogError>(|t| {
            let recipe = t.register_recipe(&name, version, "d", "")?;
            let parent = "0".repeat(64);
            std::fs::write(folder.path().join(format!("artifacts/{parent}.qcow2")), "base").unwrap();
            t.add_artifact(&crate::catalog::artifact::Artifact {
                digest: parent.clone(),
                format: "qcow2".into(),
                bytes: 4,
                virtual_size: 4,
                backing: None,
                file: None,
            })?;
            let image = t.add_image(&NewImage {
                name,
                version,
                architecture: Architecture::X86_64,
                inputs: "k".into(),
                recipe,
                parent_name: "debian-12".into(),
                parent,
                details: "{}".into(),
                components: Vec::new(),
                tags: Vec::new(),
                parent_image: None,
            })?;
            t.add_build("nginx-1.0.0-1", image.id, "{}")?;
            Ok(image)
        })
        .unwrap();
    std::fs::create_dir(catalog.home().build("nginx-1.0.0-1")).unwrap();
    let file = catalog.home().build("nginx-1.0.0-1").join("overlay.qcow2");
    let order = Order {
        catalog,
        build: "nginx-1.0.0-1".into(),
        image: image.id,
        image_name: image.to_string(),
        route: Route::new(true, false),
        limit: Duration::from_secs(3600),
        grace: Duration::from_secs(60),
        keep: false,
        events: Events::new("nginx-1.0.0-1", None),
    };
    Bench { _folder: folder, order, file, trace: Arc::default(), reached: CancellationToken::new() }
}

impl Bench {
    fn script(&self, at: Stage, act: Act) -> Box<Script> {
        Box::new(Script {
            at,
            act,
            catalog: self.order.catalog.clone(),
            image: self.order.image,
            build: self.order.build.clone(),
            file: self.file.clone(),
            trace: self.trace.clone(),
            reached: self.reached.clone(),
        })
    }

    fn status(&self) -> ImageStatus {
        self.order.catalog.read(|t| t.image(self.order.image)).unwrap().status
    }

    fn undo_rows(&self) -> usize {
        self.order.catalog.read(|t| t.undo_of(&self.order.build)).unwrap().len()
    }

    /// Runs the script and cancels once its stage is reached.
    async fn cancelled(&self, at: Stage, act: Act) -> Verdict {
        let cancel = CancellationToken::new();
        let (reached, fire) = (self.reached.clone(), cancel.clone());
        tokio::spawn(async move {
            reached.cancelled().await;
            fire.cancel();
        });
        drive(&self.order, self.script(at, act), &cancel).await.unwrap()
    }
}

#[tokio::test]
async fn a_build_goes_through_its_stages_and_gives_everything_back() {
    let bench = bench();
    let mut events = bench.order.events.subscribe();
    let verdict = drive(&bench.order, bench.script(Stage::Test, Act::Succeed), &CancellationToken::new())
        .await
        .unwrap();
    assert!(matches!(verdict, Verdict::Available));
    assert_eq!(
        *bench.trace.lock().unwrap(),
        ["prepare", "boot", "provision", "seal", "capture", "test", "closed", "dropped"]
    );
    assert_eq!((bench.status(), bench.undo_rows()), (ImageStatus::Available, 0));
    let build = bench.order.catalog.read(|t| t.build(&bench.order.build)).unwrap();
    assert!(build.ended.is_some() && build.state == "ended");
    bench.order.events.close();
    let mut statuses = Vec::new();
    while let Some(event) = events.next().await {
        if let What::Status { status, .. } = event.what {
            statuses.push(status.0.to_string());
        }
    }
    assert_eq!(statuses, ["CREATING", "BUILDING", "TESTING", "AVAILABLE"]);
}

#[tokio::test]
async fn a_failed_stage_ends_the_build_and_its_overlay_goes_unless_kept() {
    for keep in [false, true] {
        let mut bench = bench();
        bench.order.keep = keep;
        let script = bench.script(Stage::Provision, Act::Fail);
        let verdict = drive(&bench.order, script, &CancellationToken::new()).await.unwrap();
        let Verdict::Failed(failure) = verdict else { panic!("{verdict:?}") };
        assert_eq!(failure.stage, Some(Stage::Provision));
        assert_eq!((bench.status(), bench.undo_rows()), (ImageStatus::Failed, 0));
        assert_eq!(bench.file.exists(), keep);
        let image = bench.order.catalog.read(|t| t.image(bench.order.image)).unwrap();
        assert_eq!(image.reason.as_deref(), Some("stage provision: scripted"));
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_that_says_so() {
    let bench = bench();
    let script = bench.script(Stage::Boot, Act::Panic);
    let verdict = drive(&bench.order, script, &CancellationToken::new()).await.unwrap();
    let Verdict::Failed(failure) = verdict else { panic!("{verdict:?}") };
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(!bench.file.exists());
}

#[tokio::test]
async fn a_cancelled_stage_ends_in_its_own_way() {
    let bench = bench();
    assert!(matches!(bench.cancelled(Stage::Seal, Act::Wait).await, Verdict::Cancelled));
    assert_eq!((bench.status(), bench.undo_rows()), (ImageStatus::Cancelled, 0));
    assert_eq!(bench.trace.lock().unwrap().last().unwrap(), "dropped");
    assert!(!bench.file.exists());
}

#[tokio::test]
async fn a_stage_that_does_not_listen_is_dropped_after_the_grace() {
    let mut bench = bench();
    bench.order.grace = Duration::from_millis(50);
    assert!(matches!(bench.cancelled(Stage::Boot, Act::Hang).await, Verdict::Cancelled));
    assert_eq!(*bench.trace.lock().unwrap(), ["prepare", "boot", "dropped"]);
    assert!(!bench.file.exists());
}

#[tokio::test]
async fn a_build_over_its_limit_fails_as_timed_out() {
    let mut bench = bench();
    bench.order.limit = Duration::from_millis(500);
    let script = bench.script(Stage::Test, Act::Wait);
    let verdict = drive(&bench.order, script, &CancellationToken::new()).await.unwrap();
    let Verdict::Failed(failure) = verdict else { panic!("{verdict:?}") };
    assert_eq!((failure.kind, failure.stage), (FailureKind::TimedOut, Some(Stage::Test)));
    let image = bench.order.catalog.read(|t| t.image(bench.order.image)).unwrap();
    assert!(image.disk.is_some(), "what was captured stays with its image");
}

#[tokio::test]
async fn a_build_whose_kiln_died_is_reconciled_once_its_lock_is_free() {
    let bench = bench();
    let Order { catalog, build, .. } = &bench.order;
    let folder = catalog.home().build(build);
    let lock = Lock::try_take(&recover::lock_path(&folder)).unwrap().unwrap();
    let mut script = bench.script(Stage::Test, Act::Succeed);
    script.run(Stage::Prepare, &Patience::unlimited(&CancellationToken::new())).await.unwrap();
    let nursery = Nursery::new(catalog, &CancellationToken::new(), |_| ());
    let stray = catalog.home().artifacts().join(format!("{}.qcow2", "f".repeat(64)));
    std::fs::write(&stray, "link").unwrap();

    assert!(recover::reconcile(catalog, &nursery).unwrap().is_empty(), "its kiln lives");
    assert!(bench.file.exists() && !stray.exists());
    drop(lock);
    // A child that another test has just forked holds the lock, too, until it is another program.
    let mut tries = (0..100).map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        recover::reconcile(catalog, &nursery).unwrap()
    });
    let done = tries.find(|done| !done.is_empty()).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].image.as_str(), done[0].problems.len()), ("nginx/1.0.0/1", 0));
    assert!(!bench.file.exists());
    assert_eq!((bench.status(), bench.undo_rows()), (ImageStatus::Failed, 0));
    assert!(recover::reconcile(catalog, &nursery).unwrap().is_empty());
}
