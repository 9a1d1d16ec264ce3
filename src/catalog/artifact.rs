//! Artifacts: read-only files by digest, in one folder, so that an overlay names its
//! backing file by its bare name and the home folder can be moved.
//!
//! What pins an artifact is a row that refers to it: an image's disk or parent, a layer, the pin of a
//! build or a run, another artifact that is an overlay on it. [`Catalog::collect`] drops the rest.

use super::{Catalog, CatalogError, Doing, Result, Transaction};
use crate::model::Inventory;
use rusqlite::{OptionalExtension, Row};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Name of the disk format; the file's extension.
    pub format: String,
    /// Length of the file.
    pub bytes: u64,
    /// Size of the disk that it holds.
    pub virtual_size: u64,
    /// Digest of the artifact it is an overlay on.
    pub backing: Option<String>,
    /// Its file's name where that is not digest and format: a layer is named before its content is known,
    /// for what stands on it names it.
    pub file: Option<String>,
}

const COLUMNS: &str = "digest, format, bytes, virtual_size, backing, file";

fn artifact(r: &Row) -> rusqlite::Result<Artifact> {
    Ok(Artifact {
        digest: r.get(0)?,
        format: r.get(1)?,
        bytes: r.get(2)?,
        virtual_size: r.get(3)?,
        backing: r.get(4)?,
        file: r.get(5)?,
    })
}

impl Artifact {
    /// Its file's name inside the artifact folder.
    pub fn file_name(&self) -> String {
        self.file.clone().unwrap_or_else(|| format!("{}.{}", self.digest, self.format))
    }
}

