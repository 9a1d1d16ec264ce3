//! The base images of one home: `<home>/bases/<name>-<digest>/{disk.qcow2, base.json, packages.txt}`.
//!
//! A folder appears whole, by one rename, and never changes: what was built on a
//! base keeps its disk when the base is built anew. It goes by one rename, too.

use super::BaseError;
use crate::model::{Architecture, Firmware};
use crate::support::files;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const RECORD: &str = "base.json";
pub const DISK: &str = "disk.qcow2";
pub const PACKAGES: &str = "packages.txt";
/// Folders of base images that were removed, in the home's folder for temporary files.
const REMOVED: &str = "base-removed-";
/// A record is short; more than this was not written by kiln.
const RECORD_LIMIT: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
}

/// A base image that is there to be used.
#[derive(Clone, Debug)]
pub struct BaseImage {
    pub name: String,
    pub description: String,
    pub architecture: Architecture,
    pub firmware: Vec<Firmware>,
    /// "sha256:" and 64 hex digits: of the disk file.
    pub digest: String,
    /// The qcow2 disk; never written to.
    pub disk: PathBuf,
    /// Bytes the guest sees.
    pub virtual_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Milliseconds since 1970.
    pub created: i64,
    pub origin: Origin,
    /// Folder of the base image; more files lie beside the disk.
    pub folder: PathBuf,
}

/// The folder of a base image that cannot be read.
#[derive(Debug)]
pub struct Damaged {
    pub folder: PathBuf,
    pub problem: BaseError,
}

impl Damaged {
    /// The folder's name, which says what it was: `NAME-DIGITS`.
    pub fn title(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What its base image was called.
    fn name(&self) -> String {
        let title = self.title();
        title.rsplit_once('-').map_or(title.clone(), |(name, _)| name.to_owned())
    }

    /// How the digest of its disk began; empty where the folder does not say.
    pub fn digits(&self) -> String {
        let title = self.title();
        let digits = title.rsplit_once('-').map_or("", |(_, digits)| digits);
        let is_digest = digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_digest { digits.to_owned() } else { String::new() }
    }
}

/// Where a base image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// Built from packages.
    #[serde(rename_all = "camelCase")]
    Packages {
        suite: String,
        sources: Vec<String>,
        /// Digest of everything that went in but the archive's state.
        inputs: String,
        package_count: usize,
    },
    /// Made by somebody else.
    #[serde(rename_all = "camelCase")]
    Import {
        /// The file's name, without its folder.
        file: String,
        format: String,
        /// SHA-256 of the file as it came, 64 hex digits.
        digest: String,
    },
    /// Published by a vendor.
    #[serde(rename_all = "camelCase")]
    Pull {
        /// Name of the definition.
        definition: String,
        /// The vendor's own: a date, mostly.
        version: Option<String>,
        address: String,
        /// Where the list of digests is.
        checksums: String,
        format: String,
        /// SHA-256 of the file as it came, 64 hex digits.
        digest: String,
        /// What the vendor's list said: "sha512:" and digits.
        listed: String,
        /// Fingerprint of the key that signed the list.
        signed_by: Option<String>,
        /// Why nobody could tell that it is the vendor's; absent when the signature is good.
        unverified: Option<String>,
    },
}

/// The record's form on disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    schema: u32,
    name: String,
    description: String,
    architecture: String,
    firmware: Vec<String>,
    digest: String,
    virtual_size: u64,
    created: i64,
    origin: Origin,
}

impl BaseImage {
    /// The packages on the disk, a line each: name, version, architecture. Only a built base has the file.
    pub fn packages(&self) -> PathBuf {
        self.folder.join(PACKAGES)
    }
}

