//! Reads what was written with another implementation than the one that wrote it.

use super::error::ExportError;
use super::export::{WRITING, Written};
use crate::disk::block::Block;
use crate::disk::blocklist::{BlockList, Difference};
use crate::disk::reader::{ReadError, Reader};
use crate::support::wait::Patience;
use std::iter::Peekable;
use tokio::sync::watch;

/// One file as another implementation reads it.
struct Check {
    blocks: Peekable<Reader>,
    /// Indexes of the blocks that are not as they should be.
    wrong: Vec<u64>,
}

/// Compares every file with `blocks`. All are read side by side: what one file holds of a block is
/// compared with the list, by a digest, the others with that file's bytes, which costs a tenth of it.
pub async fn all(
    written: &[Written],
    blocks: &BlockList,
    progress: &watch::Sender<f32>,
    patience: &Patience,
) -> Result<(), ExportError> {
    let mut checks = Vec::new();
    let mut sizes = Vec::new();
    for file in written {
        let reader = Reader::open(file.staged.path(), file.export.format.read_as(), patience).await?;
        sizes.push((reader.size() != file.virtual_size).then_some((file.virtual_size, reader.size())));
        checks.push(Check { blocks: reader.peekable(), wrong: Vec::new() });
    }
    let (list, progress) = (blocks.clone(), progress.clone());
    let task = tokio::task::spawn_blocking(move || side_by_side(checks, &list, &progress));
    let wrong = task.await.expect("comparing does not panic")?;
    for ((file, sizes), blocks) in written.iter().zip(sizes).zip(wrong) {
        if sizes.is_some() || !blocks.is_empty() {
            let difference = Difference { sizes, blocks };
            return Err(ExportError::Differs { path: file.export.target.clone(), difference });
        }
    }
    Ok(())
}

fn side_by_side(
    mut checks: Vec<Check>,
    list: &BlockList,
    progress: &watch::Sender<f32>,
) -> Result<Vec<Vec<u64>>, ReadError> {
    let total = list.blocks().len() as f32;
    let mut expected = list.blocks().map(|(index, _)| index).peekable();
    let mut done = 0.0;
    loop {
        let mut next = expected.peek().copied();
        for check in &mut checks {
            // An error is met again below, at whatever index.
            let found = check.blocks.peek().map(|b| b.as_ref().map_or(0, |(index, _)| *index));
            next = [next, found].into_iter().flatten().min();
        }
        let Some(index) = next else { break };
        let is_data = expected.next_if_eq(&index).is_some();
        let mut known: Option<Block> = None;
        for check in &mut checks {
            let found =
                check.blocks.next_if(|b| b.as_ref().map_or(true, |(at, _)| *at == index)).transpose()?;
            let right = match (found, &known) {
                (None, _) => !is_data,
                (Some((_, block)), Some(known)) => block == *known,
                (Some((_, block)), None) if list.holds(index, &block) => {
                    known = Some(block);
                    true
                }
                _ => false,
            };
            if !right {
                check.wrong.push(index);
            }
        }
        if is_data {
            done += 1.0;
            progress.send_replace(WRITING + (1.0 - WRITING) * done / total);
        }
    }
    Ok(checks.into_iter().map(|check| check.wrong).collect())
}
