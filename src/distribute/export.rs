//! Export of a disk to files: read once, written in all wanted formats on the
//! way, read back, and only then given their names.

use super::error::ExportError;
use super::verify;
use crate::disk::Format;
use crate::disk::blocklist::{BlockList, Difference};
use crate::disk::reader::Reader;
use crate::disk::writer::{ExportFormat, Pool};
use crate::support::files::{self, Staged};
use crate::support::wait::Patience;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The part of an export's progress that is writing; the rest is reading back.
pub(super) const WRITING: f32 = 0.6;

/// The disk to export: the top of its chain.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub format: Format,
    /// What it must hold, where that is known; a disk that changed is not exported.
    pub blocks: Option<&'a BlockList>,
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub format: ExportFormat,
    pub target: PathBuf,
    /// A file that is there is replaced, once the new one is whole.
    pub replace: bool,
}

/// A file that is complete, verified and durable. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub format: ExportFormat,
    pub target: PathBuf,
    /// Size of the disk in it.
    pub virtual_size: u64,
    /// Length of the file.
    pub bytes: u64,
    /// What it takes on the host's disk; less than its length where it has holes.
    pub allocated: u64,
}

impl Export {
    /// What can be known to go wrong before any work is done.
    pub fn check(&self) -> Result<(), ExportError> {
        let folder = folder_of(&self.target);
        if !folder.is_dir() {
            return Err(ExportError::NoFolder { path: folder.to_owned() });
        }
        match std::fs::metadata(&self.target) {
            Ok(m) if m.is_dir() => Err(ExportError::IsFolder { path: self.target.clone() }),
            // Also a link that leads nowhere.
            _ if !self.replace && self.target.symlink_metadata().is_ok() => {
                Err(ExportError::Exists { path: self.target.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[derive(Debug)]
pub struct Report {
    /// What the disk holds.
    pub blocks: BlockList,
    /// In the order in which they were asked for.
    pub files: Vec<Exported>,
}

/// Writes the disk, backing files included, to every target. All come about or
/// none: each is read back by QEMU and compared with the block list before any
/// gets its name. `progress` is told parts of 1.
pub async fn export(
    source: Source<'_>,
    exports: &[Export],
    progress: &mut (dyn FnMut(f32) + Send),
    patience: &Patience,
) -> Result<Report, ExportError> {
    check_names(source.path, exports)?;
    // Threads at work notice when nobody waits for them any more.
    let work = Patience { deadline: patience.deadline, cancel: patience.cancel.child_token() };
    let _stop = work.cancel.clone().drop_guard();

    let reader = Reader::open(source.path, source.format, &work).await?;
    check_space(reader.size(), reader.data_blocks(), exports)?;
    let (sender, receiver) = watch::channel(0.0);
    let pass = Pass {
        reader,
        source: source.path.to_owned(),
        expected: source.blocks.cloned(),
        exports: exports.to_vec(),
        progress: sender.clone(),
    };
    let task = async {
        let pass = tokio::task::spawn_blocking(move || pass.run());
        let (blocks, written) = pass.await.expect("writing does not panic")?;
        let same = verify::all(&written, &blocks, &sender, &work).await;
        if matches!(same, Err(ExportError::Differs { .. })) {
            unchanged(source, &blocks, &work).await?;
        }
        same?;
        let publish = tokio::task::spawn_blocking(move || publish_all(written));
        Ok(Report { blocks, files: publish.await.expect("renaming does not panic")? })
    };
    told(task, receiver, progress).await
}

/// Tells a disk that is not what it was from files that are not what the disk is.
async fn unchanged(source: Source<'_>, blocks: &BlockList, patience: &Patience) -> Result<(), ExportError> {
    let found = BlockList::of(source.path, source.format, patience).await?;
    match blocks.difference(&found) {
        Some(difference) => Err(ExportError::Changed { path: source.path.to_owned(), difference }),
        None => Ok(()),
    }
}

/// Runs `task` and tells its progress meanwhile.
async fn told<T>(
    task: impl Future<Output = T>,
    mut receiver: watch::Receiver<f32>,
    progress: &mut (dyn FnMut(f32) + Send),
) -> T {
    tokio::pin!(task);
    loop {
        tokio::select! {
            biased;
            result = &mut task => {
                progress(*receiver.borrow_and_update());
                return result;
            }
            Ok(()) = receiver.changed() => progress(*receiver.borrow_and_update()),
        }
    }
}

fn check_names(source: &Path, exports: &[Export]) -> Result<(), ExportError> {
    let origin = std::fs::metadata(source).ok().map(|m| (m.dev(), m.ino()));
    for (number, export) in exports.iter().enumerate() {
        let path = &export.target;
        if exports[..number].iter().any(|e| e.target == *path) {
            return Err(ExportError::Twice { path: path.clone() });
        }
        if origin.is_some() && std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino())) == origin {
            return Err(ExportError::OntoItself { path: path.clone() });
        }
        export.check()?;
    }
    Ok(())
}

fn check_space(size: u64, data: &[Range<u64>], exports: &[Export]) -> Result<(), ExportError> {
    // By file system: several targets may share one.
    let mut needs: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for Export { format, target, .. } in exports {
        if size > format.max_size() {
            return Err(ExportError::TooLarge { format: *format, size });
        }
        let folder = folder_of(target);
        let device = std::fs::metadata(folder).map_err(|e| ExportError::write(target, e))?.dev();
        needs.entry(device).or_insert_with(|| (folder.to_owned(), 0)).1 += format.worst_case(size, data);
    }
    for (folder, needed) in needs.into_values() {
        let free = files::free_space(&folder).map_err(|e| ExportError::write(&folder, e))?;
        if free < needed {
            return Err(ExportError::NoSpace { folder, needed, free });
        }
    }
    Ok(())
}

/// A target that is written but has not got its name yet.
pub struct Written {
    pub export: Export,
    pub staged: Staged,
    pub virtual_size: u64,
    /// Says that the file is being worked on.
    _lock: File,
}

/// Removes what an export to the same target left when it was killed: a file that nobody has locked.
fn remove_abandoned(target: &Path) {
    let Some(name) = target.file_name().and_then(|n| n.to_str()) else { return };
    let start = format!(".{name}.");
    for entry in std::fs::read_dir(folder_of(target)).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let unfinished =
            other.to_str().is_some_and(|n| n.starts_with(&start) && n.ends_with(files::UNFINISHED));
        let free = |file: File| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if unfinished && File::open(entry.path()).is_ok_and(free) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The one pass over the disk's data.
struct Pass {
    reader: Reader,
    source: PathBuf,
    expected: Option<BlockList>,
    exports: Vec<Export>,
    progress: watch::Sender<f32>,
}

impl Pass {
    fn run(self) -> Result<(BlockList, Vec<Written>), ExportError> {
        let size = self.reader.size();
        let pool = Pool::new().map_err(ExportError::Threads)?;
        let mut written = Vec::new();
        let mut writers = Vec::new();
        for export in self.exports {
            let io = |source| ExportError::write(&export.target, source);
            remove_abandoned(&export.target);
            let staged = Staged::new(&export.target).map_err(io)?;
            let file = File::create_new(staged.path()).map_err(io)?;
            let lock = file.try_clone().map_err(io)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| io(e.into()))?;
            let writer = export.format.writer(file, size, &pool).map_err(io)?;
            writers.push((export.target.clone(), writer));
            let virtual_size = export.format.virtual_size(size);
            written.push(Written { export, staged, virtual_size, _lock: lock });
        }
        if let Some(expected) = &self.expected
            && expected.size() != size
        {
            let difference = Difference { sizes: Some((expected.size(), size)), blocks: Vec::new() };
            return Err(ExportError::Changed { path: self.source, difference });
        }
        let total: u64 = self.reader.data_blocks().iter().map(|r| r.end - r.start).sum();
        let mut found = BlockList::new(size);
        for (done, block) in (1u64..).zip(self.reader) {
            let (index, block) = block?;
            // What must be on the disk is compared when the files are read back: one digest of each block, not two.
            if self.expected.is_none() {
                found.insert(index, &block);
            }
            for (path, writer) in &mut writers {
                writer.write(index, &block).map_err(|e| ExportError::write(path, e))?;
            }
            self.progress.send_replace(WRITING * done as f32 / total as f32);
        }
        let blocks = self.expected.unwrap_or(found);
        let content = blocks.digest();
        for (path, mut writer) in writers {
            writer.finish(&content).map_err(|e| ExportError::write(&path, e))?;
        }
        Ok((blocks, written))
    }
}

/// Gives all their names, or none a name that was free.
fn publish_all(written: Vec<Written>) -> Result<Vec<Exported>, ExportError> {
    let mut files = Vec::new();
    let mut new = Vec::new();
    for one in written {
        match publish(one, &mut new) {
            Ok(exported) => files.push(exported),
            Err(e) => {
                for path in new {
                    let _ = std::fs::remove_file(path);
                }
                return Err(e);
            }
        }
    }
    Ok(files)
}

/// Notes the target in `new` where nothing had its name.
fn publish(written: Written, new: &mut Vec<PathBuf>) -> Result<Exported, ExportError> {
    let Written { export: Export { format, target, replace }, staged, virtual_size, _lock } = written;
    let io = |source: std::io::Error| match source.kind() {
        // It was not there when this began.
        std::io::ErrorKind::AlreadyExists => ExportError::Exists { path: target.clone() },
        _ => ExportError::write(&target, source),
    };
    if staged.commit_new(replace).map_err(io)? {
        new.push(target.clone());
    }
    let metadata = std::fs::metadata(&target).map_err(io)?;
    Ok(Exported { format, virtual_size, bytes: metadata.len(), allocated: metadata.blocks() * 512, target })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
