use super::artifact::{Artifact, digest_bytes};
use super::image::NewImage;
use super::lineage::UsedComponent;
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
        components: Vec::new(),
        tags: Vec::new(),
        parent_image: None,
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
fn a_misspelled_name_is_free_again_once_nothing_has_it() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let wrong = add(&catalog, "My_Appp", &base);
    let fail = |image: &image::Image| {
        catalog.write(|t| {
            t.set_status(image.id, ImageStatus::Failed, Some("why"))?;
            t.delete_image(image.id)
        })
    };
    fail(&wrong).unwrap();
    let other = add(&catalog, "my appp", &base);
    assert_eq!((other.name.as_str(), other.version.build), ("my appp", 2), "its number stays used");
    let taken = catalog.write(|t| t.add_image(&new_image("My_Appp", &base, t)?)).unwrap_err();
    let hints = Failure::from(taken).hints;
    assert!(hints[0].contains("`my appp`") && hints[0].contains("kiln image list"), "{hints:?}");

    let register = |name: &str| {
        let (name, version) = (name.parse().unwrap(), "1.0.0".parse().unwrap());
        catalog.write(|t| t.register_component(&name, version, "d", "data"))
    };
    let wrong = register("Tool_s").unwrap();
    let hints = Failure::from(register("tool s").unwrap_err()).hints;
    assert!(hints[0].contains("`Tool_s`") && hints[0].contains("kiln component list"), "{hints:?}");
    catalog.write(|t| t.remove_component(&wrong)).unwrap();
    assert_eq!(register("tool s").unwrap().version.build, 2);
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
    let inventory = |text: &str| {
        std::fs::write(catalog.inventory_path(&disk), format!("kiln-packages {text}\n")).unwrap();
        catalog.inventory(&disk)
    };
    // What an older kiln did not find is looked for anew, and what once could not be read.
    for anew in ["1\nabsent", "1\nunread\trpm\t/x", "2\nunread\trpm\t/x\tthe disk was full"] {
        assert_eq!(inventory(anew).unwrap(), None, "{anew:?}");
    }
    for known in ["1\nread\na\tall\t1", "2\nread\trpm\na\tall\t1"] {
        assert_eq!(inventory(known).unwrap().unwrap().packages().unwrap().len(), 1, "{known:?}");
    }
    assert!(inventory("2\nunread\trpm\t/x\t").unwrap().is_some(), "a kind that kiln does not read");
    assert!(matches!(inventory("2\nnoise"), Err(CatalogError::Corrupt(_))));
    assert_eq!(inventory("2\nabsent").unwrap(), Some(crate::model::Inventory::Absent));
    assert_eq!(catalog.inventory(&base).unwrap(), None);
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
fn pins_last_as_long_as_their_holder() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let disk = store(&catalog, "layer", Some(&base));
    let image = add(&catalog, "nginx", &base);
    let home = catalog.home().clone();
    let (run, kept) = (home.runs().join("nginx-1.0.0-1-1"), home.build_disk("b"));
    std::fs::create_dir_all(&run).unwrap();
    std::fs::create_dir_all(home.build("b")).unwrap();
    std::fs::write(&kept, "").unwrap();
    catalog
        .write(|t| {
            t.add_build("b", image.id, "{}")?;
            t.pin("b", &disk)?;
            t.pin_for_run("nginx-1.0.0-1-1", &disk)?;
            t.set_status(image.id, ImageStatus::Failed, None)
        })
        .unwrap();
    let dropped = || catalog.collect().unwrap();
    let holders = || {
        let artifact = catalog.read(|t| t.artifact(&disk)).unwrap();
        catalog.read(|t| t.pins_on(&artifact)).unwrap()
    };
    assert_eq!(dropped(), [""; 0]);
    std::fs::remove_file(&kept).unwrap();
    assert_eq!((dropped().len(), holders().len()), (0, 2), "the build runs");
    std::fs::write(&kept, "").unwrap();
    catalog.write(|t| t.end_build("b", "{}")).unwrap();
    assert_eq!((dropped().len(), holders().len()), (0, 2), "its disk is kept");
    std::fs::remove_file(&kept).unwrap();
    assert_eq!((dropped().len(), holders()), (0, vec!["runs/nginx-1.0.0-1-1".to_owned()]));
    std::fs::remove_dir(&run).unwrap();
    assert_eq!(dropped(), [disk]);
}

