//! The base images of one home: `<home>/bases/<name>-<digest>/{disk.qcow2, base.json, packages.txt}`.
//!
//! A folder appears whole, by one rename, and never changes: what was built on a
//! base keeps its disk when the base is built anew.

use super::BaseError;
use crate::model::{Architecture, Firmware};
use crate::support::files;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const RECORD: &str = "base.json";
pub const DISK: &str = "disk.qcow2";
pub const PACKAGES: &str = "packages.txt";
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

    /// Every base image, by name, the newest of a name first.
    pub fn list(&self) -> Result<Vec<BaseImage>, BaseError> {
        let folder = self.folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(BaseError::Store { doing: "reading", path: folder, source }),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.join(RECORD).is_file() {
                found.push(read(&path)?);
            }
        }
        found.sort_by(|a, b| {
            a.name.cmp(&b.name).then(b.created.cmp(&a.created)).then(a.digest.cmp(&b.digest))
        });
        Ok(found)
    }

    /// The newest base of that name, or the one whose digest starts so ("sha256:" may be left out,
    /// at least 8 digits).
    pub fn find(&self, wanted: &str) -> Result<Option<BaseImage>, BaseError> {
        let all = self.list()?;
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
        let error = |source| BaseError::Store { doing: "removing", path: image.folder.clone(), source };
        // Without its record the folder is no base image any more, whatever happens next.
        std::fs::remove_file(image.folder.join(RECORD)).map_err(error)?;
        std::fs::remove_dir_all(&image.folder).map_err(error)
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
    let file_size = std::fs::metadata(&disk)
        .map_err(|source| BaseError::Store { doing: "reading", path: disk.clone(), source })?
        .len();
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
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let image = store.add(&prepared(dir.path(), "a", "1", 1)).unwrap();
        std::fs::write(image.folder.join(RECORD), "{").unwrap();
        let error = store.list().unwrap_err().to_string();
        assert!(error.contains("base.json"), "{error}");
    }
}
