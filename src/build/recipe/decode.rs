//! The file as a whole.

use super::component::components;
use super::sections::{Sections, without_effect};
use super::settings::{settings, within};
use super::{Located, Recipe, Settings};
use crate::model::{MOST_TAGS, ResourceName, Tag, VersionPattern};
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Node};
use std::path::Path;

/// The service's default for tests, in s.
const TEST_TIMEOUT: u64 = 720 * 60;

/// Fields of a recipe that mean something in the cloud only.
const CLOUD: [&str; 3] = ["amiTags", "amiWatermarks", "platform"];

/// What a recipe proper says.
#[derive(Default)]
struct Core {
    name: Option<ResourceName>,
    version: Option<VersionPattern>,
    description: Option<String>,
    tags: Vec<Tag>,
    parent: Option<Located<String>>,
    components: Vec<super::ComponentUse>,
    volume: Option<Located<u64>>,
    working_directory: Option<String>,
}

pub fn recipe(root: &Node, folder: &Path, findings: &mut Findings) -> Option<Recipe> {
    if another_file(root, findings) {
        return None;
    }
    let mut fields = Fields::of(root, "the recipe file", findings)?;
    let mut sections = Sections::default();
    if let Some(node) = either(&mut fields, "infrastructureConfiguration", "infrastructure", findings) {
        sections.infrastructure(node, findings);
    }
    if let Some(node) = either(&mut fields, "distributionConfiguration", "distribution", findings) {
        sections.distribution(node, findings);
    }
    if let Some(node) = either(&mut fields, "imagePipeline", "pipeline", findings) {
        sections.pipeline(node, findings);
    }
    if let Some(node) = fields.optional("imageTestsConfiguration") {
        sections.tests(node, findings);
    }
    let (settings, exports) = match fields.optional("kiln") {
        Some(node) => settings(node, folder, findings),
        None => (Settings::default(), Vec::new()),
    };
    let core = match fields.optional("imageRecipe") {
        Some(node) => {
            let mut inner = Fields::of(node, "`imageRecipe`", findings)?;
            let core = core(&mut inner, folder, findings);
            inner.finish(findings);
            core
        }
        None => core(&mut fields, folder, findings),
    };
    fields.finish(findings);
    Some(Recipe {
        source: findings.source.clone(),
        folder: folder.to_owned(),
        name: core.name?,
        version: core.version?,
        description: core.description,
        tags: core.tags,
        parent: core.parent?,
        components: core.components,
        volume: core.volume,
        working_directory: core.working_directory.unwrap_or_else(|| "/tmp".into()),
        tests: sections.tests.unwrap_or(true),
        test_timeout: sections.test_timeout.unwrap_or(TEST_TIMEOUT),
        keep_on_failure: sections.keep_on_failure,
        exports,
        settings,
    })
}

/// A component document taken for a recipe gets one answer, not one for each of its fields.
fn another_file(root: &Node, findings: &mut Findings) -> bool {
    let Some(mapping) = root.mapping().filter(|m| m.get("parentImage").is_none()) else { return false };
    let is_of_documents = |(key, _): &&(Node, Node)| matches!(key.text(), Some("phases" | "schemaVersion"));
    let Some((key, _)) = mapping.entries.iter().find(is_of_documents) else { return false };
    findings.error(key.span, "document", "this is a component document, not a recipe").help =
        Some("check it with: kiln component validate FILE\na recipe names it under `components`".into());
    true
}

/// One field with two names.
fn either<'n>(
    fields: &mut Fields<'n>,
    long: &'static str,
    short: &'static str,
    findings: &mut Findings,
) -> Option<&'n Node> {
    let (first, second) = (fields.optional(long), fields.optional(short));
    if let (Some(_), Some(second)) = (first, second) {
        let message = format!("`{long}` and `{short}` say the same thing: give one of them");
        findings.error(second.span, "conflict", message);
    }
    first.or(second)
}

