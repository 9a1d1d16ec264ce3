//! The other resources a recipe file may hold: infrastructure and distribution configuration,
//! pipeline. What has a meaning on this machine is taken; the rest is checked for its name and
//! reported as without effect.

use super::settings::within;
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Node};

/// What the sections say that matters here.
#[derive(Debug, Default)]
pub struct Sections {
    pub keep_on_failure: bool,
    pub tests: Option<bool>,
    /// Seconds.
    pub test_timeout: Option<u64>,
}

/// Meant for the cloud.
const INFRASTRUCTURE: [&str; 13] = [
    "instanceProfileName",
    "instanceTypes",
    "securityGroupIds",
    "subnetId",
    "logging",
    "keyPair",
    "terminateInstanceOnCompletion",
    "snsTopicArn",
    "resourceTags",
    "instanceMetadataOptions",
    "tags",
    "placement",
    "parentInstance",
];
const PIPELINE: [&str; 13] = [
    "imageRecipeArn",
    "infrastructureConfigurationArn",
    "distributionConfigurationArn",
    "enhancedImageMetadataEnabled",
    "schedule",
    "status",
    "tags",
    "imageTags",
    "imageScanningConfiguration",
    "executionRole",
    "workflows",
    "loggingConfiguration",
    "containerRecipeArn",
];
const DISTRIBUTION: [&str; 2] = ["distributions", "tags"];

/// Reports fields that are known and do nothing here.
pub fn without_effect(fields: &mut Fields, names: &[&'static str], findings: &mut Findings) {
    for name in names {
        if fields.written(name).is_some() {
            let span = fields.key_span(name).unwrap_or(fields.span());
            findings.warning(span, "no-effect", format!("`{name}` has no effect on this machine"));
        }
    }
}

fn name_and_description(fields: &mut Fields, findings: &mut Findings) {
    if let Some(node) = fields.optional("name")
        && let Some(text) = findings.text(node, "`name`")
        && let Err(e) = text.parse::<crate::model::ResourceName>()
    {
        findings.error(node.span, "bad-value", e.to_string());
    }
    if let Some(node) = fields.optional("description") {
        findings.text(node, "`description`");
    }
}

impl Sections {
    pub fn infrastructure(&mut self, node: &Node, findings: &mut Findings) {
        let Some(mut fields) = Fields::of(node, "the infrastructure configuration", findings) else { return };
        name_and_description(&mut fields, findings);
        if let Some(node) = fields.optional("terminateInstanceOnFailure") {
            let terminate = findings.boolean(node, "`terminateInstanceOnFailure`");
            self.keep_on_failure = terminate == Some(false);
        }
        without_effect(&mut fields, &INFRASTRUCTURE, findings);
        fields.finish(findings);
    }

    pub fn distribution(&mut self, node: &Node, findings: &mut Findings) {
        let Some(mut fields) = Fields::of(node, "the distribution configuration", findings) else { return };
        name_and_description(&mut fields, findings);
        without_effect(&mut fields, &DISTRIBUTION, findings);
        fields.finish(findings);
    }

    pub fn pipeline(&mut self, node: &Node, findings: &mut Findings) {
        let Some(mut fields) = Fields::of(node, "the pipeline", findings) else { return };
        name_and_description(&mut fields, findings);
        if let Some(node) = fields.optional("imageTestsConfiguration") {
            self.tests(node, findings);
        }
        without_effect(&mut fields, &PIPELINE, findings);
        fields.finish(findings);
    }

    pub fn tests(&mut self, node: &Node, findings: &mut Findings) {
        let Some(mut fields) = Fields::of(node, "`imageTestsConfiguration`", findings) else { return };
        if let Some(node) = fields.optional("imageTestsEnabled") {
            self.tests = findings.boolean(node, "`imageTestsEnabled`");
        }
        if let Some(node) = fields.optional("timeoutMinutes") {
            self.test_timeout =
                within(node, "`timeoutMinutes`", 60..=1440, findings).map(|minutes| minutes * 60);
        }
        fields.finish(findings);
    }
}
