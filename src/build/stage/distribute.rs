//! distribute: the files that the recipe wants.

use crate::build::workshop::Workshop;
use crate::distribute::{self, Export, Source};
use crate::model::{DiskFormat, Failure, Stage};
use crate::support::wait::Patience;

impl Workshop {
    pub(in crate::build) async fn distribute(&mut self, patience: &Patience) -> Result<(), Failure> {
        self.recall_captured()?;
        let source =
            Source { path: self.captured()?, format: DiskFormat::Qcow2, blocks: self.blocks.as_ref() };
        let exports: Vec<Export> = self.plan.exports().collect();
        for export in &exports {
            self.note(Stage::Distribute, format!("writing {}", export.target.display()));
        }
        let report = distribute::export(source, &exports, &mut |_| (), patience).await?;
        for file in report.files {
            let text = format!("{}: {} MiB", file.target.display(), file.allocated >> 20);
            self.catalog.write(|t| t.journal(&self.build, "exported", &text))?;
            self.note(Stage::Distribute, text);
        }
        Ok(())
    }
}
