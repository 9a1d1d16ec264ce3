use super::*;
use crate::model::Firmware;
use std::collections::{BTreeMap, BTreeSet};

fn read(text: &str) -> (Option<Recipe>, Vec<Diagnostic>) {
    parse(&Source::new("recipe.yaml", text), Path::new("/r"))
}

fn good(text: &str) -> Recipe {
    let (recipe, list) = read(text);
    let rendered: String = list.iter().map(Diagnostic::render).collect();
    recipe.unwrap_or_else(|| panic!("{rendered}"))
}

/// `line:column code` of every finding.
fn findings(text: &str) -> Vec<String> {
    read(text).1.iter().map(|d| format!("{}:{} {}", d.span.line, d.span.column, d.code)).collect()
}

const SHORT: &str = "name: My Web\nversion: 1.2.3\nparentImage: debian-12\n";

#[test]
fn the_short_form_has_the_defaults_of_the_service() {
    let recipe = good(SHORT);
    assert_eq!((recipe.name.slug().as_str(), recipe.version.to_string().as_str()), ("my-web", "1.2.3"));
    assert_eq!(recipe.parent.value, "debian-12");
    assert_eq!(recipe.working_directory, "/tmp");
    assert!(recipe.tests && !recipe.keep_on_failure);
    assert_eq!((recipe.test_timeout, recipe.volume, recipe.settings), (43_200, None, Settings::default()));
}

#[test]
fn every_form_of_a_component_is_read() {
    let recipe = good(&format!(
        "{SHORT}components:
  - ./install.yml
  - component: site.yaml
    parameters:
      - name: Title
        value: [a, b]
      - {{name: Port, value: 80}}
  - path: /abs/c.yml
    parameters: {{Deep: yes, Many: [1, 2]}}
  - hardening/1.0.x
  - componentArn: arn:aws:imagebuilder:eu-west-1:123456789012:component/audit/2.0.0/1
"
    ));
    let file = |p: &str| Reference::File(PathBuf::from(p));
    let named = |n: &str| Reference::Named(n.parse().unwrap());
    let references: Vec<_> = recipe.components.iter().map(|c| c.reference.clone()).collect();
    assert_eq!(
        references,
        [
            file("/r/install.yml"),
            file("/r/site.yaml"),
            file("/abs/c.yml"),
            named("hardening/1.0.x"),
            named("audit/2.0.0/1")
        ]
    );
    let given = |i: usize| -> Vec<(String, Vec<String>)> {
        recipe.components[i].parameters.iter().map(|(n, v, _)| (n.clone(), v.clone())).collect()
    };
    assert_eq!(
        given(1),
        [("Title".into(), vec!["a".into(), "b".into()]), ("Port".into(), vec!["80".to_owned()])]
    );
    assert_eq!(
        given(2),
        [("Deep".into(), vec!["yes".to_owned()]), ("Many".into(), vec!["1".into(), "2".into()])]
    );
}

#[test]
fn the_long_form_holds_every_resource() {
    let recipe = good(
        "imageRecipe:
  name: web
  semanticVersion: 1.0.0
  parentImage: base/1.x.x
  workingDirectory: /var/tmp/work
  blockDeviceMappings:
    - deviceName: /dev/xvda
      ebs: {volumeSize: 8}
infrastructureConfiguration:
  name: build host
  terminateInstanceOnFailure: false
pipeline:
  name: nightly
  imageTestsConfiguration: {imageTestsEnabled: false, timeoutMinutes: 90}
kiln:
  memory: 2048
  vcpus: 2
  firmware: uefi
  testFirmware: bios
  network: user-restricted
  disk: nvme
  cpu: max,-cx16
  timeouts: {boot: 60}
  exports: [out/web.raw, {format: qcow2, path: /x/web.img}]
",
    );
    assert_eq!(recipe.volume.as_ref().unwrap().value, 8 << 30);
    assert!(recipe.keep_on_failure && !recipe.tests);
    assert_eq!(recipe.test_timeout, 5400);
    let s = &recipe.settings;
    assert_eq!((s.memory, s.vcpus, s.firmware), (2048, Some(2), Some(Firmware::Uefi)));
    assert_eq!((s.network, s.disk), (Network::UserRestricted, DiskInterface::Nvme));
    assert_eq!((s.timeouts.boot, s.timeouts.shutdown), (60, 300));
    let exports: Vec<_> =
        recipe.exports.iter().map(|e| (e.format.as_str(), e.path.to_str().unwrap())).collect();
    assert_eq!(exports, [("raw", "/r/out/web.raw"), ("qcow2", "/x/web.img")]);
}

