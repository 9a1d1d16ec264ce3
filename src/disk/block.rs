//! The unit in which kiln looks at disks.

use std::ops::Range;
use std::sync::Arc;

/// Bytes of a block: the unit of block lists, and of EBS snapshots too.
pub const BLOCK_SIZE: usize = 512 << 10;

/// The largest disk that is read or written: what the largest cloud volumes hold.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

/// Exactly [`BLOCK_SIZE`] bytes; the last block of a disk is filled up with zeros.
pub type Block = Arc<Vec<u8>>;

/// Bytes of the finest hole that is looked for inside a block, a page.
const PAGE: usize = 4096;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// Whether there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE).all(|page| *page == ZERO_PAGE[..page.len()])
}

/// The stretches of `bytes` that are not zero, in pages.
pub fn data_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if is_zero(page) {
            continue;
        }
        let start = number * PAGE;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += page.len(),
            _ => runs.push(start..start + page.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_pages_with_data() {
        let mut bytes = vec![0; 5 * PAGE + 100];
        assert!(is_zero(&bytes));
        assert!(data_runs(&bytes).is_empty());
        bytes[PAGE + 7] = 1;
        bytes[3 * PAGE - 1] = 1;
        bytes[5 * PAGE + 99] = 1;
        assert!(!is_zero(&bytes));
        assert_eq!(data_runs(&bytes), [PAGE..3 * PAGE, 5 * PAGE..5 * PAGE + 100]);
    }
}
