//! What is kept, by kind.

use super::prune::Picture;
use crate::build::recover::KEPT;
use crate::model::Failure;
use crate::service::Service;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Bases,
    ImageDisks,
    ImageLayers,
    SpareLayers,
    KeptDisks,
    Runs,
    Logs,
    Downloads,
    WarmStates,
    Appliance,
    Catalog,
    Other,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Bases,
        Kind::ImageDisks,
        Kind::ImageLayers,
        Kind::SpareLayers,
        Kind::KeptDisks,
        Kind::Runs,
        Kind::Logs,
        Kind::Downloads,
        Kind::WarmStates,
        Kind::Appliance,
        Kind::Catalog,
        Kind::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Bases => "bases",
            Kind::ImageDisks => "imageDisks",
            Kind::ImageLayers => "imageLayers",
            Kind::SpareLayers => "spareLayers",
            Kind::KeptDisks => "keptDisks",
            Kind::Runs => "runs",
            Kind::Logs => "logs",
            Kind::Downloads => "downloads",
            Kind::WarmStates => "warmStates",
            Kind::Appliance => "appliance",
            Kind::Catalog => "catalog",
            Kind::Other => "other",
        }
    }

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Bases => "base images",
            Kind::ImageDisks => "disks of images",
            Kind::ImageLayers => "layers that images, builds or runs need",
            Kind::SpareLayers => "layers that only serve later builds",
            Kind::KeptDisks => "disks kept by failed builds",
            Kind::Runs => "runs, and what they kept",
            Kind::Logs => "logs of builds",
            Kind::Downloads => "downloads",
            Kind::WarmStates => "warm states",
            Kind::Appliance => "the appliance",
            Kind::Catalog => "the catalog, the settings",
            Kind::Other => "other",
        }
    }

    /// Who frees it.
    pub fn freed_by(self) -> &'static str {
        match self {
            Kind::Bases => "kiln base remove",
            Kind::ImageDisks | Kind::ImageLayers | Kind::Logs | Kind::KeptDisks => "kiln image remove",
            Kind::SpareLayers | Kind::Downloads | Kind::WarmStates => "kiln store prune --all",
            _ => "",
        }
    }
}

/// Files of one kind. Bytes are what they take on this host's disk; of a file with several names, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub kind: Kind,
    pub files: u64,
    pub bytes: u64,
}

/// Counts what lies in the home folder.
pub fn df(service: &Service) -> Result<Vec<Kept>, Failure> {
    let home = service.catalog.home();
    let picture = service.catalog.read(Picture::take)?;
    let mut count =
        Count { seen: HashSet::new(), kept: Kind::ALL.map(|kind| Kept { kind, files: 0, bytes: 0 }) };
    // The disks of bases have a second name among the artifacts: theirs comes first.
    count.tree(&home.bases(), &|_| Kind::Bases);
    let layers: HashSet<String> = picture.layers.iter().map(|l| l.disk.clone()).collect();
    let kind_of = |name: &str| {
        let stem = name.trim_start_matches('.').split('.').next().unwrap_or_default();
        let own = |a: &&crate::catalog::artifact::Artifact| a.file_name().split('.').next() == Some(stem);
        let Some(artifact) = picture.artifacts.values().find(own) else { return Kind::Other };
        // What is known of a base's disk lies here, too.
        if artifact.backing.is_none() {
            return Kind::Bases;
        }
        let is_layer = artifact.file.is_some() || layers.contains(&artifact.digest);
        match (picture.needed.contains(&artifact.digest), is_layer) {
            (true, true) => Kind::ImageLayers,
            (true, false) => Kind::ImageDisks,
            (false, _) => Kind::SpareLayers,
        }
    };
    count.tree(&home.artifacts(), &|path| kind_of(&name_of(path)));
    count.tree(&home.builds(), &|path| match path.extension().is_some_and(|e| e == "qcow2") {
        true => Kind::KeptDisks,
        false => Kind::Logs,
    });
    count.tree(&home.runs(), &|_| Kind::Runs);
    count.tree(&home.appliance(), &|_| Kind::Appliance);
    for entry in std::fs::read_dir(home.root()).into_iter().flatten().flatten() {
        let kind = match &*name_of(&entry.path()) {
            "downloads" | "component-downloads" | "pulls" => Kind::Downloads,
            "warm" => Kind::WarmStates,
            "secret" | "settings.yaml" => Kind::Catalog,
            name if name.starts_with("catalog.db") => Kind::Catalog,
            "bases" | "artifacts" | "builds" | "runs" | "appliance" => continue,
            _ => Kind::Other,
        };
        count.tree(&entry.path(), &|_| kind);
    }
    Ok(count.kept.into_iter().filter(|kept| kept.files > 0).collect())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Count {
    seen: HashSet<(u64, u64)>,
    kept: [Kept; Kind::ALL.len()],
}

impl Count {
    /// What vanishes meanwhile counts no more.
    fn tree(&mut self, path: &Path, kind: &dyn Fn(&Path) -> Kind) {
        let Ok(metadata) = path.symlink_metadata() else { return };
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                self.tree(&entry.path(), kind);
            }
            return;
        }
        // Locks and marks are not what people ask for.
        let mark = metadata.len() == 0 || name_of(path) == KEPT || name_of(path) == "lock";
        if mark || !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        let kind = kind(path);
        let kept = self.kept.iter_mut().find(|k| k.kind == kind).expect("all kinds are there");
        kept.files += 1;
        kept.bytes += metadata.blocks() * 512;
    }
}
