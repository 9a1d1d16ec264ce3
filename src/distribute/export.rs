//! Export of a disk to files: read once, written in all wanted formats on the
//! way, read back, and only then given their names.

use super::error::ExportError;
use super::verify;
use crate::disk::Format;
use crate::disk::block::BLOCK_SIZE;
use crate::disk::blocklist::BlockList;
use crate::disk::reader::Reader;
use crate::disk::writer::{ExportFormat, Pool};
use crate::support::files::{self, Staged};
use crate::support::wait::Patience;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The disk to export: the top of its chain.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub format: Format,
    /// What it must hold, where that is known; a disk that changed is not exported.
    pub blocks: Option<&'a BlockList>,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub format: ExportFormat,
    pub path: PathBuf,
}

/// How far an export is, in bytes of the disk's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Writing {
        done: u64,
        total: u64,
    },
    /// Reading back; `total` counts every file.
    Verifying {
        done: u64,
        total: u64,
    },
}

/// A file that is complete, verified and durable.
#[derive(Clone, Debug)]
pub struct Exported {
    pub format: ExportFormat,
    pub path: PathBuf,
    /// Size of the disk in it, bytes.
    pub virtual_size: u64,
    /// Length of the file, bytes.
    pub file_size: u64,
    /// What it takes on the host's disk, bytes; less than its length where it has holes.
    pub allocated: u64,
}

#[derive(Debug)]
pub struct Report {
    /// What the disk holds.
    pub blocks: BlockList,
    /// In the order of the targets.
    pub files: Vec<Exported>,
}

/// Writes the disk, backing files included, to every target. All targets come
/// about or none: each is read back by QEMU and compared with the block list
/// before any gets its name. `replace` lets existing files be replaced.
pub async fn export(
    source: Source<'_>,
    targets: &[Target],
    replace: bool,
    progress: &mut (dyn FnMut(Progress) + Send),
    patience: &Patience,
) -> Result<Report, ExportError> {
    check_names(source.path, targets, replace)?;
    // Threads at work notice when nobody waits for them any more.
    let work = Patience { deadline: patience.deadline, cancel: patience.cancel.child_token() };
    let _stop = work.cancel.clone().drop_guard();

    let reader = Reader::open(source.path, source.format, &work).await?;
    check_space(reader.size(), reader.data_blocks(), targets)?;
    let blocks: u64 = reader.data_blocks().iter().map(|r| r.end - r.start).sum();
    let total = blocks * BLOCK_SIZE as u64;
    let (sender, receiver) = watch::channel(Progress::Writing { done: 0, total });
    let pass = Pass {
        reader,
        source: source.path.to_owned(),
        expected: source.blocks.cloned(),
        targets: targets.to_vec(),
        total,
        progress: sender.clone(),
    };
    let task = async {
        let pass = tokio::task::spawn_blocking(move || pass.run());
        let (blocks, written) = pass.await.expect("writing does not panic")?;
        verify::all(&written, &blocks, &sender, &work).await?;
        let publish = tokio::task::spawn_blocking(move || written.into_iter().map(publish).collect());
        let files: Result<Vec<Exported>, ExportError> = publish.await.expect("renaming does not panic");
        Ok(Report { blocks, files: files? })
    };
    told(task, receiver, progress).await
}

/// Runs `task` and tells its progress meanwhile.
async fn told<T>(
    task: impl Future<Output = T>,
    mut receiver: watch::Receiver<Progress>,
    progress: &mut (dyn FnMut(Progress) + Send),
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

fn check_names(source: &Path, targets: &[Target], replace: bool) -> Result<(), ExportError> {
    let origin = std::fs::metadata(source).ok().map(|m| (m.dev(), m.ino()));
    for (number, target) in targets.iter().enumerate() {
        let path = target.path.clone();
        if targets[..number].iter().any(|t| t.path == path) {
            return Err(ExportError::Twice { path });
        }
        if let Ok(there) = std::fs::metadata(&path) {
            if Some((there.dev(), there.ino())) == origin {
                return Err(ExportError::OntoItself { path });
            }
            if !replace {
                return Err(ExportError::Exists { path });
            }
        }
    }
    Ok(())
}

fn check_space(size: u64, data: &[Range<u64>], targets: &[Target]) -> Result<(), ExportError> {
    // By file system: several targets may share one.
    let mut needs: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for target in targets {
        if size > target.format.max_size() {
            return Err(ExportError::TooLarge { format: target.format, size });
        }
        let io = |source| ExportError::write(&target.path, source);
        let path = std::path::absolute(&target.path).map_err(io)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let device = std::fs::metadata(folder).map_err(io)?.dev();
        needs.entry(device).or_insert_with(|| (folder.to_owned(), 0)).1 +=
            target.format.worst_case(size, data);
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
    pub target: Target,
    pub staged: Staged,
    pub virtual_size: u64,
}

/// The one pass over the disk's data.
struct Pass {
    reader: Reader,
    source: PathBuf,
    expected: Option<BlockList>,
    targets: Vec<Target>,
    /// Bytes to read.
    total: u64,
    progress: watch::Sender<Progress>,
}

impl Pass {
    fn run(self) -> Result<(BlockList, Vec<Written>), ExportError> {
        let size = self.reader.size();
        let pool = Pool::new().map_err(ExportError::Threads)?;
        let mut written = Vec::new();
        let mut writers = Vec::new();
        for target in self.targets {
            let io = |source| ExportError::write(&target.path, source);
            let staged = Staged::new(&target.path).map_err(io)?;
            let file = File::create_new(staged.path()).map_err(io)?;
            let writer = target.format.writer(file, size, &pool).map_err(io)?;
            writers.push((target.path.clone(), writer));
            written.push(Written { virtual_size: target.format.virtual_size(size), target, staged });
        }
        let mut blocks = BlockList::new(size);
        let mut done = 0;
        for block in self.reader {
            let (index, block) = block?;
            blocks.insert(index, &block);
            for (path, writer) in &mut writers {
                writer.write(index, &block).map_err(|e| ExportError::write(path, e))?;
            }
            done += BLOCK_SIZE as u64;
            self.progress.send_replace(Progress::Writing { done, total: self.total });
        }
        if let Some(expected) = &self.expected
            && let Some(difference) = expected.difference(&blocks, expected.size())
        {
            return Err(ExportError::Changed { path: self.source, difference });
        }
        let content = blocks.digest();
        for (path, mut writer) in writers {
            writer.finish(&content).map_err(|e| ExportError::write(&path, e))?;
        }
        Ok((blocks, written))
    }
}

fn publish(written: Written) -> Result<Exported, ExportError> {
    let Written { target, staged, virtual_size } = written;
    let io = |source| ExportError::write(&target.path, source);
    staged.commit().map_err(io)?;
    let metadata = std::fs::metadata(&target.path).map_err(io)?;
    Ok(Exported {
        format: target.format,
        virtual_size,
        file_size: metadata.len(),
        allocated: metadata.blocks() * 512,
        path: target.path,
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