/// SHA-256 of bytes, in hex.
pub fn digest_bytes(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Catalog {
    pub fn artifact_path(&self, artifact: &Artifact) -> PathBuf {
        self.home().artifacts().join(artifact.file_name())
    }

    /// When its file was written, in nanoseconds since 1970: what was not looked into since then is told by it
    /// and by its length.
    pub fn modified(&self, artifact: &Artifact) -> Result<i64> {
        use std::os::unix::fs::MetadataExt;
        let path = self.artifact_path(artifact);
        let metadata = std::fs::metadata(&path);
        let metadata = metadata.map_err(|source| CatalogError::Io { doing: "find", path, source })?;
        Ok(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec())
    }

    /// Where the block list of the disk of that digest is kept, in the list's text form; what
    /// it says of the disk includes everything that the disk stands on. It goes with the artifact.
    pub fn block_list_path(&self, digest: &str) -> PathBuf {
        self.home().artifacts().join(block_list_name(digest))
    }

    /// Where the inventory of the packages on the disk of that digest is kept. It goes with the artifact.
    pub fn inventory_path(&self, digest: &str) -> PathBuf {
        self.home().artifacts().join(inventory_name(digest))
    }

    /// None when there is none, or another look may find more.
    pub fn inventory(&self, digest: &str) -> Result<Option<Inventory>> {
        let path = self.inventory_path(digest);
        match std::fs::read_to_string(&path) {
            Ok(text) => match Inventory::parse(&text) {
                Some(inventory) => Ok(Some(inventory).filter(|i| !i.may_be_read_yet())),
                None if Inventory::is_old(&text) => Ok(None),
                None => Err(CatalogError::Corrupt(format!("{} is no inventory", path.display()))),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CatalogError::Io { doing: "read", path, source }),
        }
    }

    /// Moves a finished file, on the same file system as the home folder, into the store and
    /// makes it read-only. It is durable on return; the row is the caller's next write, and
    /// until then an undo row has to speak for it. A file of the same digest is replaced by
    /// its equal. Blocks for as long as the disk takes.
    pub fn store_file(&self, file: &Path, format: &str, digest: &str) -> Result<PathBuf> {
        self.store_file_as(file, &format!("{digest}.{format}"))
    }

    /// As [`Catalog::store_file`], under a name of the caller's.
    pub fn store_file_as(&self, file: &Path, name: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Io { doing, path, source }
        };
        let opened = File::open(file).map_err(io("open", file))?;
        opened.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(io("make read-only", file))?;
        opened.sync_all().map_err(io("flush to disk", file))?;
        let folder = self.home().artifacts();
        let target = folder.join(name);
        std::fs::rename(file, &target).map_err(io("move into the store", file))?;
        File::open(&folder).and_then(|f| f.sync_all()).map_err(io("flush to disk", &folder))?;
        Ok(target)
    }

    /// Moves a finished file of the home folder into the store, under the name that its row gives it, and
    /// does `more` in the transaction that writes the row: nobody sees the one without the other. Where the
    /// same content is there already, that one is used. Blocks for as long as the disk takes.
    pub fn take_in(
        &self,
        file: &Path,
        artifact: &Artifact,
        more: impl FnOnce(&Transaction) -> Result<()>,
    ) -> Result<Artifact> {
        // What takes long comes before the lock.
        File::open(file).and_then(|f| f.sync_all()).map_err(|source| CatalogError::Io {
            doing: "flush to disk",
            path: file.to_owned(),
            source,
        })?;
        self.write(|t| {
            let name = artifact.file_name();
            let stored = match (t.find_artifact(&artifact.digest)?, t.artifact_of_file(&name)?) {
                (Some(same), _) => {
                    remove_file(file)?;
                    same
                }
                (None, Some(other)) => {
                    let by = format!("the disk sha256 {}", other.digest);
                    let next = "kiln store verify says what the file is.".into();
                    return Err(CatalogError::InUse { what: format!("the file {name}"), by, next });
                }
                (None, None) => {
                    self.store_file_as(file, &name)?;
                    t.add_artifact(artifact)?;
                    artifact.clone()
                }
            };
            more(t)?;
            Ok(stored)
        })
    }

    /// Takes in a read-only file that is kept elsewhere in the home folder too: a base image's
    /// disk. It is linked, so it costs no space and outlives its first name. The digest is what
    /// its owner measured; the row is the caller's next write.
    pub fn adopt_file(&self, file: &Path, format: &str, digest: &str) -> Result<()> {
        let target = self.home().artifacts().join(format!("{digest}.{format}"));
        match std::fs::hard_link(file, &target) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                Err(CatalogError::Io { doing: "link into the store", path: file.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Drops artifacts that no row refers to, with their files, newest overlays first.
    /// Returns their digests.
    pub fn collect(&self) -> Result<Vec<String>> {
        let mut dropped = Vec::new();
        self.write(|t| t.release_pins())?;
        loop {
            let round = self.write(|t| t.unpin_round())?;
            if round.is_empty() {
                return Ok(dropped);
            }
            dropped.extend(round.into_iter().map(|a| a.digest));
        }
    }

    /// Removes files that have neither a row nor an undo row: links made for a build that died
    /// before it had rows. Not to be called while a build is being born.
    pub fn sweep_artifacts(&self) -> Result<()> {
        self.write(|t| {
            let folder = self.home().artifacts();
            let io = |source| CatalogError::Io { doing: "list", path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(io)? {
                let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
                // What is being written beside its final place starts with a dot.
                let stem = name.trim_start_matches('.').split('.').next().unwrap_or_default();
                if !t.is_claimed(stem)? && !t.is_undone(stem)? {
                    remove_file(&folder.join(&name))?;
                }
            }
            Ok(())
        })
    }

    /// Removes a stored file that got no row (`name` is digest and format); none is fine, and
    /// one that a row speaks for stays.
    pub fn remove_unclaimed(&self, file_name: &str) -> Result<()> {
        let stem = file_name.split('.').next().unwrap_or_default();
        self.write(|t| match t.is_claimed(stem)? {
            true => Ok(()),
            false => remove_file(&t.home.artifacts().join(file_name)),
        })
    }
}

fn block_list_name(digest: &str) -> String {
    format!("{digest}.blocks")
}

fn inventory_name(digest: &str) -> String {
    format!("{digest}.packages")
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(CatalogError::Io { doing: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Transaction<'_> {
    /// Writes the row of a stored file. One that is there already is the same.
    pub fn add_artifact(&self, artifact: &Artifact) -> Result<()> {
        let path = self.home.artifacts().join(artifact.file_name());
        std::fs::metadata(&path).map_err(|source| CatalogError::Io { doing: "find", path, source })?;
        self.sql
            .prepare(
                "INSERT INTO artifacts (digest, format, bytes, virtual_size, backing, file, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (digest) DO NOTHING",
            )
            .and_then(|mut s| {
                s.execute((
                    &artifact.digest,
                    &artifact.format,
                    artifact.bytes as i64,
                    artifact.virtual_size as i64,
                    &artifact.backing,
                    &artifact.file,
                    self.now,
                ))
            })
            .or_doing("add an artifact")?;
        Ok(())
    }

    /// A row speaks for the file of that name up to its first dot, and so for what lies beside it.
    fn is_claimed(&self, stem: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM artifacts WHERE digest = ?1 OR file = ?1 || '.' || format)";
        self.sql.query_row(sql, [stem], |r| r.get(0)).or_doing("read the artifacts")
    }

    /// Bytes of the artifact and of what it stands on, without the base image below.
    pub fn bytes_above_base(&self, digest: &str) -> Result<u64> {
        let chain = self.chain_of(digest)?;
        Ok(chain.iter().filter(|a| a.backing.is_some()).map(|a| a.bytes).sum())
    }

    /// The artifact and what it stands on, down to the one that stands on nothing.
    pub fn chain_of(&self, digest: &str) -> Result<Vec<Artifact>> {
        let mut chain = vec![self.artifact(digest)?];
        while let Some(below) = chain.last().and_then(|a| a.backing.clone()) {
            chain.push(self.artifact(&below)?);
        }
        Ok(chain)
    }

    pub fn find_artifact(&self, digest: &str) -> Result<Option<Artifact>> {
        self.sql
            .query_row(&format!("SELECT {COLUMNS} FROM artifacts WHERE digest = ?1"), [digest], artifact)
            .optional()
            .or_doing("read an artifact")
    }

    pub fn artifact(&self, digest: &str) -> Result<Artifact> {
        self.find_artifact(digest)?.ok_or_else(|| CatalogError::NotFound {
            kind: "artifact",
            name: digest.into(),
            known: Vec::new(),
        })
    }

    /// Bytes free on the root file system of the disk, when that was noted.
    pub fn free_space_of(&self, digest: &str) -> Result<Option<u64>> {
        let found: Option<Option<i64>> = self
            .sql
            .query_row("SELECT free FROM artifacts WHERE digest = ?1", [digest], |r| r.get(0))
            .optional()
            .or_doing("read an artifact")?;
        Ok(found.flatten().map(|free| free as u64))
    }

    pub fn note_free_space(&self, digest: &str, free: u64) -> Result<()> {
        self.sql
            .execute("UPDATE artifacts SET free = ?2 WHERE digest = ?1", (digest, free as i64))
            .or_doing("note a disk's free space")?;
        Ok(())
    }

    /// The artifact that a file of the artifact folder is.
    pub fn artifact_of_file(&self, name: &str) -> Result<Option<Artifact>> {
        let sql = format!("SELECT {COLUMNS} FROM artifacts WHERE file = ?1 OR digest || '.' || format = ?1");
        self.sql.query_row(&sql, [name], artifact).optional().or_doing("read an artifact")
    }

    /// Digests that an image, a build or a run refers to itself.
    pub fn held_artifacts(&self) -> Result<Vec<String>> {
        let sql = "SELECT disk FROM images WHERE disk IS NOT NULL
                   UNION SELECT parent FROM images WHERE parent IS NOT NULL UNION SELECT disk FROM pins";
        self.rows("list what is needed", sql, [], |r| r.get(0))
    }

    pub fn list_artifacts(&self) -> Result<Vec<Artifact>> {
        let sql = format!("SELECT {COLUMNS} FROM artifacts ORDER BY created, digest");
        self.rows("list artifacts", &sql, [], artifact)
    }

    /// Deletes and returns the rows that nothing refers to now.
    fn unpin_round(&self) -> Result<Vec<Artifact>> {
        let free = "NOT EXISTS (SELECT 1 FROM images WHERE disk = a.digest OR parent = a.digest)
             AND NOT EXISTS (SELECT 1 FROM layers WHERE disk = a.digest)
             AND NOT EXISTS (SELECT 1 FROM pins WHERE disk = a.digest)
             AND NOT EXISTS (SELECT 1 FROM artifacts o WHERE o.backing = a.digest)";
        let sql = format!("SELECT {COLUMNS} FROM artifacts a WHERE {free}");
        let rows = self.rows("look for unused artifacts", &sql, [], artifact)?;
        for row in &rows {
            // The file goes first, under the write lock: a build that stores the same bytes
            // now sees in `add_artifact` that they are gone.
            let folder = self.home.artifacts();
            remove_file(&folder.join(row.file_name()))?;
            remove_file(&folder.join(block_list_name(&row.digest)))?;
            remove_file(&folder.join(inventory_name(&row.digest)))?;
            self.sql
                .execute("DELETE FROM artifacts WHERE digest = ?1", [&row.digest])
                .or_doing("drop an artifact")?;
        }
        Ok(rows)
    }
}
