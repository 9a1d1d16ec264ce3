//! Reads what was written with another implementation than the one that wrote it.

use super::error::ExportError;
use super::export::{WRITING, Written};
use crate::disk::blocklist::BlockList;
use crate::disk::reader::Reader;
use crate::support::wait::Patience;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Compares every file with `blocks`, as many at once as there are cores.
pub async fn all(
    written: &[Written],
    blocks: &BlockList,
    progress: &watch::Sender<f32>,
    patience: &Patience,
) -> Result<(), ExportError> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let turns = Arc::new(Semaphore::new(cores));
    let blocks = Arc::new(blocks.clone());
    let done = Arc::new(AtomicUsize::new(0));
    let total = (blocks.blocks().len() * written.len()) as f32;
    let mut checks = JoinSet::new();
    for file in written {
        let (path, format) = (file.staged.path().to_owned(), file.export.format);
        let (target, size) = (file.export.target.clone(), file.virtual_size);
        let (turns, blocks, patience) = (turns.clone(), blocks.clone(), patience.clone());
        let (done, progress) = (done.clone(), progress.clone());
        checks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let reader = Reader::open(&path, format.read_as(), &patience).await?;
            let tell = move || {
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                progress.send_replace(WRITING + (1.0 - WRITING) * (done as f32 / total).min(1.0));
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
