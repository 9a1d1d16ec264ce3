use super::*;
use crate::base::Store;
use crate::build::begin::Asked;
use crate::build::lock::Nursery;
use crate::build::recipe;
use crate::catalog::artifact::Artifact;
use crate::catalog::home::Home;
use crate::catalog::image::NewImage;
use crate::catalog::{Catalog, Transaction};
use crate::component::{Values, World};
use crate::model::{ImageStatus, ResourceName, Version};
use crate::support::source::Source;
use crate::support::wait::Patience;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

pub struct Bench {
    folder: tempfile::TempDir,
    catalog: Catalog,
    bases: Store,
    world: World,
}

const DOCUMENT: &str = "name: site
schemaVersion: 1.0
parameters:
  - Title: {type: string, default: Hello}
  - Port: {type: string}
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'echo {{ Title }} {{ Port }}']}}
  - name: validate
    steps:
      - {name: Check, action: ExecuteBash, inputs: {commands: [set -e, 'true']}}
  - name: test
    steps:
      - {name: Fetch, action: ExecuteBash, inputs: {commands: [set -e, 'true']}}
";
pub const RECIPE: &str = "name: web
version: 1.0.0
parentImage: debian-12
components:
  - component: ./site.yml
    parameters: {Port: 80}
blockDeviceMappings: [{ebs: {volumeSize: 4}}]
kiln: {cpu: max, testFirmware: [bios, uefi]}
";