impl Store {
    pub fn new(home: &Path) -> Store {
        Store { home: home.to_owned() }
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    fn folder(&self) -> PathBuf {
        self.home.join("bases")
    }

    /// Every base image, by name, the newest of a name first. Damaged ones are passed over.
    pub fn list(&self) -> Result<Vec<BaseImage>, BaseError> {
        Ok(self.survey()?.0)
    }

    /// As [`Store::list`], and those that cannot be read.
    pub fn survey(&self) -> Result<(Vec<BaseImage>, Vec<Damaged>), BaseError> {
        let folder = self.folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(source) => return Err(BaseError::Store { doing: "reading", path: folder, source }),
        };
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        for folder in entries.flatten().map(|e| e.path()).filter(|p| p.join(RECORD).is_file()) {
            match read(&folder) {
                Ok(image) => found.push(image),
                // Removed meanwhile.
                Err(_) if !folder.join(RECORD).exists() => {}
                Err(problem) => damaged.push(Damaged { folder, problem }),
            }
        }
        damaged.sort_by(|a, b| a.folder.cmp(&b.folder));
        found.sort_by(|a, b| {
            a.name.cmp(&b.name).then(b.created.cmp(&a.created)).then(a.digest.cmp(&b.digest))
        });
        Ok((found, damaged))
    }

    /// The damaged base image of that title, or of that name where no other has it.
    pub fn damaged(&self, wanted: &str) -> Result<Option<Damaged>, BaseError> {
        let (all, damaged) = self.survey()?;
        let named = all.iter().any(|b| b.name == wanted);
        Ok(damaged.into_iter().find(|d| d.title() == wanted || !named && d.name() == wanted))
    }

    /// The newest base of that name, or the one whose digest starts so ("sha256:" may be left out,
    /// at least 8 digits).
    ///
    /// # Errors
    /// One of that name is damaged: it may be the one that is meant.
    pub fn find(&self, wanted: &str) -> Result<Option<BaseImage>, BaseError> {
        let (all, damaged) = self.survey()?;
        if let Some(damaged) = damaged.into_iter().find(|d| d.name() == wanted || d.title() == wanted) {
            return Err(damaged.problem);
        }
        if let Some(found) = all.iter().find(|b| b.name == wanted) {
            return Ok(Some(found.clone()));
        }
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let is_digest = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let hit = |b: &&BaseImage| is_digest && b.digest["sha256:".len()..].starts_with(digits);
        Ok(all.iter().find(hit).cloned())
    }

    /// As [`Store::find`]; nothing found is an error.
    pub fn get(&self, wanted: &str) -> Result<BaseImage, BaseError> {
        self.find(wanted)?.ok_or_else(|| BaseError::NotFound { name: wanted.to_owned() })
    }

    /// Takes in a folder that holds the disk and whatever lies beside it. `image.folder` and
    /// `image.disk` are where it lies now; the result says where it lies then.
    pub fn add(&self, image: &BaseImage) -> Result<BaseImage, BaseError> {
        let error = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BaseError::Store { doing, path, source }
        };
        let record_file = image.folder.join(RECORD);
        std::fs::write(&record_file, record(image)).map_err(error("writing", &record_file))?;
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        std::fs::set_permissions(&image.disk, read_only).map_err(error("write-protecting", &image.disk))?;
        sync_all(&image.folder).map_err(error("writing", &image.folder))?;

