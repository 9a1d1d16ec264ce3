use super::artifact::{Artifact, digest_bytes};
use super::image::NewImage;
use super::undo::UndoKind;
use super::*;
use crate::model::{Architecture, ImageStatus};
use std::env;
use std::io::{BufRead, Write};

fn catalog() -> (tempfile::TempDir, Catalog) {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(Home::new(folder.path())).unwrap();
    (folder, catalog)
}

fn store(catalog: &Catalog, content: &str, backing: Option<&str>) -> String {
    let file = catalog.home().tmp().join("new");
    std::fs::write(&file, content).unwrap();
    let digest = digest_bytes(content.as_bytes());
    let path = catalog.store_file(&file, "qcow2", &digest).unwrap();
    assert!(path.metadata().unwrap().permissions().readonly());
    let artifact = Artifact {
        digest: digest.clone(),
        format: "qcow2".into(),
        bytes: content.len() as u64,
        virtual_size: 1 << 30,
        backing: backing.map(str::to_owned),
        file: None,
    };
    catalog.write(|t| t.add_artifact(&artifact)).unwrap();
    digest
}

fn new_image(name: &str, parent: &str, t: &Transaction) -> Result<NewImage> {
    let name: crate::model::ResourceName = name.parse().unwrap();
    let version = "1.0.0".parse().unwrap();
    Ok(NewImage {
        recipe: t.register_recipe(&name, version, "d", "data")?,
        name,
        version,
        architecture: Architecture::X86_64,
        inputs: "k".into(),
        parent_name: "debian-12".into(),
        parent: parent.into(),
        details: "{}".into(),
    })
}

fn add(catalog: &Catalog, name: &str, parent: &str) -> image::Image {
    catalog.write(|t| t.add_image(&new_image(name, parent, t)?)).unwrap()
}

#[test]
fn build_numbers_are_never_used_twice_and_names_collide_by_slug() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    assert_eq!(add(&catalog, "Web App", &base).to_string(), "web-app/1.0.0/1");
    let second = add(&catalog, "Web App", &base);
    assert_eq!(second.version.build, 2);
    catalog
        .write(|t| {
            t.set_status(second.id, ImageStatus::Failed, Some("why"))?;
            t.delete_image(second.id)
        })
        .unwrap();
    assert_eq!(add(&catalog, "Web App", &base).version.build, 3);
    let taken = catalog.write(|t| t.add_image(&new_image("web_app", &base, t)?)).unwrap_err();
    assert!(matches!(&taken, CatalogError::NameTaken { taken, .. } if taken == "Web App"), "{taken}");
}

#[test]
fn two_processes_worth_of_writers_get_different_numbers() {
    let (folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let numbers: Vec<u32> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let own = Catalog::open(Home::new(folder.path())).unwrap();
                    (0..5).map(|_| add(&own, "nginx", &base).version.build).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let distinct: std::collections::BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct, (1..=20).collect());
}

#[test]
fn an_image_is_available_only_with_a_disk_and_by_legal_moves() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let image = add(&catalog, "nginx", &base);
    let to = |status| catalog.write(|t| t.set_status(image.id, status, None));
    to(ImageStatus::Building).unwrap();
    assert!(matches!(to(ImageStatus::Available), Err(CatalogError::Move { .. })));
    assert!(matches!(to(ImageStatus::Creating), Err(CatalogError::Move { .. })));
    let disk = store(&catalog, "overlay", Some(&base));
    catalog.write(|t| t.set_disk(image.id, &disk, "{}")).unwrap();
    to(ImageStatus::Available).unwrap();
    let found = |name: &str| catalog.read(|t| t.find_image(&name.parse().unwrap()));
    assert_eq!(found("NGINX").unwrap().id, image.id);
    assert_eq!(found("nginx/1.0.x").unwrap().id, image.id);
    assert!(found("nginx/1.0.0/2").is_err());
    assert!(found("nginx/2.x.x").is_err());
    let name = "nginx".parse().unwrap();
    let same = catalog.read(|t| t.images_by_inputs(&name, image.version.version, "k")).unwrap();
    assert_eq!(same[0].id, image.id);
}

#[test]
fn artifacts_stay_while_something_stands_on_them() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let image = add(&catalog, "nginx", &base);
    let disk = store(&catalog, "overlay", Some(&base));
    std::fs::write(catalog.block_list_path(&disk), "blocks").unwrap();
    catalog
        .write(|t| {
            t.set_disk(image.id, &disk, "{}")?;
            t.set_status(image.id, ImageStatus::Failed, None)
        })
        .unwrap();
    assert!(catalog.collect().unwrap().is_empty(), "the image pins its disk and its parent");
    catalog.write(|t| t.delete_image(image.id)).unwrap();
    assert_eq!(catalog.collect().unwrap(), [disk, base.clone()]);
    assert_eq!(std::fs::read_dir(catalog.home().artifacts()).unwrap().count(), 0);
    let kept = catalog.home().bases().join("disk.qcow2");
    std::fs::write(&kept, "base").unwrap();
    catalog.adopt_file(&kept, "qcow2", &base).unwrap();
    catalog.adopt_file(&kept, "qcow2", &base).unwrap();
    catalog.remove_unclaimed(&format!("{base}.qcow2")).unwrap();
    assert!(kept.exists());
    let gone = Artifact {
        digest: base,
        format: "qcow2".into(),
        bytes: 0,
        virtual_size: 0,
        backing: None,
        file: None,
    };
    assert!(matches!(catalog.write(|t| t.add_artifact(&gone)), Err(CatalogError::Io { .. })));
}

