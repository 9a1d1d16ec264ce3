//! seal: an ordinary shutdown, then the clean-up on the disk that no system uses any more.

use crate::build::event::What;
use crate::build::workshop::Workshop;
use crate::model::{Failure, FailureKind, Stage};
use crate::support::wait::Patience;
use std::time::Duration;

impl Workshop {
    pub(in crate::build) async fn seal(&mut self, patience: &Patience) -> Result<(), Failure> {
        let guest = self.guest.take().ok_or_else(|| {
            Failure::new(FailureKind::Internal, "there is no guest to seal: none was booted")
        })?;
        let limit = Duration::from_secs(self.plan.recipe.settings.timeouts.shutdown);
        self.note(Stage::Seal, "powering the guest off");
        guest.shutdown(&patience.at_most(limit)).await.map_err(|e| e.failure())?;

        let kit = self.kit(patience).await?;
        let overlay = self.overlay()?.to_owned();
        let appliance = self.appliance(&kit, &overlay, patience).await?;
        let working_directory = &self.plan.recipe.working_directory;
        let report = appliance.seal(working_directory, patience).await.map_err(|e| e.failure())?;
        let facts = appliance.inspect(patience).await.map_err(|e| e.failure())?;
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
        self.facts = Some(facts);
        Ok(())
    }
}
