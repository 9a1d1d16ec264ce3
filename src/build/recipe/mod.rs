//! Recipe files: what to build, from what, on what, to where. One YAML file.
//!
//! Field names are the API's, in camelCase, at the top level or under the resource that
//! they belong to (`imageRecipe`, `infrastructureConfiguration`, `distributionConfiguration`,
//! `imagePipeline`); what the API has no field for is under `kiln`. Everything that is wrong
//! is found in one pass; what the cloud means and this machine does not is a warning.

mod component;
mod decode;
mod sections;
mod settings;

pub use component::{ComponentUse, FileUse, Lane, Reference};
pub use settings::{DiskInterface, Network, Settings, Timeouts};

use crate::disk::writer::ExportFormat;
use crate::model::{Failure, FailureKind, ResourceName, Tag, VersionPattern};
use crate::support::diagnostic::{Diagnostic, Findings};
use crate::support::source::{Source, Span};
use crate::support::yaml;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A recipe file, decoded. What it refers to has not been looked at.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub source: Arc<Source>,
    /// Relative paths in the file start here.
    pub folder: PathBuf,
    pub name: ResourceName,
    /// `1.0.0`, or `1.0.x` for the next one.
    pub version: VersionPattern,
    pub description: Option<String>,
    /// Of the image.
    pub tags: Vec<Tag>,
    /// `debian-12`, or an image: `nginx/1.0.x`.
    pub parent: Located<String>,
    pub components: Vec<ComponentUse>,
    /// Bytes of the image's disk; None keeps the parent's size.
    pub volume: Option<Located<u64>>,
    /// Where steps run and keep their files.
    pub working_directory: String,
    /// The test phases run in a fresh machine.
    pub tests: bool,
    /// Seconds.
    pub test_timeout: u64,
    /// Keep the build's disk when it fails (`terminateInstanceOnFailure: false`).
    pub keep_on_failure: bool,
    pub exports: Vec<Export>,
    pub settings: Settings,
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// A file to write once the image is AVAILABLE.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    pub format: ExportFormat,
    pub path: PathBuf,
    pub span: Span,
}

/// Most bytes of a recipe file.
const LIMIT: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("cannot read the recipe {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the recipe {} is no text file: it is {what}", path.display())]
    NoText { path: PathBuf, what: String },
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Failure {
        let kind = match &error {
            RecipeError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                FailureKind::NotFound
            }
            _ => FailureKind::Input,
        };
        Failure::from_error(kind, &error)
    }
}

/// Reads a recipe file. The recipe is there when no diagnostic is an error.
pub fn load(path: &Path) -> Result<(Option<Recipe>, Vec<Diagnostic>), RecipeError> {
    let read = |source| RecipeError::Read { path: path.to_owned(), source };
    let no_text = |what: &str| RecipeError::NoText { path: path.to_owned(), what: what.into() };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if metadata.is_dir() {
        return Err(no_text("a folder"));
    }
    if metadata.len() > LIMIT {
        return Err(no_text(&format!("{} bytes long, {LIMIT} are the limit", metadata.len())));
    }
    let text = String::from_utf8(std::fs::read(path).map_err(read)?).map_err(|_| no_text("not UTF-8"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(parse(&Source::new(path.to_string_lossy(), text), folder))
}

/// Decodes a recipe's text; relative paths in it start at `folder`. With errors among what was found the
/// recipe lacks what they are about: it is to be checked further, and not to be built.
pub fn parse(source: &Arc<Source>, folder: &Path) -> (Option<Recipe>, Vec<Diagnostic>) {
    let mut findings = Findings::new(source);
    let recipe = yaml::parse(source, yaml::Limits::default(), &mut findings)
        .and_then(|root| decode::recipe(&root, folder, &mut findings));
    (recipe, findings.into_sorted())
}

/// `path` as written in a recipe in `folder`.
fn beside(folder: &Path, path: &str) -> PathBuf {
    let mut plain = path;
    while let Some(rest) = plain.strip_prefix("./") {
        plain = rest.trim_start_matches('/');
    }
    folder.join(plain)
}

#[cfg(test)]
mod tests;