#[test]
fn all_that_is_wrong_is_found_in_one_pass() {
    let text = "name: a/b
version: 1.0
parentImag: debian-12
components:
  - ./a.yml
  - ./a.yml
  - {component: b/1.x.2}
  - {parameters: []}
blockDeviceMappings:
  - deviceName: /dev/sdb
    ebs: {volumeSize: 0}
  - deviceName: /dev/sdc
workingDirectory: tmp
kiln:
  memory: 12
  network: bridge
  cpu: 'max -nodefaults'
  exports: [x.vdi]
  timeouts: {bot: 3}
";
    assert_eq!(
        findings(text),
        [
            "1:7 bad-value",
            "2:10 bad-value",
            "3:1 unknown-field",
            "6:5 duplicate",
            "7:17 bad-value",
            "8:5 missing-field",
            "10:17 unsupported",
            "11:23 out-of-range",
            "12:5 unsupported",
            "13:19 bad-value",
            "15:11 out-of-range",
            "16:12 bad-value",
            "17:8 bad-value",
            "18:13 bad-value",
            "19:14 unknown-field",
        ]
    );
    assert!(read(text).0.is_none());
}

#[test]
fn a_component_document_is_told_apart() {
    let (recipe, found) = read("name: install\nschemaVersion: 1.0\nphases:\n  - {name: build, steps: []}\n");
    assert!(recipe.is_none());
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.code, finding.span.line), ("document", 2));
    assert!(finding.help.as_deref().unwrap().contains("kiln component validate FILE"));
}

#[test]
fn what_only_the_cloud_knows_is_a_warning() {
    let text = format!(
        "{SHORT}infrastructure: {{instanceProfileName: p, instanceTypes: [t3.micro]}}
distribution: {{distributions: [{{region: eu-west-1}}]}}
pipeline: {{schedule: {{scheduleExpression: 'cron(0 0 * * ? *)'}}}}
amiTags: {{a: b}}
"
    );
    let (recipe, list) = read(&text);
    assert!(recipe.is_some());
    assert_eq!(list.len(), 5);
    assert!(list.iter().all(|d| d.code == "no-effect" && !d.is_error()));
}

