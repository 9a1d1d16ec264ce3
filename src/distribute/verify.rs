//! Reads what was written with another implementation than the one that wrote it.

use super::error::ExportError;
use super::export::{Progress, Written};
use crate::disk::block::BLOCK_SIZE;
use crate::disk::blocklist::BlockList;
use crate::disk::reader::Reader;
use crate::support::wait::Patience;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Compares every file with `blocks`, as many at once as there are cores.
pub async fn all(
    written: &[Written],
    blocks: &BlockList,
    progress: &watch::Sender<Progress>,
    patience: &Patience,
) -> Result<(), ExportError> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let turns = Arc::new(Semaphore::new(cores));
    let blocks = Arc::new(blocks.clone());
    let done = Arc::new(AtomicU64::new(0));
    let total = (blocks.blocks().len() * BLOCK_SIZE * written.len()) as u64;
    let mut checks = JoinSet::new();
    for file in written {
        let (path, format) = (file.staged.path().to_owned(), file.target.format);
        let (target, size) = (file.target.path.clone(), file.virtual_size);
        let (turns, blocks, patience) = (turns.clone(), blocks.clone(), patience.clone());
        let (done, progress) = (done.clone(), progress.clone());
        checks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let reader = Reader::open(&path, format.read_as(), &patience).await?;
            let step = BLOCK_SIZE as u64;
            let tell = move || {
                let done = done.fetch_add(step, Ordering::Relaxed) + step;
                progress.send_replace(Progress::Verifying { done: done.min(total), total });
            };
            let list = tokio::task::spawn_blocking(move || BlockList::read(reader, tell));
            let list = list.await.expect("reading does not panic")?;
            match blocks.difference(&list, size) {
                Some(difference) => Err(ExportError::Differs { path: target, difference }),
                None => Ok(()),
            }
        });
    }
    while let Some(check) = checks.join_next().await {
        check.expect("comparing does not panic")?;
    }
    Ok(())
}