#[test]
fn what_is_taken_in_is_there_once_and_no_file_is_replaced_by_another() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let take = |content: &str, name: &str| {
        let file = catalog.home().tmp().join("new");
        std::fs::write(&file, content).unwrap();
        let artifact = Artifact {
            digest: digest_bytes(content.as_bytes()),
            format: "qcow2".into(),
            bytes: content.len() as u64,
            virtual_size: 1,
            backing: Some(base.clone()),
            file: Some(name.into()),
        };
        catalog.take_in(&file, &artifact, |_| Ok(()))
    };
    let first = take("one", "layer-1.qcow2").unwrap();
    assert_eq!(take("one", "layer-2.qcow2").unwrap(), first, "the same content keeps its name");
    assert!(matches!(take("two", "layer-1.qcow2"), Err(CatalogError::InUse { .. })));
    assert_eq!(std::fs::read_to_string(catalog.artifact_path(&first)).unwrap(), "one");
    assert!(!catalog.home().artifacts().join("layer-2.qcow2").exists());
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
    let newest = catalog.read(|t| t.find_component(&"install".parse().unwrap())).unwrap();
    assert_eq!(newest.version.to_string(), "1.0.0/2");
    let missing = catalog.read(|t| t.find_component(&"nstall".parse().unwrap())).unwrap_err();
    let failure = Failure::from(missing);
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.hints[0].contains("install"));
}

fn named(name: &str) -> crate::model::VersionedName {
    name.parse().unwrap()
}

#[test]
fn a_removed_component_is_gone_and_its_number_stays_used() {
    let (_folder, catalog) = catalog();
    let name = "install".parse().unwrap();
    let put = |digest: &str| {
        catalog.write(|t| t.register_component(&name, "1.0.0".parse().unwrap(), digest, "x")).unwrap()
    };
    let (first, second) = (put("a"), put("b"));
    let base = store(&catalog, "base", None);
    let image = catalog
        .write(|t| {
            let (title, digest) = ("install/1.0.0/1".to_owned(), "a".to_owned());
            let components = vec![UsedComponent { title, digest, component: Some(first.id) }];
            t.add_image(&NewImage { components, ..new_image("nginx", &base, t)? })
        })
        .unwrap();
    assert_eq!(catalog.read(|t| t.users_of(first.id)).unwrap()[0].id, image.id);
    let refused = catalog.write(|t| t.remove_component(&first)).unwrap_err();
    assert!(refused.to_string().ends_with("in the recipes of nginx/1.0.0/1 (PENDING)"), "{refused}");
    catalog.write(|t| t.remove_component(&second)).unwrap();
    assert!(catalog.read(|t| t.find_component(&named("install/1.0.0/2"))).is_err());
    assert_eq!(catalog.read(|t| t.find_component(&named("install"))).unwrap().version.build, 1);
    assert_eq!(put("b").version.build, 3);
    catalog
        .write(|t| {
            t.set_status(image.id, ImageStatus::Failed, None)?;
            t.delete_image(image.id)?;
            t.remove_component(&first)
        })
        .unwrap();
}

#[test]
fn an_image_stays_while_another_one_came_from_it() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let parent = add(&catalog, "gold", &base);
    let child = catalog
        .write(|t| {
            t.set_status(parent.id, ImageStatus::Failed, None)?;
            let new = new_image("nginx", &base, t)?;
            t.add_image(&NewImage { parent_image: Some(parent.id), parent_name: parent.to_string(), ..new })
        })
        .unwrap();
    assert_eq!(
        catalog.read(|t| t.images_on_base(&base)).unwrap(),
        [parent.clone()].map(|mut p| {
            p.status = ImageStatus::Failed;
            p.changed = catalog.read(|t| t.image(p.id)).unwrap().changed;
            p
        })
    );
    let refused = Failure::from(catalog.write(|t| t.delete_image(parent.id)).unwrap_err());
    assert_eq!(refused.kind, FailureKind::Conflict);
    assert!(refused.message.contains("it is the parent of nginx/1.0.0/1 (PENDING)"), "{refused}");
    assert!(refused.hints[0].contains("kiln image remove nginx/1.0.0/1"), "{refused:?}");
    catalog
        .write(|t| {
            t.set_status(child.id, ImageStatus::Failed, None)?;
            t.delete_image(child.id)?;
            t.delete_image(parent.id)
        })
        .unwrap();
}

