//! Raw: the bytes of the disk.

use super::{DiskWriter, write_sparse};
use crate::disk::block::{BLOCK_SIZE, Block};
use std::fs::File;
use std::io;

pub struct Raw {
    file: File,
    size: u64,
}

impl Raw {
    pub fn new(file: File, size: u64) -> io::Result<Raw> {
        file.set_len(size)?;
        Ok(Raw { file, size })
    }
}

impl DiskWriter for Raw {
    fn write(&mut self, index: u64, block: &Block) -> io::Result<()> {
        let offset = index * BLOCK_SIZE as u64;
        let length = (self.size - offset).min(BLOCK_SIZE as u64) as usize;
        write_sparse(&self.file, &block[..length], offset)
    }

    fn finish(&mut self, _content: &[u8; 32]) -> io::Result<()> {
        Ok(())
    }
}