#[test]
fn strange_files_are_turned_down() {
    for (text, code) in [
        ("", "empty"),
        ("- a\n", "wrong-type"),
        ("just text", "wrong-type"),
        ("name: [", ""),
        ("name: x\nname: y\n", ""),
        ("components: {a: b}\n", "wrong-type"),
        ("kiln: 3\n", "wrong-type"),
        ("version: 1.0.0\nsemanticVersion: 1.0.0\n", "conflict"),
    ] {
        let (recipe, list) = read(text);
        assert!(recipe.is_none(), "{text}");
        assert!(list.iter().any(|d| d.is_error() && d.code.contains(code)), "{text}: {list:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(folder.path()), Err(RecipeError::NoText { .. })));
    assert!(matches!(load(&folder.path().join("none")), Err(RecipeError::Read { .. })));
    let file = folder.path().join("r.yaml");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(matches!(load(&file), Err(RecipeError::NoText { .. })));
}

#[test]
fn the_examples_are_good_recipes() {
    for name in ["nginx", "broken"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("recipe.yaml");
        let (recipe, list) = load(&path).unwrap();
        assert!(list.is_empty(), "{list:?}");
        assert_eq!(recipe.unwrap().name.as_str(), name);
    }
}

#[test]
fn versions_count_up_in_their_last_part_only_and_tags_are_bounded() {
    let open = good(&SHORT.replace("1.2.3", "2.1.x\ntags: {team: web, cost center: 7}"));
    assert_eq!(open.version.to_string(), "2.1.x");
    let tags: Vec<String> = open.tags.iter().map(|t| format!("{}={}", t.key, t.value)).collect();
    assert_eq!(tags, ["team=web", "cost center=7"]);
    for said in ["x.x.x", "1.x.x", "x.2.x", "1.x.8", "1.0", "1.0.0/2"] {
        assert_eq!(findings(&SHORT.replace("1.2.3", said)), ["2:10 bad-value"], "{said}");
    }
    let help = read(&SHORT.replace("1.2.3", "4.x.x")).1[0].help.clone().unwrap();
    assert!(help.ends_with("4.0.x"), "{help}");
    let tagged = |tags: &str| findings(&format!("{SHORT}tags: {tags}\n"));
    assert_eq!(tagged("[a]"), ["4:7 wrong-type"]);
    assert_eq!(tagged("{aws:x: y}"), ["4:8 bad-value"]);
    assert_eq!(tagged(&format!("{{a: {}}}", "v".repeat(257))), ["4:8 bad-value"]);
    let many: Vec<String> = (0..51).map(|n| format!("k{n}: v")).collect();
    assert_eq!(tagged(&format!("{{{}}}", many.join(", "))), ["4:7 too-many"]);
    let used = |text: &str| findings(&format!("{SHORT}components: [{text}]\n"));
    assert_eq!(used("install/1.x.8"), ["4:14 bad-value"]);
    assert_eq!(used("install/1.x.x/3"), ["4:14 bad-value"]);
}

/// Fields of each mapping by its name in messages, as a wrong field in each brings them out.
fn known_fields(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for d in read(text).1.iter().filter(|d| d.code == "unknown-field") {
        let (owner, _) = d.message.split_once(" has no field").unwrap();
        let names = d.help.as_deref().unwrap().strip_prefix("it has these: ").unwrap();
        known.insert(owner.to_lowercase(), names.split(", ").map(str::to_owned).collect());
    }
    known
}

/// Fields by heading: what stands in the first column of its table.
fn documented_fields(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.to_lowercase();
        } else if let Some(cell) = line.strip_prefix("| `").and_then(|l| l.split(" | ").next()) {
            let names = cell.split("`, `").map(|n| n.trim_end_matches('`').to_owned());
            fields.entry(heading.clone()).or_default().extend(names);
        }
    }
    fields
}

#[test]
fn the_page_of_recipes_has_every_field_and_no_other() {
    let everywhere = "zzzz: 1
parentImage: a
components: [{zzzz: 1, parameters: [{zzzz: 1}], files: [{zzzz: 1}]}]
blockDeviceMappings: [{zzzz: 1, ebs: {zzzz: 1}}]
infrastructureConfiguration: {zzzz: 1}
distributionConfiguration: {zzzz: 1}
imagePipeline: {zzzz: 1}
imageTestsConfiguration: {zzzz: 1}
kiln: {zzzz: 1, timeouts: {zzzz: 1}, exports: [{zzzz: 1}]}
";
    let known = known_fields(everywhere);
    let documented = documented_fields(include_str!("../../../docs/recipe.md"));
    assert_eq!(documented, known, "left: docs/recipe.md, right: what is read");
    let nested = known_fields("parentImage: a\nimageRecipe: {zzzz: 1}\n");
    assert!(nested["`imagerecipe`"].is_subset(&known["the recipe file"]));
    assert_eq!(known.len(), 13);
}
