//! `settings.yaml` in the home folder.

use super::documents::Documents;
use crate::model::{Failure, FailureKind};
use crate::service::store::LAYERS_KEPT;
use crate::support::diagnostic::Findings;
use crate::support::size::Size;
use crate::support::source::Source;
use crate::support::yaml::{self, Fields, Node};
use std::path::Path;

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    pub documents: Documents,
    /// Bytes of layers that only serve later builds; None: as many as there are.
    pub layers: Option<u64>,
    /// Bytes of guests that are kept with their memory.
    pub warm: u64,
}

/// Of warm states, unless the settings say otherwise.
const WARM: u64 = 4 << 30;

impl Default for File {
    fn default() -> File {
        File { documents: Documents::default(), layers: Some(LAYERS_KEPT), warm: WARM }
    }
}

impl File {
    /// Where there is none, everything is as without it.
    pub fn load(home: &Path) -> Result<File, Failure> {
        let path = home.join("settings.yaml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
            Err(e) => {
                return Err(Failure::new(FailureKind::Input, format!("cannot read {}: {e}", path.display())));
            }
        };
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(File::default());
        }
        let source = Source::new(path.to_string_lossy(), text);
        let mut findings = Findings::new(&source);
        let file = yaml::parse(&source, yaml::Limits::default(), &mut findings)
            .map(|root| decode(&root, &mut findings))
            .unwrap_or_default();
        match findings.has_errors() {
            true => Err(Failure::from_findings("kiln's settings cannot be used", findings.into_sorted())),
            false => Ok(file),
        }
    }
}

fn decode(root: &Node, findings: &mut Findings) -> File {
    let mut file = File::default();
    let Some(mut fields) = Fields::of(root, "the settings file", findings) else { return file };
    if let Some(node) = fields.optional("documents") {
        file.documents = Documents::decode(node, findings);
    }
    if let Some(node) = fields.optional("store")
        && let Some(mut inner) = Fields::of(node, "`store`", findings)
    {
        if let Some(node) = inner.optional("layers") {
            file.layers = bounded(node, "layers", findings);
        }
        if let Some(node) = inner.optional("warm") {
            file.warm = bounded(node, "warm", findings).unwrap_or(0);
        }
        inner.finish(findings);
    }
    fields.finish(findings);
    file
}

fn bounded(node: &Node, name: &str, findings: &mut Findings) -> Option<u64> {
    let text = findings.text(node, &format!("`{name}` (20GiB, or none)"))?;
    if text == "none" || text == "0" {
        return None;
    }
    match text.parse::<Size>() {
        Ok(size) => Some(size.0).filter(|bytes| *bytes > 0),
        Err(e) => {
            findings.error(node.span, "bad-value", format!("`{name}`: {e}, or none"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str) -> Result<Option<u64>, String> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("settings.yaml"), text).unwrap();
        File::load(home.path()).map(|f| f.layers).map_err(|f| format!("{f:?}"))
    }

    #[test]
    fn the_store_is_limited_unless_it_is_not_to_be() {
        for text in ["", "documents: {keepDownloads: 1}\n", "store: {}\n"] {
            assert_eq!(layers(text), Ok(Some(LAYERS_KEPT)), "{text}");
        }
        assert_eq!(layers("store: {layers: 300MiB}\n"), Ok(Some(300 << 20)));
        for none in ["none", "0", "0B"] {
            assert_eq!(layers(&format!("store: {{layers: {none}}}\n")), Ok(None));
        }
        let home = tempfile::tempdir().unwrap();
        for (text, warm) in [("", WARM), ("store: {warm: 1GiB}\n", 1 << 30), ("store: {warm: none}\n", 0)] {
            std::fs::write(home.path().join("settings.yaml"), text).unwrap();
            assert_eq!(File::load(home.path()).unwrap().warm, warm, "{text}");
        }
        for (bad, part) in [("{layers: 20}", "is no size"), ("{layer: 1GiB}", "did you mean `layers`")] {
            let told = layers(&format!("store: {bad}\n")).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }
}
