//! A file of the host on its way to its place in the guest.

use super::super::fetch::Kept;
use super::{Context, StepError};
use kiln_protocol::message::{Algorithm, Operation, Put, Reply};

/// A file beside its place in the guest. The place never holds a part of it.
pub struct Delivery<'p> {
    part: String,
    path: &'p str,
    pub bytes: u64,
}

impl<'p> Delivery<'p> {
    /// Streams the file to a name beside its place; missing folders are made.
    pub async fn begin(step: &Context<'_>, kept: Kept, path: &'p str) -> Result<Delivery<'p>, StepError> {
        let part = format!("{path}.kiln-{}", step.random_name()?);
        let target = Put {
            path: part.clone(),
            mode: 0o644,
            owner: None,
            group: None,
            overwrite: false,
            parents: true,
        };
        let bytes = step.put_file(target, kept.file).await?;
        Ok(Delivery { part, path, bytes })
    }

    /// Its digest, as the guest has it.
    pub async fn hash(&self, step: &Context<'_>, algorithm: Algorithm) -> Result<String, StepError> {
        hash(step, &self.part, algorithm).await
    }

    pub async fn give_up(self, step: &Context<'_>) -> Result<(), StepError> {
        step.remove_quietly(&self.part).await
    }

    /// Moves it to its place; what is there is replaced.
    pub async fn finish(self, step: &Context<'_>) -> Result<(), StepError> {
        let target = self.path.to_owned();
        step.call(Operation::Rename { source: self.part, target, overwrite: true }).await?;
        Ok(())
    }
}

/// The digest of a file of the guest.
pub async fn hash(step: &Context<'_>, path: &str, algorithm: Algorithm) -> Result<String, StepError> {
    match step.call(Operation::Hash { path: path.to_owned(), algorithm }).await? {
        Reply::Hash(digest) => Ok(digest),
        other => Err(StepError::failed(format!("Hash was answered with {other:?}"))),
    }
}
