//! Every writer against QEMU's readers.

use super::{ExportFormat, Pool};
use crate::disk::block::{BLOCK_SIZE, Block, is_zero};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A stretch of a disk and what is in it.
#[derive(Clone, Debug)]
struct Stretch {
    start: usize,
    length: usize,
    content: Content,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Noise(u64),
    Text,
    Zeros,
}

impl Content {
    fn fill(self, bytes: &mut [u8]) {
        match self {
            Content::Zeros => bytes.fill(0),
            Content::Text => {
                let text = b"The quick brown fox jumps over the lazy dog. ";
                bytes.iter_mut().zip(text.iter().cycle()).for_each(|(b, t)| *b = *t);
            }
            Content::Noise(seed) => {
                let mut state = seed | 1;
                for byte in bytes {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *byte = state as u8;
                }
            }
        }
    }
}

fn disk(size: usize, stretches: &[Stretch]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for stretch in stretches {
        let start = stretch.start.min(size);
        let end = (start + stretch.length).min(size);
        stretch.content.fill(&mut bytes[start..end]);
    }
    bytes
}

fn write(format: ExportFormat, bytes: &[u8], path: &Path, pool: &Arc<Pool>) {
    let mut writer = format.writer(File::create_new(path).unwrap(), bytes.len() as u64, pool).unwrap();
    for (index, data) in (0..).zip(bytes.chunks(BLOCK_SIZE)) {
        if !is_zero(data) {
            let mut block = data.to_vec();
            block.resize(BLOCK_SIZE, 0);
            writer.write(index, &Block::new(block)).unwrap();
        }
    }
    writer.finish(&[0x5a; 32]).unwrap();
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

/// Writes `bytes` in every format and lets qemu-img check and compare the files.
fn comes_back(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("original");
    std::fs::write(&raw, bytes).unwrap();
    let pool = Pool::new().unwrap();
    for format in ExportFormat::ALL {
        let path = folder.path().join(format.as_str());
        write(format, bytes, &path, &pool);
        let driver = crate::disk::image::driver(format.read_as());
        if matches!(format, ExportFormat::Qcow2 | ExportFormat::Qcow2Zstd | ExportFormat::Vmdk) {
            succeeds(Command::new("qemu-img").args(["check", "-q", "-f", driver]).arg(&path));
        }
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-q", "-f", "raw", "-F", driver]).arg(&raw).arg(&path);
        succeeds(&mut compare);
        let size = bytes.len() as u64;
        let blocks: Vec<_> = std::iter::once(0..size.div_ceil(BLOCK_SIZE as u64)).collect();
        let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
        let limit = format.worst_case(size, &blocks);
        assert!(taken <= limit, "{}: {taken} bytes, {limit} foretold", format.as_str());
    }
}

fn stretches(size: usize) -> impl Strategy<Value = Vec<Stretch>> {
    let content = prop_oneof![
        3 => any::<u64>().prop_map(Content::Noise),
        2 => Just(Content::Text),
        1 => Just(Content::Zeros),
    ];
    // Half of them at borders of pages and clusters, where mistakes live.
    let place = prop_oneof![0..size, (0..=size / 4096).prop_map(|p| p * 4096)];
    let length = prop_oneof![1..size / 2 + 2, Just(512), Just(65536), Just(BLOCK_SIZE)];
    let stretch =
        (place, length, content).prop_map(|(start, length, content)| Stretch { start, length, content });
    proptest::collection::vec(stretch, 0..6)
}

fn disks() -> impl Strategy<Value = (usize, Vec<Stretch>)> {
    (1usize..12_000).prop_map(|sectors| sectors * 512).prop_flat_map(|size| (Just(size), stretches(size)))
}

proptest! {
    // Each case runs qemu-img nine times.
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn random_disks_come_back_from_every_format((size, stretches) in disks()) {
        comes_back(&disk(size, &stretches));
    }
}

#[test]
fn edges_come_back_from_every_format() {
    let all = |content| move |size: usize| disk(size, &[Stretch { start: 0, length: size, content }]);
    // Nothing, one sector, and sizes that no cluster or block divides.
    comes_back(&[0; 1 << 20]);
    comes_back(&all(Content::Noise(3))(512));
    comes_back(&all(Content::Text)(65536 + 512));
    comes_back(&all(Content::Noise(7))((40 << 20) + 65536 - 512));
    // Text shrinks so far that one cluster of the file holds hundreds.
    comes_back(&all(Content::Text)((33 << 20) + 512));
}

/// Tables that cover more than one table's reach, with nearly no data.
#[test]
fn large_sparse_disks_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::new().unwrap();
    let size: u64 = (5 << 40) / 4 + 512;
    let places = [0, 1023, 1024, size / BLOCK_SIZE as u64 - 1];
    for format in ExportFormat::ALL {
        let path = folder.path().join(format.as_str());
        let mut writer = format.writer(File::create_new(&path).unwrap(), size, &pool).unwrap();
        for (pattern, place) in (1..).zip(places) {
            let mut bytes = vec![0; BLOCK_SIZE];
            bytes[4096..70_000].fill(pattern);
            writer.write(place, &Block::new(bytes)).unwrap();
        }
        writer.finish(&[1; 32]).unwrap();
        let mut look = Command::new("qemu-io");
        look.args(["-r", "-f", crate::disk::image::driver(format.read_as())]);
        for (pattern, place) in (1..).zip(places) {
            let at = place * BLOCK_SIZE as u64;
            look.arg("-c").arg(format!("read -P {pattern} {} {}", at + 4096, 70_000 - 4096));
            look.arg("-c").arg(format!("read -P 0 {} {}", at + 70_000, BLOCK_SIZE - 70_000));
        }
        succeeds(look.arg(&path));
    }
}
