//! seal: an ordinary shutdown, then the clean-up on the disk that no system uses any more.

use crate::build::event::What;
use crate::build::recipe::Lane;
use crate::build::workshop::Workshop;
use crate::model::{Failure, Stage};
use crate::support::wait::Patience;

impl Workshop {
    pub(in crate::build) async fn seal(&mut self, patience: &Patience) -> Result<(), Failure> {
        let appliance = self.disk_in_appliance(Stage::Seal, Lane::Booted, patience).await?;
        let working_directory = &self.plan.recipe.working_directory;
        let report = appliance.seal(working_directory, patience).await.map_err(|e| e.failure())?;
        let found = appliance.inspect_with_packages(patience).await;
        let (facts, packages) = found.map_err(|e| e.failure())?;
        appliance.shutdown(patience).await.map_err(|e| e.failure())?;
        let text = serde_json::json!({
            "cleaned": report.cleaned.iter().map(|c| &c.path).collect::<Vec<_>>(),
            "kept": report.kept.iter().map(|g| g.marker()).collect::<Vec<_>>(),
            "trimmedBytes": report.trimmed,
        });
        self.catalog.write(|t| t.journal(&self.build, "sealed", &text.to_string()))?;
        for text in &report.notes {
            self.events.send(What::Warning { text: text.clone() });
        }
        self.note(Stage::Seal, report.to_string());
        (self.facts, self.packages) = (Some(facts), Some(packages));
        Ok(())
    }
}
