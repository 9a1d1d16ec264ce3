//! What is reused after which edit.

use super::*;
use crate::build::plan::Plan;
use crate::build::plan::tests::Bench;
use crate::catalog::CatalogError;
use crate::catalog::artifact::{Artifact, digest_bytes};
use crate::catalog::layer::Layer;
use crate::component::Values;
use crate::support::source::Source;
use std::path::Path;

const RECIPE: &str = "name: layers
version: 1.0.0
parentImage: debian-12
components:
  - {component: ./first.yml, files: [{source: ./site, destination: /srv/site}]}
  - {component: ./second.yml, parameters: {Version: 1.4}}
  - ./third.yml
kiln: {cpu: max, network: none}
";
const FIRST: &str = "name: first
schemaVersion: 1.0
constants:
  - Unused: {type: string, value: a}
  - Used: {type: string, value: b}
phases:
  - name: build
    steps:
      - {name: Copy, action: ExecuteBash, inputs: {commands: ['cp /srv/site/x /etc/{{ Used }}']}}
  - name: test
    steps:
      - {name: Look, action: ExecuteBash, inputs: {commands: ['test -f /etc/b']}}
";
const SECOND: &str = "name: second
schemaVersion: 1.0
parameters:
  - Version: {type: string}
phases:
  - name: build
    steps:
      - name: Install
        action: ExecuteBash
        inputs:
          commands: ['install {{ Version }}']
  - name: validate
    steps:
      - {name: Check, action: ExecuteBash, inputs: {commands: ['check']}}
";
const THIRD: &str = "name: third
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Write, action: CreateFile, inputs: [{path: /etc/third, content: x}]}
";

struct Rig {
    bench: Bench,
    recipe: String,
    reuse: Reuse,
}

impl Rig {
    fn new() -> Rig {
        let bench = Bench::new();
        let rig = Rig { bench, recipe: RECIPE.into(), reuse: Reuse::default() };
        rig.lay_out(rig.bench.root());
        rig
    }

