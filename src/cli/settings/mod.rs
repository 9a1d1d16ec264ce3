//! What the command line, the environment and the home folder say. Read here and nowhere else.

mod aws;
mod documents;
mod file;

pub use documents::Runner;

use file::File;

use crate::appliance::warm;
use crate::component::fetch::Fetching;
use crate::machine::accelerator::Choice;
use crate::model::{Failure, FailureKind};
use crate::service::diff::Looks;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    Auto,
    Kvm,
    Tcg,
}

impl From<Accel> for Choice {
    fn from(accel: Accel) -> Choice {
        match accel {
            Accel::Auto => Choice::Auto,
            Accel::Kvm => Choice::Kvm,
            Accel::Tcg => Choice::Tcg,
        }
    }
}

/// Settings of one invocation, resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    pub home: PathBuf,
    pub accel: Accel,
    pub format: super::render::Format,
    pub progress: super::render::Progress,
}

impl Settings {
    pub fn resolve(global: &super::Global) -> Result<Settings, Failure> {
        let home = match &global.home {
            Some(home) => home.clone(),
            None => default_home().ok_or_else(|| {
                Failure::new(
                    FailureKind::Input,
                    "no folder for kiln's data: neither XDG_DATA_HOME nor HOME is set",
                )
                .hint("Give one with --home DIR or KILN_HOME.")
            })?,
        };
        let home = std::path::absolute(&home)
            .map_err(|e| Failure::new(FailureKind::Input, format!("--home {}: {e}", home.display())))?;
        Ok(Settings { home, accel: global.accel, format: global.format, progress: global.progress })
    }
}

impl Settings {
    /// Where machines are kept with their memory.
    ///
    /// # Errors
    /// What is wrong with settings.yaml.
    pub fn warm(&self) -> Result<warm::Store, Failure> {
        Ok(warm::Store::new(&self.home, File::load(&self.home)?.warm))
    }

    /// How an appliance is started that looks into an image.
    ///
    /// # Errors
    /// What is wrong with settings.yaml.
    pub fn looks(&self) -> Result<Looks, Failure> {
        Ok(Looks { choice: self.accel.into(), warm: self.warm()? })
    }

    /// What documents may fetch, by whom they are run.
    ///
    /// # Errors
    /// What is wrong with settings.yaml.
    pub fn fetching(&self, runner: Runner) -> Result<Fetching, Failure> {
        let folder = match runner {
            Runner::Guest => "downloads",
            Runner::Machine => "component-downloads",
        };
        Ok(File::load(&self.home)?.documents.fetching(runner, &self.home.join(folder)))
    }

    /// Bytes that layers may have which only serve later builds; None: as many as they will.
    pub fn layers(&self) -> Result<Option<u64>, Failure> {
        Ok(File::load(&self.home)?.layers)
    }
}

fn default_home() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME").or_else(|| set("HOME").map(|h| h.join(".local/share"))).map(|d| d.join("kiln"))
}
