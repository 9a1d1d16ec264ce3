//! Compression on all cores: jobs in, results out in the order of the jobs, memory bounded.

use crate::disk::block::{BLOCK_SIZE, Block, is_zero};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes that are compressed on their own: a grain of VMDK, a cluster of qcow2.
pub const CLUSTER: usize = 64 << 10;
pub const CLUSTERS: usize = BLOCK_SIZE / CLUSTER;

/// More threads would not be fed by one reader, and each job in the line costs 1 MiB.
const MAX_THREADS: usize = 16;
/// libdeflate: a quarter of the time that zlib takes at its level 6, which QEMU uses, for
/// files 1 to 2 % larger (measured on programs and on text; see bench/exports.py).
const DEFLATE_LEVEL: i32 = 4;
/// zstd's own default, and QEMU's.
const ZSTD_LEVEL: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// zlib streams, each behind room for `head` bytes and filled up to a multiple of `align`.
    Zlib { head: usize, align: usize },
    /// zstd frames; what does not get smaller stays as it is.
    Zstd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    Zero,
    /// Not worth compressing.
    Stored,
    /// Where its bytes are in [`Packed::bytes`].
    Compressed(Range<usize>),
}

/// A block's clusters, compressed.
#[derive(Debug)]
pub struct Packed {
    pub bytes: Vec<u8>,
    pub clusters: [Cluster; CLUSTERS],
    pub block: Block,
}

struct Job {
    codec: Codec,
    block: Block,
    reply: SyncSender<io::Result<Packed>>,
}

/// Threads that compress, one for each core that this process may use.
pub struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn new() -> io::Result<Arc<Pool>> {
        let count = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS);
        let (sender, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut pool = Pool { jobs: Some(sender), threads: Vec::new() };
        for _ in 0..count {
            let receiver = receiver.clone();
            pool.threads
                .push(std::thread::Builder::new().name("compress".into()).spawn(move || work(&receiver))?);
        }
        Ok(Arc::new(pool))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Closing the channel is what ends the threads.
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut codecs = Codecs::default();
    loop {
        // The lock is held while waiting: whoever waits next waits for the lock.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // Nobody waits any more for a job of an export that failed.
        let _ = job.reply.send(codecs.pack(job.codec, job.block));
    }
}

/// Each thread's compressors: making one costs more than using it once.
#[derive(Default)]
struct Codecs {
    zlib: Option<libdeflater::Compressor>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Codecs {
    fn pack(&mut self, codec: Codec, block: Block) -> io::Result<Packed> {
        let mut bytes = Vec::with_capacity(BLOCK_SIZE / 2);
        let mut clusters = [const { Cluster::Zero }; CLUSTERS];
        for (cluster, data) in clusters.iter_mut().zip(block.chunks(CLUSTER)) {
            if !is_zero(data) {
                *cluster = match codec {
                    Codec::Zlib { head, align } => self.zlib(data, head, align, &mut bytes)?,
                    Codec::Zstd => self.zstd(data, &mut bytes)?,
                };
            }
        }
        Ok(Packed { bytes, clusters, block })
    }

    fn zlib(&mut self, data: &[u8], head: usize, align: usize, bytes: &mut Vec<u8>) -> io::Result<Cluster> {
        let compressor = match &mut self.zlib {
            Some(compressor) => compressor,
            none => none.insert(libdeflater::Compressor::new(
                libdeflater::CompressionLvl::new(DEFLATE_LEVEL).expect("a level that exists"),
            )),
        };
        let start = bytes.len();
        bytes.resize(start + head + compressor.zlib_compress_bound(data.len()), 0);
        let length = compressor.zlib_compress(data, &mut bytes[start + head..]).map_err(io::Error::other)?;
        let end = start + head + length;
        bytes.truncate(end);
        bytes.resize(end.next_multiple_of(align), 0);
        Ok(Cluster::Compressed(start..end))
    }

    fn zstd(&mut self, data: &[u8], bytes: &mut Vec<u8>) -> io::Result<Cluster> {
        let compressor = match &mut self.zstd {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        let start = bytes.len();
        bytes.resize(start + zstd::zstd_safe::compress_bound(data.len()), 0);
        let length = compressor.compress_to_buffer(data, &mut bytes[start..])?;
        // A cluster of the same length would cost a decompression for nothing.
        let worth = length + 512 < CLUSTER;
        bytes.truncate(if worth { start + length } else { start });
        Ok(if worth { Cluster::Compressed(start..start + length) } else { Cluster::Stored })
    }
}

/// The blocks of one file on their way through the pool, in order.
pub struct Line {
    pool: Arc<Pool>,
    codec: Codec,
    waiting: VecDeque<(u64, Receiver<io::Result<Packed>>)>,
}

impl Line {
    pub fn new(pool: &Arc<Pool>, codec: Codec) -> Line {
        Line { pool: pool.clone(), codec, waiting: VecDeque::new() }
    }

    /// Puts a block in; gives the first one out when the line is long enough.
    pub fn put(&mut self, index: u64, block: &Block) -> io::Result<Option<(u64, Packed)>> {
        let (reply, result) = sync_channel(1);
        let job = Job { codec: self.codec, block: block.clone(), reply };
        self.pool.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(gone)?;
        self.waiting.push_back((index, result));
        if self.waiting.len() > self.pool.threads.len() + 2 { self.take() } else { Ok(None) }
    }

    /// The first block of the line, `None` when it is empty.
    pub fn take(&mut self) -> io::Result<Option<(u64, Packed)>> {
        let Some((index, result)) = self.waiting.pop_front() else { return Ok(None) };
        Ok(Some((index, result.recv().map_err(|_| gone())??)))
    }
}

fn gone() -> io::Error {
    io::Error::other("a compression thread ended early")
}