impl Bench {
    fn nursery(&self) -> Nursery {
        Nursery::new(&self.catalog, &CancellationToken::new(), |_| ())
    }

    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(Home::new(folder.path())).unwrap();
        let base = folder.path().join("bases/debian-12-111111111111");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::write(base.join("disk.qcow2"), "disk").unwrap();
        let record = serde_json::json!({
            "schema": 1, "name": "debian-12", "description": "d", "architecture": "x86_64",
            "firmware": ["bios", "uefi"], "digest": format!("sha256:{}", "1".repeat(64)),
            "virtualSize": 2u64 << 30, "created": 1,
            "origin": {"kind": "packages", "suite": "s", "sources": [], "inputs": "i", "packageCount": 1},
        });
        std::fs::write(base.join("base.json"), record.to_string()).unwrap();
        std::fs::write(folder.path().join("site.yml"), DOCUMENT).unwrap();
        let bases = Store::new(folder.path());
        Bench { folder, catalog, bases, world: World::default() }
    }

    pub fn root(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Gives documents other values from outside.
    pub fn set_values(&mut self, values: Values) {
        self.world.values = values;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn plan(&self, text: &str, set: &[&str]) -> Result<Plan, NoPlan> {
        self.plan_in(self.folder.path(), text, set, &Reuse::default()).await
    }

    /// With what the recipe names lying in `folder`.
    pub async fn plan_in(
        &self,
        folder: &Path,
        text: &str,
        set: &[&str],
        reuse: &Reuse,
    ) -> Result<Plan, NoPlan> {
        let source = Source::new("recipe.yaml", text);
        let (recipe, diagnostics) = recipe::parse(&source, folder);
        let Some(recipe) = recipe else { return Err(NoPlan::Input(diagnostics)) };
        let settings: Vec<Setting> = set.iter().map(|s| s.parse().unwrap()).collect();
        let host = Host { choice: Choice::Tcg, only_plan: false, processors: 4 };
        let shelf = Shelf {
            catalog: &self.catalog,
            bases: &self.bases,
            world: &self.world,
            patience: Patience::unlimited(&CancellationToken::new()),
        };
        plan(recipe, diagnostics, &settings, host, reuse, &shelf).await
    }

    pub async fn good(&self, text: &str, set: &[&str]) -> Plan {
        match self.plan(text, set).await {
            Ok(plan) => plan,
            Err(NoPlan::Input(list)) => panic!("{}", list.iter().map(Diagnostic::render).collect::<String>()),
            Err(NoPlan::Failure(failure)) => panic!("{failure}"),
        }
    }

    async fn findings(&self, text: &str, set: &[&str]) -> Vec<String> {
        match self.plan(text, set).await {
            Err(NoPlan::Input(list)) => list
                .iter()
                .map(|d| format!("{}:{}:{} {}", d.file(), d.span.line, d.span.column, d.code))
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_plan_holds_what_will_be_done() {
    let bench = Bench::new();
    let plan = bench.good(RECIPE, &["Title=Hi"]).await;
    let names = |steps: &[PlannedStep]| -> Vec<String> {
        steps.iter().map(|s| format!("{}/{}/{}", s.component_name, s.phase_name, s.step_name)).collect()
    };
    assert_eq!(names(&plan.provision), ["site/build/Write", "site/validate/Check"]);
    assert_eq!(names(&plan.test), ["site/test/Fetch"]);
    assert_eq!(plan.step_count(), 4);
    assert_eq!((plan.disk_size, plan.vcpus, plan.firmware), (4 << 30, 1, None));
    assert_eq!(plan.test_firmware, [Firmware::Bios, Firmware::Uefi]);
    assert_eq!(plan.components[0].value("Title"), Some("Hi"));
    assert_eq!(plan.components[0].value("Port"), Some("80"));
    assert!(plan.warnings.is_empty());
}

/// One run tells of what is wrong in the recipe's own lines and of what they name.
#[tokio::test]
async fn all_that_is_wrong_is_said_at_once() {
    let bench = Bench::new();
    let text = RECIPE
        .replace("parentImage: debian-12", "parentImage: debian-21")
        .replace("name: ", "colour: red\nname: ");
    let found = bench.findings(&text, &[]).await;
    for code in ["unknown-field", "no-parent"] {
        assert!(found.iter().any(|f| f.ends_with(code)), "{code}: {found:?}");
    }
    let text = text.replace("./site.yml", "./none.yml");
    let found = bench.findings(&text, &[]).await;
    for code in ["unknown-field", "no-parent", "no-document"] {
        assert!(found.iter().any(|f| f.ends_with(code)), "{code}: {found:?}");
    }
}

#[tokio::test]
async fn values_from_outside_are_looked_up_before_anything_runs() {
    let mut bench = Bench::new();
    let refs = "echo {{ aws:ssm:/a }} {{ aws:ssm:resolve(Title) }} {{ context:region }} {{ aws:imds:x/y }}";
    let document = DOCUMENT.replace("echo {{ Title }} {{ Port }}", refs);
    std::fs::write(bench.path("site.yml"), document).unwrap();
    let plan = bench.good(RECIPE, &["Title=/t"]).await;
    let warned: Vec<String> =
        plan.warnings.iter().map(|w| format!("{}:{} {}", w.span.line, w.span.column, w.code)).collect();
    assert_eq!(warned, ["9:78 no-value", "9:95 no-value", "9:124 no-value", "9:145 no-value"]);
    let values = |text: &str| Values::parse(&Source::new("v.yaml", text)).unwrap();
    let known = "parameters: {/a: one, /t: two, /unused: x}\nmetadata: {x/y: z, placement/region: r}\n";
    bench.world.values = values(known);
    let plan = bench.good(RECIPE, &["Title=/t"]).await;
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    for (edit, same) in [(("unused: x", "unused: y"), true), (("/t: two", "/t: three"), false)] {
        bench.world.values = values(&known.replace(edit.0, edit.1));
        assert_eq!(bench.good(RECIPE, &["Title=/t"]).await.inputs == plan.inputs, same, "{edit:?}");
    }
}

#[tokio::test]
async fn the_inputs_digest_changes_with_what_shapes_the_image_only() {
    let bench = Bench::new();
    let same = bench.good(RECIPE, &[]).await.inputs;
    assert_eq!(bench.good(RECIPE, &["site.Title=Hello"]).await.inputs, same);
    let edited = |from: &str, to: &str| RECIPE.replace(from, to);
    for unchanging in [edited("name: web", "name: other"), edited("cpu: max", "cpu: max, memory: 2048")] {
        assert_eq!(bench.good(&unchanging, &[]).await.inputs, same);
    }
    for changing in [
        edited("Port: 80", "Port: 81"),
        edited("volumeSize: 4", "volumeSize: 5"),
        edited("cpu: max", "cpu: host"),
        edited("[bios, uefi]", "bios"),
        edited("cpu: max", "cpu: max, network: none"),
        edited("cpu: max", "cpu: max, run: appliance"),
        edited("  - component: ./site.yml", "  - run: appliance\n    component: ./site.yml"),
    ] {
        assert_ne!(bench.good(&changing, &[]).await.inputs, same, "{changing}");
    }
    assert_ne!(bench.good(RECIPE, &["Title=x"]).await.inputs, same);
    std::fs::write(bench.path("site.yml"), format!("{DOCUMENT}# a comment changes nothing\n")).unwrap();
    assert_eq!(bench.good(RECIPE, &[]).await.inputs, same);
}

#[tokio::test]
async fn files_that_a_component_brings_are_known_and_count() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("site")).unwrap();
    std::fs::write(bench.path("site/index.html"), "one").unwrap();
    let files =
        |entry: &str| RECIPE.replace("    parameters", &format!("    files: [{entry}]\n    parameters"));
    let text = files("{source: ./site, destination: /srv/www}");
    let plan = bench.good(&text, &[]).await;
    assert_eq!(plan.files[0][0].items[1].path, "/srv/www/index.html");
    assert_ne!(plan.inputs, bench.good(RECIPE, &[]).await.inputs);
    std::fs::write(bench.path("site/index.html"), "two").unwrap();
    assert_ne!(bench.good(&text, &[]).await.inputs, plan.inputs);
    std::fs::write(bench.path("site/copy.html"), "two").unwrap();
    std::fs::write(bench.path("site/other.html"), "four").unwrap();
    let mut plan = bench.good(&text, &[]).await;
    assert_eq!((plan.files[0][0].bytes(), plan.most_packed()), (10, 7), "each content once");
    plan.route = plan.route.from(Stage::Test);
    assert_eq!(plan.most_packed(), 0, "no component runs");
    for (entry, found) in [
        ("{source: ./sites, destination: /srv/www}", "recipe.yaml:6:22 no-file"),
        ("{source: ./site, destination: srv/../www}", "recipe.yaml:6:43 bad-value"),
        ("{source: ./site}", "recipe.yaml:6:13 missing-field"),
        ("{source: /dev/null, destination: /srv/www}", "recipe.yaml:6:22 bad-file"),
    ] {
        assert_eq!(bench.findings(&files(entry), &[]).await, [found], "{entry}");
    }
}

#[tokio::test]
async fn components_run_where_the_recipe_says() {
    let bench = Bench::new();
    for name in ["one", "two"] {
        std::fs::write(bench.path(&format!("{name}.yml")), DOCUMENT.replace("site", name)).unwrap();
    }
    let with = |settings: &str, one: &str, site: &str, two: &str| {
        let entry = |name: &str, more: &str| {
            format!("  - component: ./{name}.yml\n    parameters: {{Port: 80}}\n{more}")
        };
        let components = entry("one", one) + &entry("site", site) + &entry("two", two);
        let parent = "name: web\nversion: 1.0.0\nparentImage: debian-12\n";
        format!("{parent}components:\n{components}kiln: {{cpu: max{settings}}}\n")
    };
    let (booted, appliance) = ("    run: booted\n", "    run: appliance\n");
    let (b, a) = (Some(Lane::Booted), Some(Lane::Appliance));
    let lanes = |plan: &Plan| (0..3).map(|index| plan.lane(index)).collect::<Vec<_>>();
    let cases = [
        (with("", "", "", ""), [b, b, b]),
        (with(", run: appliance", "", "", ""), [a, a, a]),
        (with("", appliance, appliance, ""), [a, a, b]),
        (with(", run: appliance", "", booted, ""), [a, b, a]),
    ];
    for (text, wanted) in cases {
        let plan = bench.good(&text, &[]).await;
        assert_eq!(lanes(&plan), wanted, "{text}");
        assert_eq!(Some(plan.first_lane()), wanted[0]);
    }
    let bad = with("", "    run: fast\n", "", "");
    assert_eq!(bench.findings(&bad, &[]).await, ["recipe.yaml:7:10 bad-value"]);
    // A component that has only tests needs no machine before them.
    let tests = "name: site\nschemaVersion: 1.0\nphases:\n  - name: test\n    steps:\n      \
                 - {name: Restart, action: Reboot}\n";
    std::fs::write(bench.path("one.yml"), tests).unwrap();
    let text = with("", appliance, "", "").replacen("    parameters: {Port: 80}\n", "", 1);
    let plan = bench.good(&text, &[]).await;
    assert_eq!((lanes(&plan), plan.first_lane()), (vec![None, b, b], Lane::Booted));
}

#[tokio::test]
async fn what_reboots_is_refused_in_the_appliance() {
    let bench = Bench::new();
    let document = "name: site
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Restart, action: Reboot}
      - name: Update
        action: ExecuteBash
        inputs:
          commands:
            - set -e
            - test -e /done || exit 194
      - {name: Fine, action: ExecuteBash, inputs: {commands: ['# exit 194', 'exit 1945']}}
";
    std::fs::write(bench.path("site.yml"), document).unwrap();
    let text = RECIPE.replace("    parameters: {Port: 80}\n", "");
    let path = bench.path("site.yml").display().to_string();
    bench.good(&text, &[]).await;
    let lane = text.replace("cpu: max", "cpu: max, run: appliance");
    let found = bench.findings(&lane, &[]).await;
    let errors: Vec<&String> = found.iter().filter(|f| f.contains("no-reboot")).collect();
    assert_eq!(errors, [&format!("{path}:6:16 no-reboot"), &format!("{path}:12:32 no-reboot")]);
}

#[tokio::test]
async fn a_parent_that_is_not_available_is_told_as_what_it_is() {
    let bench = Bench::new();
    let add = |t: &Transaction| {
        let (name, version): (ResourceName, Version) = ("gold".parse().unwrap(), "1.0.0".parse().unwrap());
        let (format, digest) = ("qcow2".to_owned(), "1".repeat(64));
        t.add_artifact(&Artifact {
            digest: digest.clone(),
            format,
            bytes: 4,
            virtual_size: 4,
            backing: None,
            file: None,
        })?;
        let recipe = t.register_recipe(&name, version, "r", "d")?;
        let image = t.add_image(&NewImage {
            name,
            version,
            architecture: Architecture::X86_64,
            inputs: "i".into(),
            recipe,
            parent_name: "debian-12".into(),
            parent: digest,
            details: "{}".into(),
            components: Vec::new(),
            tags: Vec::new(),
            parent_image: None,
        })?;
        t.set_status(image.id, ImageStatus::Creating, None)?;
        t.set_status(image.id, ImageStatus::Failed, Some("a step failed"))
    };
    std::fs::create_dir_all(bench.path("artifacts")).unwrap();
    std::fs::write(bench.path("artifacts").join("1".repeat(64) + ".qcow2"), "disk").unwrap();
    bench.catalog.write(add).unwrap();
    for name in ["gold", "gold/1.0.x", "gold/1.0.0/1"] {
        let text = RECIPE.replace("debian-12", name);
        let Err(NoPlan::Input(found)) = bench.plan(&text, &[]).await else { panic!("{name}") };
        assert!(found[0].message.starts_with("image gold/1.0.0/1 is FAILED"), "{name}: {:?}", found[0]);
        assert_eq!(
            found[0].help.as_deref(),
            Some("kiln image show gold/1.0.0/1 says why; build it again first")
        );
    }
}

#[tokio::test]
async fn what_is_wrong_across_files_is_found_together() {
    let bench = Bench::new();
    std::fs::write(bench.path("bad.yml"), "name: bad\nphases: []\n").unwrap();
    let text = "name: web
version: 1.0.0
parentImage: debain-12
components:
  - ./none.yml
  - ./bad.yml
  - ./site.yml
  - hardening/1.x.x
  - ./verify.yml
  - arn:aws:imagebuilder:eu-west-1:aws:component/hello-world-linux/x.x.x
";
    let verify = "schemaVersion: 1.0\nphases:\n  - {name: verify, steps: []}\n";
    std::fs::write(bench.path("verify.yml"), verify).unwrap();
    let found = bench.findings(text, &["Nothing=1"]).await;
    assert!(found.contains(&"recipe.yaml:3:14 no-parent".to_owned()), "{found:?}");
    assert!(found.contains(&"recipe.yaml:5:5 no-document".to_owned()), "{found:?}");
    assert!(found.contains(&"recipe.yaml:7:5 bad-parameter".to_owned()), "{found:?}");
    assert!(found.contains(&"recipe.yaml:8:5 no-component".to_owned()), "{found:?}");
    assert!(found.contains(&"recipe.yaml:9:5 no-phase-of-builds".to_owned()), "{found:?}");
    assert!(!found.iter().any(|f| f.contains(":10:")), "one that comes with kiln has a name: {found:?}");
    assert!(found.iter().any(|f| f.contains("bad.yml:")), "{found:?}");

    let wrong = RECIPE
        .replace("Port: 80", "Port: [80, 81], Titel: x")
        .replace("volumeSize: 4", "volumeSize: 1")
        .replace("parentImage: debian-12", "parentImage: debian-12 ");
    let found = bench.findings(&wrong, &["other.Port=1"]).await;
    let codes: Vec<&str> = found.iter().map(|f| f.rsplit(' ').next().unwrap()).collect();
    assert_eq!(
        codes,
        ["unknown-parameter", "bad-value", "bad-parameter", "bad-parameter", "too-small"],
        "{found:?}"
    );
}

#[tokio::test]
async fn little_space_in_the_guest_is_a_warning() {
    let bench = Bench::new();
    let parent = bench.good(RECIPE, &[]).await.parent;
    bench.catalog.adopt_file(&parent.file, "qcow2", &parent.digest).unwrap();
    bench
        .catalog
        .write::<_, crate::catalog::CatalogError>(|t| {
            t.add_artifact(&parent.artifact())?;
            t.note_free_space(&parent.digest, 300 << 20)
        })
        .unwrap();
    let plan = bench.good(RECIPE, &[]).await;
    assert_eq!(plan.guest_free, Some((2 << 30) + (300 << 20)));
    assert!(plan.warnings.is_empty());
    let plan = bench.good(&RECIPE.replace("volumeSize: 4", "volumeSize: 2"), &[]).await;
    assert_eq!(plan.warnings.iter().map(|w| w.code).collect::<Vec<_>>(), ["little-space"]);
}

#[tokio::test]
async fn a_recipe_may_start_from_an_image_and_use_components_by_name() {
    let bench = Bench::new();
    let plan = bench.good(RECIPE, &[]).await;
    let begun =
        crate::build::begin::begin(&bench.catalog, &bench.nursery(), &plan, &Asked::default()).unwrap();
    assert_eq!((begun.image.to_string().as_str(), begun.id.as_str()), ("web/1.0.0/1", "web-1.0.0-1"));
    assert!(begun.folder.join("steps").is_dir());
    let text = RECIPE.replace("debian-12", "web").replace("./site.yml", "site");
    let codes = bench.findings(&text, &[]).await;
    assert_eq!(codes.len(), 2, "a PENDING image is no parent: {codes:?}");

    let file = bench.path("tmp/new");
    std::fs::write(&file, "overlay").unwrap();
    let digest = digest_bytes(b"overlay");
    bench.catalog.store_file(&file, "qcow2", &digest).unwrap();
    bench
        .catalog
        .write::<_, crate::catalog::CatalogError>(|t| {
            t.add_artifact(&crate::catalog::artifact::Artifact {
                digest: digest.clone(),
                format: "qcow2".into(),
                bytes: 7,
                virtual_size: 4 << 30,
                backing: Some(plan.parent.digest.clone()),
                file: None,
            })?;
            let details = crate::build::details::Details {
                ran: Vec::new(),
                holds: crate::boot::Holds { bios: true, uefi: true, ..Default::default() },
                memory: 1024,
                cpu: "max".into(),
                interface: "virtio".into(),
            };
            t.set_disk(begun.image.id, &digest, &details.json().to_string())?;
            t.set_status(begun.image.id, crate::model::ImageStatus::Building, None)?;
            t.set_status(begun.image.id, crate::model::ImageStatus::Available, None)?;
            let version = "1.0.0".parse().unwrap();
            t.register_component(&"site".parse().unwrap(), version, "d", DOCUMENT)
        })
        .unwrap();
    let child = bench.good(&text, &[]).await;
    assert_eq!(child.parent.name, "web/1.0.0/1");
    assert_eq!((child.parent.digest.clone(), child.parent.adopt), (digest, false));
    assert_eq!(child.components[0].label, "site/1.0.0/1");
    assert_ne!(child.inputs, plan.inputs);
    crate::build::begin::begin(&bench.catalog, &bench.nursery(), &child, &Asked::default()).unwrap();
}

#[test]
fn settings_are_name_and_value() {
    let parse = |s: &str| s.parse::<Setting>();
    let set = parse("site/1.0.0/1.Title=a=b").unwrap();
    assert_eq!(
        (set.component.as_deref(), set.name.as_str(), set.value.as_str()),
        (Some("site/1.0.0/1"), "Title", "a=b")
    );
    assert_eq!(set.to_string(), "site/1.0.0/1.Title=a=b");
    for bad in ["", "Title", "=x", ".x=1", "a.=1"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