#[test]
fn sweeping_leaves_what_a_build_is_writing() {
    let (_folder, catalog) = catalog();
    let folder = catalog.home().artifacts();
    let (mine, dead) = ("a".repeat(64), "d".repeat(64));
    catalog.write(|t| t.add_undo("b", UndoKind::Artifact, &format!("{mine}.qcow2"))).unwrap();
    for digest in [&mine, &dead] {
        for name in [format!("{digest}.qcow2"), format!(".{digest}.blocks.12-0.unfinished")] {
            std::fs::write(folder.join(name), "").unwrap();
        }
    }
    catalog.sweep_artifacts().unwrap();
    let left = std::fs::read_dir(&folder).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut left: Vec<String> = left.collect();
    left.sort();
    assert_eq!(left, [format!(".{mine}.blocks.12-0.unfinished"), format!("{mine}.qcow2")]);
}

#[test]
fn components_get_a_new_build_for_new_content_only() {
    let (_folder, catalog) = catalog();
    let name = "install".parse().unwrap();
    let version = "1.0.0".parse().unwrap();
    let put = |digest: &str| catalog.write(|t| t.register_component(&name, version, digest, "x")).unwrap();
    assert_eq!(put("a").version.build, 1);
    assert_eq!(put("a").version.build, 1);
    assert_eq!(put("b").version.build, 2);
    let newest = catalog.read(|t| t.find_component("install", "x.x.x".parse().unwrap())).unwrap();
    assert_eq!(newest.version.to_string(), "1.0.0/2");
    let missing = catalog.read(|t| t.find_component("nstall", "x.x.x".parse().unwrap())).unwrap_err();
    let failure = Failure::from(missing);
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.hints[0].contains("install"));
}

#[test]
fn the_journal_is_append_only_and_undo_rows_come_newest_first() {
    let (_folder, catalog) = catalog();
    catalog
        .write(|t| {
            t.journal("b", "acquiring", "x")?;
            t.add_undo("b", UndoKind::File, "/one")?;
            let two = t.add_undo("b", UndoKind::Artifact, "/two")?;
            t.add_undo("b", UndoKind::Folder, "/three")?;
            t.drop_undo(two)
        })
        .unwrap();
    let whats: Vec<String> = catalog.read(|t| t.undo_of("b")).unwrap().into_iter().map(|u| u.what).collect();
    assert_eq!(whats, ["/three", "/one"]);
    let refused: Result<()> =
        catalog.write(|t| t.sql.execute("DELETE FROM journal", []).or_doing("tamper").map(|_| ()));
    assert!(refused.is_err());
    assert_eq!(catalog.read(|t| t.journal_of("b")).unwrap().len(), 1);
}

#[test]
fn a_catalog_of_a_newer_kiln_is_left_alone() {
    let (folder, catalog) = catalog();
    catalog.connection.lock().unwrap().pragma_update(None, "user_version", 99).unwrap();
    drop(catalog);
    let newer = Catalog::open(Home::new(folder.path())).err().unwrap();
    assert!(matches!(newer, CatalogError::Newer { found: 99, .. }), "{newer}");
}

/// Run as a child by the next test: writes for ever, naming each commit on stdout.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(home) = env::var_os("KILN_TEST_CATALOG_CHILD") else { return };
    let catalog = Catalog::open(Home::new(home)).unwrap();
    let base = store(&catalog, "base", None);
    for n in 0.. {
        let image = catalog
            .write(|t| {
                let image = t.add_image(&new_image("nginx", &base, t)?)?;
                t.journal(&image.path_name(), "moved", "first")?;
                t.add_undo(&image.path_name(), UndoKind::File, "x")?;
                t.journal(&image.path_name(), "moved", "second")?;
                Ok::<_, CatalogError>(image)
            })
            .unwrap();
        store(&catalog, &format!("overlay {n}"), Some(&base));
        // Straight to the descriptor: the test harness captures println.
        writeln!(std::io::stderr(), "committed {}", image.version.build).unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_committed_and_leaves_no_half_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut committed = 0;
    for round in 1..=6 {
        let mut child = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "catalog::tests::child_that_writes_until_it_is_killed", "--nocapture"])
            .env("KILN_TEST_CATALOG_CHILD", folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..round {
            committed = number(&lines.next().unwrap().unwrap()).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        committed = lines.map_while(|l| l.ok()).filter_map(|l| number(&l)).last().unwrap_or(committed);

        let catalog = Catalog::open(Home::new(folder.path())).unwrap();
        let images = catalog.read(|t| t.list_images()).unwrap();
        assert!(images.len() as u32 >= committed, "{} < {committed}", images.len());
        for image in &images {
            let id = image.path_name();
            assert_eq!(catalog.read(|t| t.journal_of(&id)).unwrap().len(), 2, "{id}");
            assert_eq!(catalog.read(|t| t.undo_of(&id)).unwrap().len(), 1, "{id}");
        }
        for artifact in catalog.read(|t| t.list_artifacts()).unwrap() {
            let digest = digest_bytes(&std::fs::read(catalog.artifact_path(&artifact)).unwrap());
            assert_eq!(digest, artifact.digest);
        }
        let check: String = catalog
            .connection
            .lock()
            .unwrap()
            .pragma_query_value(None, "integrity_check", |r| r.get(0))
            .unwrap();
        assert_eq!(check, "ok");
    }
}

fn number(line: &str) -> Option<u32> {
    line.strip_prefix("committed ")?.parse().ok()
}