#[test]
fn tags_are_set_replaced_removed_and_counted() {
    let (folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let id = add(&catalog, "gold", &base).id;
    let tags = |all: &[&str]| all.iter().map(|t| t.parse().unwrap()).collect::<Vec<crate::model::Tag>>();
    catalog.write(|t| t.set_tags(id, &tags(&["b=1", "a=2"]))).unwrap();
    catalog.write(|t| t.set_tags(id, &tags(&["a=3"]))).unwrap();
    assert!(catalog.write(|t| t.remove_tag(id, "b")).unwrap());
    assert!(!catalog.write(|t| t.remove_tag(id, "b")).unwrap());
    let many: Vec<String> = (0..50).map(|n| format!("k{n}=v")).collect();
    let many = tags(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = catalog.write(|t| t.set_tags(id, &many)).unwrap_err();
    assert!(matches!(refused, CatalogError::TooManyTags { there: 51 }), "{refused}");
    drop(catalog);
    let again = Catalog::open(Home::new(folder.path())).unwrap();
    assert_eq!(again.read(|t| t.tags_of(id)).unwrap(), tags(&["a=3"]));
}

#[test]
fn an_open_version_counts_up_for_new_content_only() {
    let (_folder, catalog) = catalog();
    let base = store(&catalog, "base", None);
    let name: crate::model::ResourceName = "gold".parse().unwrap();
    let version_for = |said: &str, inputs: &str| {
        catalog.read(|t| t.version_for(&name, said.parse().unwrap(), inputs)).map(|v| v.to_string())
    };
    let build = |said: &str, inputs: &str| {
        catalog
            .write(|t| {
                let version = t.version_for(&name, said.parse().unwrap(), inputs)?;
                let new = new_image("gold", &base, t)?;
                let image = t.add_image(&NewImage { version, inputs: inputs.into(), ..new })?;
                t.set_status(image.id, ImageStatus::Failed, None)?;
                Ok::<_, CatalogError>(image)
            })
            .unwrap()
    };
    assert_eq!(version_for("3.2.1", "a").unwrap(), "3.2.1");
    assert_eq!(build("1.0.x", "a").to_string(), "gold/1.0.0/1");
    assert_eq!(build("1.0.x", "a").to_string(), "gold/1.0.0/2");
    let second = build("1.0.x", "b");
    assert_eq!(second.to_string(), "gold/1.0.1/1");
    assert_eq!(version_for("1.0.x", "a").unwrap(), "1.0.0");
    assert_eq!(version_for("1.1.x", "a").unwrap(), "1.1.0");
    // What is gone keeps its number.
    catalog.write(|t| t.delete_image(second.id)).unwrap();
    assert_eq!(version_for("1.0.x", "b").unwrap(), "1.0.2");
    build("1.0.1073741823", "c");
    let failure =
        Failure::from(catalog.read(|t| t.version_for(&name, "1.0.x".parse().unwrap(), "d")).unwrap_err());
    assert_eq!(failure.kind, FailureKind::Input);
}

#[test]
fn a_catalog_of_the_first_schema_is_brought_up_to_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path());
    home.make_folders().unwrap();
    let old = rusqlite::Connection::open(home.catalog()).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO recipes VALUES (1, 'gold', 'gold', 1, 0, 0, 1, 'd', '{}', 0);
         INSERT INTO images VALUES
             (1, 'gold', 'gold', 1, 0, 0, 3, 'x86_64', 'FAILED', NULL, 'i', 1, 'debian-12', NULL, NULL, '{}', 0, 0),
             (2, 'kid', 'kid', 1, 0, 0, 1, 'x86_64', 'FAILED', NULL, 'i', 1, 'gold/1.0.0/3', NULL, NULL, '{}', 0, 0);
         INSERT INTO components VALUES (1, 'install', 'install', 1, 0, 0, 1, 'd', 'x', 0);",
    )
    .unwrap();
    drop(old);
    let catalog = Catalog::open(home).unwrap();
    let images = catalog.read(|t| t.list_images()).unwrap();
    assert_eq!(images.iter().map(|i| i.parent_image).collect::<Vec<_>>(), [None, Some(1)]);
    assert_eq!(catalog.read(|t| t.find_component(&named("install"))).unwrap().id, 1);
    assert!(catalog.read(|t| t.tags_of(1)).unwrap().is_empty());
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
