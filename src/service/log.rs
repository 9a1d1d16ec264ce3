//! What builds left to read: logs of steps, console, events.

use super::{Service, image};
use crate::build::begin::{events_path, machine_folder, steps_folder, test_folder};
use crate::build::event::{Event, What};
use crate::catalog::CatalogError;
use crate::catalog::build::Build;
use crate::machine::read_console;
use crate::model::{Failure, FailureKind, Firmware};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Most bytes of one log that are shown.
const SHOWN: u64 = 16 << 20;

/// A build's folder.
#[derive(Clone, Debug)]
pub struct Records {
    pub build: Build,
    /// `nginx/1.0.0/3`.
    pub image: String,
    pub folder: PathBuf,
}

/// The build a user names: by its id, or the newest one of an image.
pub fn find(service: &Service, name: &str) -> Result<Records, Failure> {
    let found = service.catalog.read(|t| match t.build(name) {
        Ok(build) => Ok(Some(build)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    })?;
    let build =
        match found {
            Some(build) => build,
            None => {
                let wanted = image::parse(name)?;
                let image = service.catalog.read(|t| t.newest_image(&wanted))?;
                service.catalog.read(|t| t.builds_of(image.id))?.pop().ok_or_else(|| {
                    Failure::new(FailureKind::NotFound, format!("image {image} has no build"))
                })?
            }
        };
    let image = service.catalog.read(|t| t.image(build.image))?.to_string();
    let folder = service.catalog.home().build(&build.id);
    Ok(Records { build, image, folder })
}

/// The log of one step.
#[derive(Clone, Debug)]
pub struct StepLog {
    /// Its file's name without the end: number, component, phase and step.
    pub name: String,
    pub path: PathBuf,
}

impl Records {
    /// Logs in the order of the steps; with `only`, those whose name holds it.
    pub fn steps(&self, only: Option<&str>) -> Result<Vec<StepLog>, Failure> {
        let folder = steps_folder(&self.folder);
        let entries = std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))?;
        let mut found: Vec<StepLog> = entries
            .flatten()
            .filter_map(|e| {
                let name = e.file_name().to_str()?.strip_suffix(".log")?.to_owned();
                Some(StepLog { name, path: e.path() })
            })
            .filter(|s| only.is_none_or(|o| s.name.contains(o)))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        if let (Some(only), true) = (only, found.is_empty()) {
            let message = format!("build {} has no step whose name holds `{only}`", self.build.id);
            return Err(Failure::new(FailureKind::NotFound, message));
        }
        Ok(found)
    }

    /// Where its report is, once it has ended.
    pub fn report_path(&self) -> PathBuf {
        self.folder.join("report.html")
    }

    /// The report: one HTML file that needs nothing else.
    pub fn report(&self) -> Result<Vec<u8>, Failure> {
        let path = self.report_path();
        std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let message =
                    format!("build {} has no report (yet): it is {}", self.build.id, self.build.state);
                Failure::new(FailureKind::NotFound, message).hint(format!(
                    "It is written when a build ends; until then `kiln log {}` tells.",
                    self.build.id
                ))
            }
            _ => unreadable(&path, e),
        })
    }

    /// What each machine of the build wrote to its console: a name and the text.
    pub fn consoles(&self) -> Vec<(&'static str, String)> {
        self.machines()
            .into_iter()
            .filter_map(|(name, folder)| Some((name, read_console(&folder).ok()?)))
            .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
            .collect()
    }

    /// Folders that the build's machines live in, in their order, whether they are there or not.
    pub fn machines(&self) -> [(&'static str, PathBuf); 3] {
        let test = |firmware| test_folder(&self.folder, firmware);
        [
            ("build", machine_folder(&self.folder)),
            ("test under BIOS", test(Firmware::Bios)),
            ("test under UEFI", test(Firmware::Uefi)),
        ]
    }

    /// Events as they were told, output lines left out. A torn last line of a killed build is skipped.
    pub fn events(&self) -> Result<Vec<Event>, Failure> {
        let path = events_path(&self.folder);
        let file = std::fs::File::open(&path).map_err(|e| unreadable(&path, e))?;
        let lines = BufReader::new(file.take(SHOWN)).lines().map_while(Result::ok);
        Ok(lines.filter_map(|l| serde_json::from_str(&l).ok()).collect())
    }

    /// How the build ended, when it has.
    pub fn outcome(&self) -> Result<Option<What>, Failure> {
        let ended = |e: Event| matches!(e.what, What::BuildEnded { .. }).then_some(e.what);
        Ok(self.events()?.into_iter().rev().find_map(ended))
    }
}

impl StepLog {
    pub fn text(&self) -> Result<String, Failure> {
        text(&self.path)
    }
}

/// A log's text; what is no UTF-8 is replaced.
pub fn text(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(SHOWN).read_to_end(&mut bytes))
        .map_err(|e| unreadable(path, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::Environment,
    };
    Failure::new(kind, format!("cannot read {}: {error}", path.display()))
}
