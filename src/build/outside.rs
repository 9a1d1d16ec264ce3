//! What a build's documents see around them: variables of the service, values, components by their ARN.

use super::named;
use super::plan::Plan;
use crate::catalog::Catalog;
use crate::component::expression::ContextKey;
use crate::component::provider::{Parameter, Provider};
use crate::component::{Values, World};
use crate::model::{ImageVersion, Stage, VersionedName};
use async_trait::async_trait;
use std::sync::Arc;

/// Answers what neither a document nor the guest knows.
pub struct Outside {
    pub values: Values,
    pub catalog: Arc<Catalog>,
}

#[async_trait]
impl Provider for Outside {
    async fn parameter(&self, name: &str) -> Result<Parameter, String> {
        self.values.parameter(name).await
    }

    async fn metadata(&self, path: &str) -> Result<String, String> {
        self.values.metadata(path).await
    }

    async fn context(&self, key: ContextKey) -> Result<String, String> {
        self.values.context(key).await
    }

    async fn document(&self, arn: &str) -> Result<String, String> {
        if !arn.contains(":component/") {
            return Err(format!("{arn} is no component's ARN"));
        }
        let name: VersionedName = arn.parse().map_err(|e| format!("{arn}: {e}"))?;
        named::find(&self.catalog, &name)
            .map(|found| found.text)
            .map_err(|e| format!("{arn} is not in this catalog (kiln component add FILE puts it there): {e}"))
    }
}

/// The variables that the service sets for every component.
pub fn environment(plan: &Plan, build: &str, version: ImageVersion, stage: Stage) -> Vec<(String, String)> {
    let World { values, .. } = &plan.world;
    let known = |key, or: &str| values.context_now(key).unwrap_or_else(|_| or.to_owned());
    let region = known(ContextKey::Region, "local");
    let account = known(ContextKey::AccountId, "000000000000");
    let image = plan.recipe.name.slug();
    let phase = if stage == Stage::Test { "TESTING" } else { "BUILDING" };
    let ImageVersion { version, build: number } = version;
    let pairs = [
        ("IMAGE_WORKFLOW_EXECUTION_ID", format!("wf-{build}")),
        ("IMAGE_STEP_EXECUTION_ID", format!("step-{build}-{stage}")),
        (
            "IMAGE_BUILD_VERSION_ARN",
            format!("arn:aws:imagebuilder:{region}:{account}:image/{image}/{version}/{number}"),
        ),
        ("IMAGE_PIPELINE_ARN", String::new()),
        ("IMAGE_PHASE", phase.into()),
        ("IMAGE_VERSION", version.to_string()),
        ("IMAGE_BUILD_VERSION", number.to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::artifact::digest_bytes;
    use crate::catalog::home::Home;

    #[tokio::test]
    async fn components_are_found_by_their_arn() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::open(Home::new(folder.path())).unwrap());
        for (version, text) in [("1.0.0", "first"), ("1.0.3", "third")] {
            let (name, version) = ("Base Line".parse().unwrap(), version.parse().unwrap());
            let digest = digest_bytes(text.as_bytes());
            catalog.write(|t| t.register_component(&name, version, &digest, text)).unwrap();
        }
        let outside = Outside { values: Values::default(), catalog };
        let arn = |tail: &str| format!("arn:aws:imagebuilder:eu-west-1:123456789012:component/{tail}");
        for (tail, want) in
            [("base-line/1.0.0/1", "first"), ("base-line/1.0.x", "third"), ("base-line/x.x.x", "third")]
        {
            assert_eq!(outside.document(&arn(tail)).await.unwrap(), want);
        }
        // One that comes with kiln has the name that the service's own has.
        let arn_of_all = "arn:aws:imagebuilder:eu-west-1:aws:component/reboot-linux/x.x.x";
        assert!(outside.document(arn_of_all).await.unwrap().contains("action: Reboot"));
        for (arn, part) in [
            (arn("other/1.0.0/1"), "kiln component add"),
            (arn("base-line/2.0.0/1"), "kiln component add"),
            (arn("reboot-linux/2.0.0"), "kiln component add"),
            (arn("base-line/one"), "one"),
            ("arn:aws:s3:::x".into(), "no component's ARN"),
        ] {
            let told = outside.document(&arn).await.unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }
}
