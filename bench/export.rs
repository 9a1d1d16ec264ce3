//! Exports a qcow2 disk: `export DISK [FORMAT FILE]...`. What bench/exports.py measures.

use kiln::disk::Format;
use kiln::distribute::{Export, Source, export};
use kiln::support::wait::Patience;
use std::path::Path;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (disk, targets) = arguments.split_first().ok_or("usage: export DISK [FORMAT FILE]...")?;
    let mut exports = Vec::new();
    for pair in targets.chunks_exact(2) {
        exports.push(Export { format: pair[0].parse()?, target: (&pair[1]).into(), replace: true });
    }
    let source = Source { path: Path::new(disk), format: Format::Qcow2, blocks: None };
    let patience = Patience::unlimited(&CancellationToken::new());
    let report = export(source, &exports, &mut |_| (), &patience).await?;
    println!("{}", report.blocks.identity());
    for file in report.files {
        println!("{} {} bytes, {} on the host", file.format, file.bytes, file.allocated);
    }
    Ok(())
}
