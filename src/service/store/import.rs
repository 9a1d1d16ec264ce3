//! Taking in layers that another home exported. The file may be anybody's: what it says is checked before
//! anything is written, every disk before it gets a row, and a disk may name nothing but what it was recorded
//! to stand on.

use super::bundle::{self, Disk, Entry, Record, Table, refused};
use super::export::Progress;
use super::io;
use crate::base::{BaseImage, DISK};
use crate::catalog::artifact::Artifact;
use crate::catalog::layer::Layer;
use crate::catalog::{Catalog, CatalogError};
use crate::disk;
use crate::model::{DiskFormat, Failure, FailureKind};
use crate::service::{Service, run};
use crate::support::wait::Patience;
use crate::support::{clock, files};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Left free on the host beyond what is written.
const SPACE_MARGIN: u64 = 64 << 20;

/// What was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub layers: usize,
    /// Layers whose key was here already: they stay as they are.
    pub known: usize,
    pub disks: usize,
    pub bytes: u64,
    /// Base images that came along.
    pub bases: Vec<String>,
}

/// Each layer is taken in whole or not at all; a second time changes nothing.
pub async fn import(
    service: &Service,
    file: &Path,
    progress: Progress,
    patience: &Patience,
) -> Result<Imported, Failure> {
    let (folder, _lock) = run::new_folder(service, "import", None, false)?;
    let work = Work {
        catalog: service.catalog.clone(),
        bases: service.bases.clone(),
        folder: folder.clone(),
        patience: patience.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let file = file.to_owned();
    let task = tokio::task::spawn_blocking(move || work.import(&file, progress));
    let imported = task.await.map_err(|e| Failure::new(FailureKind::Internal, e.to_string()));
    run::remove(&folder)?;
    // Disks that came before something went wrong and that no layer needs.
    service.catalog.collect()?;
    imported?
}

struct Work {
    catalog: Arc<Catalog>,
    bases: crate::base::Store,
    /// Of its own, in the home folder; what it pins stays as long as it is there.
    folder: PathBuf,
    patience: Patience,
    runtime: tokio::runtime::Handle,
}

impl Work {
    fn import(&self, path: &Path, mut progress: Progress) -> Result<Imported, Failure> {
        let file = File::open(path).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => FailureKind::NotFound,
                _ => FailureKind::Environment,
            };
            Failure::new(kind, format!("cannot open {}: {e}", path.display()))
        })?;
        let (table, mut rest) = bundle::open(BufReader::new(file))?;
        let mut imported = Imported::default();
        let mut new = Vec::new();
        for layer in &table.layers {
            match self.catalog.read(|t| t.find_layer(&layer.key))? {
                Some(_) => imported.known += 1,
                None => new.push(layer),
            }
        }
        let wanted = self.wanted(&table, &new)?;
        self.check_space(&table, &wanted)?;
        let total = table.disks.iter().filter(|d| d.follows).map(|d| d.bytes).sum();
        let mut done = 0;
        for disk in &table.disks {
            let is_wanted = wanted.contains(disk.digest.as_str());
            let target = self.folder.join(DISK);
            if disk.follows {
                let mut tell = |count: u64| {
                    done += count;
                    progress(done, total);
                };
                let target = is_wanted.then_some(&*target);
                self.receive(&mut rest, disk, target, &mut tell)?;
            }
            let layers: Vec<&Entry> = new.iter().copied().filter(|l| l.disk == disk.digest).collect();
            match (&disk.base, is_wanted) {
                (Some(base), true) => {
                    if let Some(record) = &base.record {
                        self.add_base(disk, &base.name, record, &target)?;
                        imported.bases.push(base.name.clone());
                    }
                    self.stand_on_base(disk)?;
                }
                (None, true) => {
                    self.take_in(disk, &target, &layers)?;
                    imported.disks += 1;
                    imported.bytes += disk.bytes;
                }
                (_, false) => self.put(disk, &layers)?,
            }
            imported.layers += layers.len();
        }
        match rest.read(&mut [0]) {
            Ok(0) => Ok(imported),
            Ok(_) => Err(refused("something follows its last disk")),
            Err(e) => Err(refused(e)),
        }
    }

    /// Disks that new layers need and that are not here.
    fn wanted<'t>(&self, table: &'t Table, new: &[&Entry]) -> Result<BTreeSet<&'t str>, Failure> {
        let disks: BTreeMap<&str, &Disk> = table.disks.iter().map(|d| (d.digest.as_str(), d)).collect();
        let mut wanted = BTreeSet::new();
        for layer in new {
            let mut next = disks.get(layer.disk.as_str());
            while let Some(disk) = next {
                let known = self.catalog.write(|t| {
                    let known = t.find_artifact(&disk.digest)?.is_some();
                    if known {
                        t.pin_for_run(&run::run_name(&self.folder), &disk.digest)?;
                    }
                    Ok::<_, CatalogError>(known)
                })?;
                if known {
                    // From here down all is here. It stays so until the end.
                    break;
                }
                if !wanted.insert(disk.digest.as_str()) {
                    break;
                }
                if let (Some(base), false) = (&disk.base, disk.follows)
                    && self.base(disk)?.is_none()
                {
                    let message = format!(
                        "the base image {} with the disk sha256 {} is not here",
                        base.name, disk.digest
                    );
                    return Err(Failure::new(FailureKind::NotFound, message)
                        .hint("The layers stand on that very disk: export them with --with-base, or import it first."));
                }
                next = disk.backing.as_ref().and_then(|below| disks.get(below.as_str()));
            }
        }
        Ok(wanted)
    }

    fn check_space(&self, table: &Table, wanted: &BTreeSet<&str>) -> Result<(), Failure> {
        let follow = table.disks.iter().filter(|d| d.follows && wanted.contains(d.digest.as_str()));
        let needed = follow.map(|d| d.bytes).fold(SPACE_MARGIN, u64::saturating_add);
        let free = files::free_space(&self.folder).unwrap_or(u64::MAX);
        if free >= needed {
            return Ok(());
        }
        let message = format!("the layers take {} MiB, and {} MiB are free", needed >> 20, free >> 20);
        Err(Failure::new(FailureKind::Environment, message)
            .hint("Make room where kiln's home folder is: kiln store prune, kiln image remove NAME."))
    }

    /// Reads a disk's bytes: exactly so many, of that digest. Without a target they are passed over.
    fn receive(
        &self,
        source: &mut dyn Read,
        disk: &Disk,
        target: Option<&Path>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let mut file = match target {
            Some(path) => Some((File::create(path).map_err(|e| io("make", path, &e))?, path)),
            None => None,
        };
        let (mut left, mut sum, mut buffer) = (disk.bytes, Sha256::new(), vec![0; 1 << 18]);
        let begun = Instant::now();
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = source.read(&mut buffer[..most]).map_err(refused)?;
            if count == 0 {
                return Err(refused(format!("it ends within the disk {:.12}", disk.digest)));
            }
            if let Some((file, path)) = &mut file {
                sum.update(&buffer[..count]);
                file.write_all(&buffer[..count]).map_err(|e| io("write", path, &e))?;
            }
            left -= count as u64;
            tell(count as u64);
            self.patience.check("the import", begun).map_err(|e| Failure::from_error((&e).into(), &e))?;
        }
        let digest: String = sum.finalize().iter().map(|b| format!("{b:02x}")).collect();
        match file {
            Some(_) if digest != disk.digest => {
                Err(refused(format!("the disk {:.12} is not what its digest says", disk.digest)))
            }
            _ => Ok(()),
        }
    }

    /// A disk from outside names no file but the one that it stands on, in the store.
    fn check_header(&self, path: &Path, disk: &Disk, below: Option<&Artifact>) -> Result<(), Failure> {
        let info = self.runtime.block_on(disk::info(path, DiskFormat::Qcow2, &self.patience))?;
        let named = (info.backing, info.backing_format);
        let expected = (below.map(|a| PathBuf::from(a.file_name())), below.map(|a| a.format.clone()));
        if named != expected || !info.data_files.is_empty() || info.virtual_size != disk.virtual_size {
            let what = format!("the disk {:.12} does not stand on what the file says", disk.digest);
            return Err(refused(what));
        }
        Ok(())
    }

    fn take_in(&self, disk: &Disk, path: &Path, layers: &[&Entry]) -> Result<(), Failure> {
        let backing = disk.backing.as_deref().unwrap_or_default();
        let below = self.catalog.read(|t| t.artifact(backing))?;
        self.check_header(path, disk, Some(&below))?;
        let artifact = Artifact {
            digest: disk.digest.clone(),
            format: DiskFormat::Qcow2.as_str().into(),
            bytes: disk.bytes,
            virtual_size: disk.virtual_size,
            backing: disk.backing.clone(),
            file: disk.file(),
        };
        let run = run::run_name(&self.folder);
        self.catalog.take_in(path, &artifact, |t| t.pin_for_run(&run, &artifact.digest))?;
        self.put(disk, layers)
    }

    /// The rows of layers whose disk is here.
    fn put(&self, disk: &Disk, layers: &[&Entry]) -> Result<(), Failure> {
        if layers.is_empty() {
            return Ok(());
        }
        let artifact = self.catalog.read(|t| t.artifact(&disk.digest))?;
        let modified = self.catalog.modified(&artifact)?;
        self.catalog.write(|t| {
            for entry in layers {
                // Another import may have been first.
                if t.find_layer(&entry.key)?.is_none() {
                    t.put_layer(&Layer {
                        key: entry.key.clone(),
                        disk: entry.disk.clone(),
                        modified,
                        recipe: entry.recipe.clone(),
                        component: entry.component.clone(),
                        position: entry.position,
                        parts: entry.parts.clone(),
                        build: entry.build.clone(),
                        created: 0,
                        used: 0,
                    })?;
                }
            }
            Ok::<_, CatalogError>(())
        })?;
        Ok(())
    }

    fn base(&self, disk: &Disk) -> Result<Option<BaseImage>, Failure> {
        let all = self.bases.list().map_err(Failure::from)?;
        Ok(all.into_iter().find(|b| b.digest.strip_prefix("sha256:") == Some(&disk.digest)))
    }

    fn add_base(&self, disk: &Disk, name: &str, record: &Record, path: &Path) -> Result<(), Failure> {
        if self.base(disk)?.is_some() {
            return Ok(());
        }
        self.check_header(path, disk, None)?;
        let folder = self.folder.join("base");
        std::fs::create_dir_all(&folder).map_err(|e| io("make", &folder, &e))?;
        let own = folder.join(DISK);
        std::fs::rename(path, &own).map_err(|e| io("move", path, &e))?;
        let architecture = record.architecture.parse().map_err(refused)?;
        let firmware =
            record.firmware.iter().map(|f| f.parse()).collect::<Result<_, _>>().map_err(refused)?;
        self.bases
            .add(&BaseImage {
                name: name.into(),
                description: record.description.clone(),
                architecture,
                firmware,
                digest: format!("sha256:{}", disk.digest),
                disk: own,
                virtual_size: disk.virtual_size,
                file_size: disk.bytes,
                // The newest of a name is the one that recipes mean: none comes from the future.
                created: record.created.min(clock::now_ms()),
                origin: record.origin.clone(),
                folder,
            })
            .map_err(Failure::from)?;
        Ok(())
    }

    /// The base's disk becomes an artifact that layers can stand on.
    fn stand_on_base(&self, disk: &Disk) -> Result<(), Failure> {
        let base = self.base(disk)?.ok_or_else(|| {
            Failure::new(FailureKind::Conflict, "the base image of the layers has just been removed")
        })?;
        let artifact = Artifact {
            digest: disk.digest.clone(),
            format: DiskFormat::Qcow2.as_str().into(),
            bytes: base.file_size,
            virtual_size: base.virtual_size,
            backing: None,
            file: None,
        };
        Ok(self.catalog.write(|t| {
            self.catalog.adopt_file(&base.disk, &artifact.format, &artifact.digest)?;
            t.add_artifact(&artifact)?;
            t.pin_for_run(&run::run_name(&self.folder), &artifact.digest)
        })?)
    }
}