        let bases = self.folder();
        std::fs::create_dir_all(&bases).map_err(error("making", &bases))?;
        let digits = &image.digest["sha256:".len()..][..12];
        let target = bases.join(format!("{}-{digits}", image.name));
        if target.join(RECORD).is_file() {
            // The same disk under the same name: it is there already, perhaps from elsewhere.
            let there = read(&target)?;
            return match there.origin == image.origin {
                true => Ok(there),
                false => self.record_again(&BaseImage { origin: image.origin.clone(), ..there }),
            };
        }
        if target.exists() {
            // Without a record: what a removal left that came to no end.
            self.discard(&target)?;
        }
        std::fs::rename(&image.folder, &target).map_err(error("making", &target))?;
        std::fs::File::open(&bases).and_then(|f| f.sync_all()).map_err(error("writing", &bases))?;
        read(&target)
    }

    /// Writes anew what is known of a base image that is there.
    pub fn record_again(&self, image: &BaseImage) -> Result<BaseImage, BaseError> {
        let path = image.folder.join(RECORD);
        files::write_atomic(&path, &record(image)).map_err(|source| BaseError::Store {
            doing: "writing",
            path,
            source,
        })?;
        read(&image.folder)
    }

    /// Removes one base image; the caller made sure that nothing depends on it.
    pub fn remove(&self, image: &BaseImage) -> Result<(), BaseError> {
        self.discard(&image.folder)
    }

    /// As [`Store::remove`], of one that cannot be read.
    pub fn remove_damaged(&self, damaged: &Damaged) -> Result<(), BaseError> {
        self.discard(&damaged.folder)
    }

    fn discard(&self, folder: &Path) -> Result<(), BaseError> {
        let error = |source| BaseError::Store { doing: "removing", path: folder.to_owned(), source };
        let tmp = self.home.join("tmp");
        std::fs::create_dir_all(&tmp).map_err(error)?;
        sweep(&tmp);
        // With this it is no base image any more. Should kiln die before the rest, the next one sweeps.
        for number in 0.. {
            let gone = tmp.join(format!("{REMOVED}{}-{number}", std::process::id()));
            match std::fs::rename(folder, &gone) {
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => continue,
                renamed => renamed.map_err(error)?,
            }
            files::sync_folder_of(folder).map_err(error)?;
            break;
        }
        sweep(&tmp);
        Ok(())
    }
}

/// Clears away what is left of base images that were removed. What cannot be removed now is tried again.
pub(super) fn sweep(tmp: &Path) {
    for entry in std::fs::read_dir(tmp).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(REMOVED) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn record(image: &BaseImage) -> Vec<u8> {
    let record = Record {
        schema: 1,
        name: image.name.clone(),
        description: image.description.clone(),
        architecture: image.architecture.to_string(),
        firmware: image.firmware.iter().map(|f| f.to_string()).collect(),
        digest: image.digest.clone(),
        virtual_size: image.virtual_size,
        created: image.created,
        origin: image.origin.clone(),
    };
    serde_json::to_vec_pretty(&record).expect("a record is plain data")
}

fn sync_all(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        std::fs::File::open(entry?.path())?.sync_all()?;
    }
    std::fs::File::open(folder)?.sync_all()
}