    fn lay_out(&self, folder: &Path) {
        std::fs::create_dir_all(folder.join("site")).unwrap();
        for (name, text) in
            [("first.yml", FIRST), ("second.yml", SECOND), ("third.yml", THIRD), ("site/x", "content")]
        {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.bench.root().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    async fn plan_in(&self, folder: &Path) -> Plan {
        match self.bench.plan_in(folder, &self.recipe, &[], &self.reuse).await {
            Ok(plan) => plan,
            Err(e) => panic!("{e:?}"),
        }
    }

    async fn plan(&self) -> Plan {
        self.plan_in(self.bench.root()).await
    }

    /// As if a build of this plan had run through, so many ms ago.
    fn built(&self, plan: &Plan, ago: i64) {
        let (catalog, layers) = (self.bench.catalog(), &plan.layers);
        let then = crate::support::clock::now_ms() - ago;
        let mut below: Option<String> = None;
        for index in (0..layers.entries.len()).filter(|i| layers.keeps(*i)) {
            let content = format!("disk {}", layers.keys[index + 1]);
            let name = format!("layer-{}.qcow2", &layers.keys[index + 1][..32]);
            let file = catalog.home().tmp().join("new");
            std::fs::write(&file, &content).unwrap();
            catalog.store_file_as(&file, &name).unwrap();
            let digest = digest_bytes(content.as_bytes());
            let artifact = Artifact {
                digest: digest.clone(),
                format: "qcow2".into(),
                bytes: content.len() as u64,
                virtual_size: 1,
                backing: below.clone(),
                file: Some(name.clone()),
            };
            let modified = catalog.modified(&artifact).unwrap();
            catalog
                .write::<_, CatalogError>(|t| {
                    t.add_artifact(&artifact)?;
                    t.put_layer(&Layer {
                        key: layers.keys[index + 1].clone(),
                        disk: digest.clone(),
                        modified,
                        recipe: "layers".into(),
                        component: layers.entries[index].label.clone(),
                        position: index as u32,
                        parts: layers.record(index + 1, &vec![then; index + 1]),
                        build: "layers-1.0.0-1".into(),
                        created: 0,
                        used: 0,
                    })
                })
                .unwrap();
            below = Some(digest);
        }
    }

    /// Components that come from a layer, and why the next one does not.
    async fn reused(&self) -> (usize, String) {
        told(&self.plan().await)
    }
}

fn told(plan: &Plan) -> (usize, String) {
    let done = plan.layers.done();
    let why = match plan.layers.why.get(done) {
        Some(Some(Why::Reason(reason))) => reason.clone(),
        other => format!("{other:?}"),
    };
    (done, why)
}

/// One that was built, and what to do to it.
async fn after(edit: impl FnOnce(&mut Rig)) -> (usize, String, bool) {
    let mut rig = Rig::new();
    let before = rig.plan().await;
    rig.built(&before, 0);
    edit(&mut rig);
    let plan = rig.plan().await;
    let (done, why) = told(&plan);
    (done, why, plan.inputs == before.inputs)
}

#[tokio::test]
async fn edits_and_what_is_reused_after_them() {
    let nothing = after(|_| ()).await;
    assert_eq!((nothing.0, nothing.2), (3, true));

    let (done, why, same) = after(|r| r.recipe = r.recipe.replace("Version: 1.4", "Version: 1.5")).await;
    assert_eq!((done, why.as_str(), same), (1, "second.yml:4 parameter Version 1.4 -> 1.5", false));

    for (file, from, to) in [
        // A comment in a document, its description, its layout.
        ("second.yml", "phases:", "# a comment\nphases:"),
        ("first.yml", "name: first", "name: first\ndescription: other"),
        ("third.yml", "{name: Write, action: CreateFile, ", "{action: CreateFile,   name: Write, "),
        // A constant that nothing uses.
        ("first.yml", "value: a", "value: c"),
    ] {
        let (done, why, same) = after(|r| r.edit(file, from, to)).await;
        let order = file == "third.yml";
        assert_eq!((done == 3, same), (!order, !order), "{file} {to}: {why}");
    }

    // A test phase is no layer's business, and still another image.
    let (done, _, same) = after(|r| r.edit("first.yml", "test -f /etc/b", "test -s /etc/b")).await;
    assert_eq!((done, same), (3, false));
    let (done, why, _) = after(|r| r.edit("first.yml", "value: b", "value: d")).await;
    assert_eq!((done, why.as_str()), (0, "first.yml:5 constant Used b -> d"));
    let (done, why, _) = after(|r| r.edit("second.yml", "['check']", "['check more']")).await;
    assert_eq!((done, why.as_str()), (1, "second.yml:14 step validate/Check has changed"));

    // One byte of a file that is brought along, and its time stamp alone.
    let (done, why, _) = after(|r| r.edit("site/x", "content", "Content")).await;
    assert_eq!((done, why.as_str()), (0, "file /srv/site has changed"));
    let (done, _, same) = after(|r| {
        let file = std::fs::File::options().write(true).open(r.bench.root().join("site/x")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    })
    .await;
    assert_eq!((done, same), (3, true));

    // The order of components, one in front, one at the end.
    let (done, why, _) = after(|r| {
        let second = "  - {component: ./second.yml, parameters: {Version: 1.4}}\n";
        r.recipe =
            r.recipe.replace(second, "").replace("  - ./third.yml\n", &format!("  - ./third.yml\n{second}"));
    })
    .await;
    assert_eq!((done, why.as_str()), (1, "it was component 3 and is 2 now"));
    let (done, _, _) = after(|r| {
        std::fs::write(r.bench.root().join("fourth.yml"), THIRD.replace("third", "fourth")).unwrap();
        r.recipe = r.recipe.replace("  - ./third.yml\n", "  - ./third.yml\n  - ./fourth.yml\n");
    })
    .await;
    assert_eq!(done, 3);

    // What is no input: memory, vCPUs, time-outs, exports, the recipe's description.
    let (done, _, same) = after(|r| {
        r.recipe =
            r.recipe.replace("network: none", "network: none, memory: 2048, vcpus: 4, timeouts: {boot: 9}")
                + "description: other\n";
    })
    .await;
    assert_eq!((done, same), (3, true));
    // What is: the CPU model, the network, the disk's size, where a component runs.
    for (from, to, what) in [
        ("cpu: max", "cpu: qemu64", "cpu max -> qemu64"),
        ("network: none", "network: user", "network none -> user"),
        (
            "kiln:",
            "blockDeviceMappings: [{ebs: {volumeSize: 4}}]\nkiln:",
            "disk size 2147483648 -> 4294967296",
        ),
        ("kiln: {", "workingDirectory: /opt\nkiln: {", "working directory /tmp -> /opt"),
    ] {
        let (done, why, same) = after(|r| r.recipe = r.recipe.replace(from, to)).await;
        assert_eq!((done, why.as_str(), same), (0, what, false));
    }
    let (done, why, _) = after(|r| {
        r.recipe = r.recipe.replace("  - ./third.yml", "  - {component: ./third.yml, run: appliance}");
    })
    .await;
    assert_eq!((done, why.as_str()), (2, "run booted -> appliance"));
}

#[tokio::test]
async fn another_base_is_another_start() {
    let (done, why, _) = after(|r| {
        let record = r.bench.root().join("bases/debian-12-111111111111/base.json");
        let text = std::fs::read_to_string(&record).unwrap();
        std::fs::write(record, text.replace(&"1".repeat(64), &"2".repeat(64))).unwrap();
    })
    .await;
    assert_eq!((done, why.as_str()), (0, "base image has changed"));
}

#[tokio::test]
async fn another_checkout_is_the_same() {
    let rig = Rig::new();
    rig.built(&rig.plan().await, 0);
    let other = rig.bench.root().join("other/checkout");
    rig.lay_out(&other);
    assert_eq!(rig.plan_in(&other).await.layers.done(), 3);
}

#[tokio::test]
async fn what_fetches_holds_for_a_day() {
    const UPDATE: &str = "name: update
schemaVersion: 1.0
phases: [{name: build, steps: [{name: Update, action: UpdateOS}]}]
";
    const HOUR: i64 = 3_600_000;
    let mut rig = Rig::new();
    std::fs::write(rig.bench.root().join("second.yml"), UPDATE).unwrap();
    rig.recipe = rig.recipe.replace("{component: ./second.yml, parameters: {Version: 1.4}}", "./second.yml");
    let plan = rig.plan().await;
    rig.built(&plan, 23 * HOUR);
    assert_eq!(rig.plan().await.layers.done(), 3);
    assert_eq!(plan.layers.is_over_since(&[crate::support::clock::now_ms() - 23 * HOUR; 3], false), None);
    rig.reuse.refresh = true;
    assert_eq!(
        rig.reused().await,
        (1, "step Update updates packages: it ran 23 h ago, and is to be refreshed".into())
    );
    rig.reuse.refresh = false;
    rig.built(&plan, 25 * HOUR);
    assert_eq!(
        rig.reused().await,
        (1, "step Update updates packages: it ran 25 h ago, and holds 24 h".into())
    );
    assert!(plan.layers.is_over_since(&[crate::support::clock::now_ms() - 25 * HOUR; 3], false).is_some());
    // The recipe's word counts more, either way.
    for (ttl, done) in [("7d", 3), ("never", 3), ("1h", 1)] {
        let said = format!("{{component: ./second.yml, ttl: {ttl}}}");
        let mut other = Rig::new();
        std::fs::write(other.bench.root().join("second.yml"), UPDATE).unwrap();
        other.recipe = RECIPE.replace("{component: ./second.yml, parameters: {Version: 1.4}}", &said);
        other.built(&other.plan().await, 25 * HOUR);
        assert_eq!(other.reused().await.0, done, "{ttl}");
    }
}

#[tokio::test]
async fn what_the_recipe_says_of_layers() {
    let mut rig = Rig::new();
    rig.recipe = RECIPE.replace("  - ./third.yml", "  - {component: ./third.yml, needs: live}");
    let plan = rig.plan().await;
    rig.built(&plan, 0);
    // After the third all is there; between the second and the third nothing resumes.
    assert_eq!(rig.reused().await.0, 3);
    rig.edit("third.yml", "content: x", "content: y");
    let (done, why) = rig.reused().await;
    assert_eq!((done, why.as_str()), (1, "third needs what is in memory after it (needs: live)"));

    let mut rig = Rig::new();
    rig.recipe = RECIPE.replace("{component: ./second.yml,", "{component: ./second.yml, freeze: false,");
    rig.built(&rig.plan().await, 0);
    rig.edit("third.yml", "content: x", "content: y");
    assert_eq!(rig.reused().await, (1, "no layer is kept after it (freeze: false)".into()));

    for (bad, code) in [("needs: dead", "bad-value"), ("ttl: soon", "bad-value"), ("freeze: 1", "wrong-type")]
    {
        let text = RECIPE.replace("{component: ./second.yml,", &format!("{{component: ./second.yml, {bad},"));
        let found = rig.bench.plan(&text, &[]).await;
        let Err(crate::build::plan::NoPlan::Input(list)) = found else { panic!("{bad}") };
        assert_eq!(list[0].code, code, "{bad}: {}", list[0].render());
    }
}

#[tokio::test]
async fn what_names_its_build_is_never_reused() {
    for text in ["echo $IMAGE_BUILD_VERSION", "echo {{ context:uuid }}", "echo {{ context:dateTime }}"] {
        let rig = Rig::new();
        rig.edit("second.yml", "'check'", &format!("'{text}'"));
        let plan = rig.plan().await;
        rig.built(&plan, 0);
        let (done, why) = rig.reused().await;
        assert_eq!(done, 1, "{text}");
        assert!(why.ends_with("is another one in every build"), "{why}");
    }
    // The recipe's version is the same in all builds of the version.
    let mut rig = Rig::new();
    rig.edit("second.yml", "'check'", "'echo $IMAGE_VERSION'");
    rig.built(&rig.plan().await, 0);
    assert_eq!(rig.reused().await.0, 3);
    rig.recipe = rig.recipe.replace("version: 1.0.0", "version: 1.0.1");
    assert_eq!(rig.reused().await, (1, "IMAGE_VERSION 1.0.0 -> 1.0.1".into()));
    // One that counts up is another one in every build.
    rig.recipe = rig.recipe.replace("version: 1.0.1", "version: 1.0.x");
    rig.built(&rig.plan().await, 0);
    assert_eq!(rig.reused().await, (1, "IMAGE_VERSION is another one in every build".into()));
}

/// A registered component that a step runs counts with all that is in it.
#[tokio::test]
async fn documents_inside_count_like_those_outside() {
    const ARN: &str = "arn:aws:imagebuilder:eu-west-1:aws:component/inner/x.x.x";
    let inner = |step: &str| {
        format!(
            "name: inner\nschemaVersion: 1.0\nparameters:\n  - Where: {{type: string, default: /app/dev}}\nphases:\n  - name: build\n    steps:\n      - {{name: Inside, {step}}}\n"
        )
    };
    let register = |rig: &Rig, version: &str, step: &str| {
        let text = inner(step);
        let digest = digest_bytes(text.as_bytes());
        let version = version.parse().unwrap();
        let name = "inner".parse().unwrap();
        rig.bench.catalog().write(|t| t.register_component(&name, version, &digest, &text)).unwrap();
    };
    let values = |value: &str| {
        let text = format!("parameters: {{/app/version: {value}}}\n");
        Values::parse(&Source::new("values.yaml", text)).unwrap()
    };
    let shell = |command: &str| format!("action: ExecuteBash, inputs: {{commands: ['{command}']}}");
    let rig = || {
        let rig = Rig::new();
        let run = format!("{{name: Run, action: ExecuteDocument, inputs: {{document: '{ARN}'}}}}");
        rig.edit(
            "third.yml",
            "{name: Write, action: CreateFile, inputs: [{path: /etc/third, content: x}]}",
            &run,
        );
        rig
    };

    let mut one = rig();
    register(&one, "1.0.0", &shell("install {{ aws:ssm:/app/version }}"));
    one.bench.set_values(values("'1.4'"));
    one.built(&one.plan().await, 0);
    assert_eq!(one.reused().await.0, 3);
    one.bench.set_values(values("'1.5'"));
    assert_eq!(one.reused().await, (2, "value {{ aws:ssm:/app/version }} has changed".into()));
    register(&one, "1.0.1", &shell("install"));
    assert_eq!(one.reused().await.0, 2, "a newer version of it");

    let old = rig();
    register(&old, "1.0.0", "action: UpdateOS");
    old.built(&old.plan().await, 25 * 3_600_000);
    let (done, why) = old.reused().await;
    assert!(done == 2 && why.contains("step Inside updates packages"), "{done} {why}");

    let resolved = "echo {{ aws:ssm:resolve(Where) }}";
    for command in ["echo {{ context:uuid }}", "echo $IMAGE_BUILD_VERSION", resolved] {
        let each = rig();
        register(&each, "1.0.0", &shell(command));
        each.built(&each.plan().await, 0);
        let (done, why) = each.reused().await;
        assert!(done == 2 && why.ends_with("is another one in every build"), "{command}: {done} {why}");
    }
}

/// What lives in memory only does not come over a component that has nothing to do.
#[tokio::test]
async fn what_needs_the_guest_alive_sees_past_idle_components() {
    let mut rig = Rig::new();
    rig.edit("second.yml", "name: build", "name: test");
    let text = std::fs::read_to_string(rig.bench.root().join("second.yml")).unwrap();
    let cut = text.split("  - name: validate").next().unwrap().to_owned();
    std::fs::write(rig.bench.root().join("second.yml"), cut).unwrap();
    rig.built(&rig.plan().await, 0);
    assert_eq!(rig.reused().await.0, 3);
    rig.recipe = RECIPE.replace("  - ./third.yml", "  - {component: ./third.yml, needs: live}");
    rig.built(&rig.plan().await, 0);
    rig.edit("third.yml", "content: x", "content: y");
    assert_eq!(rig.reused().await.0, 0);
}

#[tokio::test]
async fn secrets_count_and_are_not_kept() {
    let values = |secret: &str| {
        let text = format!("parameters: {{/app/key: {{value: {secret}, secret: true}}}}\n");
        Values::parse(&Source::new("values.yaml", text)).unwrap()
    };
    let mut rig = Rig::new();
    rig.edit("second.yml", "'check'", "'echo {{ aws:ssm:/app/key }}'");
    rig.bench.set_values(values("hunter2"));
    rig.built(&rig.plan().await, 0);
    assert_eq!(rig.reused().await.0, 3);
    let kept = rig.bench.catalog().read(|t| t.list_layers()).unwrap();
    assert!(kept.iter().all(|layer| !layer.parts.contains("hunter2")));
    rig.bench.set_values(values("hunter3"));
    assert_eq!(rig.reused().await, (1, "value {{ aws:ssm:/app/key }} has changed".into()));
}

#[tokio::test]
async fn options_and_damage() {
    let mut rig = Rig::new();
    let plan = rig.plan().await;
    rig.built(&plan, 0);
    rig.reuse = Reuse { none: true, ..Reuse::default() };
    assert_eq!(rig.reused().await, (0, "layers are not to be used (--no-cache)".into()));
    for (name, done) in [("third", 2), ("second.yml", 1), ("first", 0)] {
        rig.reuse = Reuse { none_from: Some(name.into()), ..Reuse::default() };
        assert_eq!(
            rig.reused().await,
            (done, "its layer is not to be used (--no-cache-from)".into()),
            "{name}"
        );
    }
    rig.reuse.none_from = Some("fourth".into());
    let Err(e) = rig.bench.plan_in(rig.bench.root(), &rig.recipe, &[], &rig.reuse).await else { panic!() };
    assert!(format!("{e:?}").contains("the recipe has no component fourth"), "{e:?}");

    // A file that somebody wrote to, and one that is gone: the layer before them serves.
    rig.reuse = Reuse::default();
    let path = |index: usize| {
        let layer =
            rig.bench.catalog().read(|t| t.find_layer(&plan.layers.keys[index + 1])).unwrap().unwrap();
        let artifact = rig.bench.catalog().read(|t| t.artifact(&layer.disk)).unwrap();
        rig.bench.catalog().artifact_path(&artifact)
    };
    let file = std::fs::File::open(path(2)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let (done, why) = rig.reused().await;
    assert!(done == 2 && why.ends_with("of its layer was written to by somebody"), "{done} {why}");
    std::fs::remove_file(path(1)).unwrap();
    let (done, why) = rig.reused().await;
    assert!(done == 1 && why.ends_with("of its layer is gone"), "{done} {why}");

    let rig = Rig::new();
    let plan = rig.plan().await;
    rig.built(&plan, 0);
    rig.bench.catalog().write(|t| t.drop_layer(&plan.layers.keys[3])).unwrap();
    assert_eq!(rig.reused().await, (2, "there is no layer of it yet".into()));
}

#[test]
fn an_actions_semantics_are_part_of_the_key() {
    let parts = |version: &str| {
        vec![vec![Part::digest("step build/A", b"x"), Part::new("action CreateFile", version)]]
    };
    assert_ne!(keys(&[], &parts("1"))[1], keys(&[], &parts("2"))[1]);
}