fn core(fields: &mut Fields, folder: &Path, findings: &mut Findings) -> Core {
    let mut core = Core::default();
    if let Some(node) = fields.required("name", findings) {
        core.name = parsed(node, "`name`", findings);
    }
    let version = either(fields, "semanticVersion", "version", findings)
        .or_else(|| fields.required("version", findings));
    if let Some(node) = version {
        core.version = parsed(node, "`version`", findings).filter(|v| counts(*v, node, findings));
    }
    if let Some(node) = fields.optional("description") {
        core.description = findings.text(node, "`description`").map(str::to_owned);
    }
    if let Some(node) = fields.optional("tags") {
        core.tags = tags(node, findings);
    }
    if let Some(node) = fields.required("parentImage", findings) {
        core.parent =
            findings.text(node, "`parentImage`").map(|t| Located { value: t.to_owned(), span: node.span });
    }
    if let Some(node) = fields.optional("components") {
        core.components = components(node, folder, findings);
    }
    if let Some(node) = fields.optional("blockDeviceMappings") {
        core.volume = volume(node, findings);
    }
    if let Some(node) = fields.optional("workingDirectory") {
        core.working_directory = absolute(node, "`workingDirectory`", findings);
    }
    if fields.optional("additionalInstanceConfiguration").is_some() {
        let span = fields.key_span("additionalInstanceConfiguration").unwrap_or(fields.span());
        findings
            .error(span, "unsupported", "`additionalInstanceConfiguration` is not supported: kiln's agent is always put in from outside")
            .help = Some("do at build time with a component what the user data did".into());
    }
    without_effect(fields, &CLOUD, findings);
    core
}

/// Whether builds can be numbered by it: fully, or by kiln in its last part.
fn counts(version: VersionPattern, node: &Node, findings: &mut Findings) -> bool {
    let open = version.minor.is_none();
    if open {
        let message = format!("`version`: `{version}` leaves more than its last number open");
        let major = version.major.unwrap_or(1);
        findings.error(node.span, "bad-value", message).help =
            Some(format!("kiln counts the last number up where the content is new: {major}.0.x"));
    }
    !open
}

/// `tags: {team: web}`.
fn tags(node: &Node, findings: &mut Findings) -> Vec<Tag> {
    let Some(mapping) = node.mapping() else {
        findings.error(
            node.span,
            "wrong-type",
            "`tags` is a mapping of keys and values, such as {team: web}",
        );
        return Vec::new();
    };
    if mapping.entries.len() > MOST_TAGS {
        let message = format!("an image has {MOST_TAGS} tags at most, here are {}", mapping.entries.len());
        findings.error(node.span, "too-many", message);
    }
    let mut found = Vec::new();
    for (key, value) in &mapping.entries {
        let (Some(name), Some(text)) =
            (findings.text(key, "a tag's key"), findings.text(value, "a tag's value"))
        else {
            continue;
        };
        match Tag::new(name, text) {
            Ok(tag) => found.push(tag),
            Err(e) => drop(findings.error(key.span, "bad-value", e.to_string())),
        }
    }
    found
}

fn parsed<T: std::str::FromStr>(node: &Node, what: &str, findings: &mut Findings) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    match findings.text(node, what)?.parse() {
        Ok(value) => Some(value),
        Err(e) => {
            findings.error(node.span, "bad-value", format!("{what}: {e}"));
            None
        }
    }
}

/// Names under which clouds know the first disk.
const ROOT_DEVICES: [&str; 5] = ["/dev/vda", "/dev/sda", "/dev/sda1", "/dev/xvda", "/dev/nvme0n1"];
const EBS_CLOUD: [&str; 7] =
    ["encrypted", "deleteOnTermination", "iops", "kmsKeyId", "snapshotId", "volumeType", "throughput"];

fn volume(node: &Node, findings: &mut Findings) -> Option<Located<u64>> {
    let items = findings.items(node, "`blockDeviceMappings`")?;
    if let Some(second) = items.get(1) {
        findings.error(second.span, "unsupported", "an image of kiln has one disk; this is a second one");
    }
    let mut fields = Fields::of(items.first()?, "a block device mapping", findings)?;
    if let Some(node) = fields.optional("deviceName")
        && let Some(name) = findings.text(node, "`deviceName`")
        && !ROOT_DEVICES.contains(&name)
    {
        let message = format!("`{name}` is not the root device, and an image of kiln has one disk");
        findings.error(node.span, "unsupported", message).help =
            Some(format!("the root device has one of these names: {}", ROOT_DEVICES.join(", ")));
    }
    let ebs = fields.optional("ebs");
    without_effect(&mut fields, &["virtualName", "noDevice"], findings);
    fields.finish(findings);
    let mut ebs = Fields::of(ebs?, "`ebs`", findings)?;
    let size = ebs.optional("volumeSize").and_then(|node| {
        let gib = within(node, "`volumeSize` (GiB)", 1..=16_384, findings)?;
        Some(Located { value: gib << 30, span: node.span })
    });
    without_effect(&mut ebs, &EBS_CLOUD, findings);
    ebs.finish(findings);
    size
}

/// A path in the guest.
pub fn absolute(node: &Node, what: &str, findings: &mut Findings) -> Option<String> {
    let text = findings.text(node, what)?;
    let clean = text.starts_with('/') && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if !clean {
        let message = format!("{what} is `{text}`, which is no absolute path without `..`");
        findings.error(node.span, "bad-value", message);
    }
    clean.then(|| text.to_owned())
}