fn read(folder: &Path) -> Result<BaseImage, BaseError> {
    let path = folder.join(RECORD);
    let wrong = |what: String| BaseError::Record { path: path.clone(), what };
    let io = |source| BaseError::Store { doing: "reading", path: path.clone(), source };
    if std::fs::metadata(&path).map_err(io)?.len() > RECORD_LIMIT {
        return Err(wrong("it is too large".into()));
    }
    let bytes = std::fs::read(&path).map_err(io)?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if record.schema != 1 {
        return Err(wrong(format!("schema {} is of a newer kiln", record.schema)));
    }
    let hex = record.digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong(format!("`{}` is no digest", record.digest)));
    }
    let disk = folder.join(DISK);
    let file_size = match std::fs::metadata(&disk) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(wrong("its disk is missing".into()));
        }
        meta => {
            meta.map_err(|source| BaseError::Store { doing: "reading", path: disk.clone(), source })?.len()
        }
    };
    Ok(BaseImage {
        architecture: record.architecture.parse().map_err(wrong)?,
        firmware: record.firmware.iter().map(|f| f.parse()).collect::<Result<_, _>>().map_err(wrong)?,
        name: record.name,
        description: record.description,
        digest: record.digest,
        disk,
        virtual_size: record.virtual_size,
        file_size,
        created: record.created,
        origin: record.origin,
        folder: folder.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(dir: &Path, name: &str, digit: &str, created: i64) -> BaseImage {
        let folder = dir.join(format!("new-{name}-{digit}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(DISK), b"disk").unwrap();
        BaseImage {
            name: name.into(),
            description: "d".into(),
            architecture: Architecture::X86_64,
            firmware: vec![Firmware::Bios],
            digest: format!("sha256:{}", digit.repeat(64)),
            disk: folder.join(DISK),
            virtual_size: 1 << 30,
            file_size: 4,
            created,
            origin: Origin::Packages {
                suite: "s".into(),
                sources: vec![],
                inputs: "i".into(),
                package_count: 1,
            },
            folder,
        }
    }

    #[test]
    fn the_newest_of_a_name_is_found_and_older_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert!(store.list().unwrap().is_empty());
        let old = store.add(&prepared(dir.path(), "a", "1", 100)).unwrap();
        let new = store.add(&prepared(dir.path(), "a", "2", 200)).unwrap();
        assert_eq!(store.find("a").unwrap().unwrap().digest, new.digest);
        assert_eq!(store.find("sha256:11111111").unwrap().unwrap().folder, old.folder);
        assert!(store.find("1111").unwrap().is_none(), "too short for a digest");
        assert!(old.disk.starts_with(dir.path().join("bases")) && old.disk.is_file());
        let again = store.add(&prepared(dir.path(), "a", "2", 300)).unwrap();
        assert_eq!(again.created, 200, "the same disk stays what it was");
        store.remove(&new).unwrap();
        assert_eq!(store.find("a").unwrap().unwrap().digest, old.digest);
        assert!(matches!(store.get("b"), Err(BaseError::NotFound { .. })));
    }

    #[test]
    fn a_damaged_base_is_passed_over_named_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let bad = store.add(&prepared(dir.path(), "a", "1", 1)).unwrap();
        store.add(&prepared(dir.path(), "b", "2", 1)).unwrap();
        std::fs::write(bad.folder.join(RECORD), "{").unwrap();
        let names = || store.list().unwrap().into_iter().map(|b| b.name).collect::<Vec<_>>();
        assert_eq!(names(), ["b"]);
        assert_eq!(store.find("b").unwrap().unwrap().name, "b");
        assert!(store.find("c").unwrap().is_none());
        let failure = crate::model::Failure::from(store.find("a").unwrap_err());
        let text = format!("{failure:?}");
        assert!(text.contains("base.json") && text.contains("kiln base remove a-111111111111"), "{text}");
        // Another of the name does not stand in for it.
        store.add(&prepared(dir.path(), "a", "3", 1)).unwrap();
        assert!(matches!(store.get("a"), Err(BaseError::Record { .. })));
        assert!(store.damaged("a").unwrap().is_none(), "the name is the other's");
        let damaged = store.damaged("a-111111111111").unwrap().unwrap();
        assert_eq!(damaged.digits(), "111111111111");
        store.remove_damaged(&damaged).unwrap();
        assert!(!bad.folder.exists());
        assert_eq!(store.get("a").unwrap().digest, format!("sha256:{}", "3".repeat(64)));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    /// Killed at any step of a removal: nothing is leaked, and the same base can come again.
    #[test]
    fn what_a_killed_removal_left_is_in_nobody_s_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let image = store.add(&prepared(dir.path(), "a", "1", 1)).unwrap();
        // As kiln did it once: first the record, then the rest.
        std::fs::remove_file(image.folder.join(RECORD)).unwrap();
        assert!(store.list().unwrap().is_empty());
        let again = store.add(&prepared(dir.path(), "a", "1", 2)).unwrap();
        assert_eq!((again.created, store.list().unwrap().len()), (2, 1));
        // Between the rename and the rest.
        let left = dir.path().join("tmp").join(format!("{REMOVED}1-0"));
        std::fs::rename(&again.folder, &left).unwrap();
        let other = store.add(&prepared(dir.path(), "b", "2", 1)).unwrap();
        store.remove(&other).unwrap();
        assert!(!left.exists());
        assert_eq!(std::fs::read_dir(dir.path().join("bases")).unwrap().count(), 0);
    }
}
