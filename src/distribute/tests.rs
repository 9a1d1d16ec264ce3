use super::*;
use crate::disk::block::BLOCK_SIZE;
use crate::disk::reader::ReadError;
use crate::model::{Failure, FailureKind};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn patience() -> Patience {
    Patience::new(Duration::from_secs(300), &CancellationToken::new())
}

fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(step).collect()
}

/// A disk of `mib` MiB and one sector in three layers: compressible and other data, holes, a compressed base.
fn chain(folder: &Path, mib: u64) -> PathBuf {
    let base = File::create(folder.join("base.raw")).unwrap();
    base.set_len((mib << 20) + 512).unwrap();
    for at in (0..mib << 20).step_by(7 << 20) {
        base.write_all_at(&noise(at + 1, 600_000), at).unwrap();
        base.write_all_at(&b"All work and no play makes a dull log. ".repeat(20_000), at + 700_000).unwrap();
    }
    base.write_all_at(b"last bytes", (mib << 20) + 500).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", "base.raw", "1.qcow2"];
    run(folder, "qemu-img", &convert);
    for (below, above) in [("1.qcow2", "2.qcow2"), ("2.qcow2", "top.qcow2")] {
        run(folder, "qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, above]);
        let write = if above == "2.qcow2" { "write -P 5 3M 1000k" } else { "write -z 7M 70k" };
        run(folder, "qemu-io", &["-f", "qcow2", "-c", write, above]);
    }
    folder.join("top.qcow2")
}

fn to(format: ExportFormat, target: PathBuf) -> Export {
    Export { format, target, replace: false }
}

fn all_formats(folder: &Path) -> Vec<Export> {
    ExportFormat::ALL.into_iter().map(|f| to(f, folder.join(f.as_str()))).collect()
}

fn source(path: &Path) -> Source<'_> {
    Source { path, format: Format::Qcow2, blocks: None }
}

/// QEMU's name of the format.
fn driver(format: ExportFormat) -> &'static str {
    match format.read_as() {
        Format::Vhd => "vpc",
        other => other.as_str(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn one_pass_writes_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 96);
    let mut seen = Vec::new();
    let mut tell = |p| seen.push(p);
    let targets = all_formats(out.path());
    let report = export(source(&top), &targets, &mut tell, &patience()).await.unwrap();
    for (file, target) in report.files.iter().zip(&targets) {
        let size = if driver(file.format) == "vpc" { 97 << 20 } else { (96 << 20) + 512 };
        assert_eq!((file.format, &file.target, file.virtual_size), (target.format, &target.target, size));
        let (driver, path) = (driver(file.format), file.target.to_str().unwrap());
        run(folder.path(), "qemu-img", &["compare", "-f", "qcow2", "-F", driver, "top.qcow2", path]);
    }
    let mut expected: Vec<&str> = ExportFormat::ALL.iter().map(|f| f.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(names(out.path()), expected);
    assert!(seen.is_sorted() && seen.last() == Some(&1.0), "{seen:?}");

    // Once more, with the list as what is expected, over what is there: the same files, byte for byte.
    let first: Vec<Vec<u8>> = targets.iter().map(|t| std::fs::read(&t.target).unwrap()).collect();
    let expected = Source { blocks: Some(&report.blocks), ..source(&top) };
    let refused = export(expected, &targets, &mut |_| (), &patience()).await.unwrap_err();
    assert!(matches!(refused, ExportError::Exists { .. }), "{refused}");
    assert_eq!(Failure::from(refused).kind, FailureKind::Conflict);
    let again: Vec<Export> = targets.iter().map(|t| Export { replace: true, ..t.clone() }).collect();
    export(expected, &again, &mut |_| (), &patience()).await.unwrap();
    assert!(targets.iter().zip(first).all(|(t, bytes)| std::fs::read(&t.target).unwrap() == bytes));
}

/// A file that appears under a target's name while the disk is written stays, and nothing else is left.
#[tokio::test]
async fn what_appears_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 96);
    let (first, second) = (out.path().join("a.raw"), out.path().join("b.qcow2"));
    let targets = [to(ExportFormat::Raw, first.clone()), to(ExportFormat::Qcow2, second.clone())];
    let mut tell = |_| std::fs::write(&second, "mine").unwrap();
    let refused = export(source(&top), &targets, &mut tell, &patience()).await.unwrap_err();
    assert!(matches!(&refused, ExportError::Exists { path } if *path == second), "{refused}");
    assert_eq!(std::fs::read(&second).unwrap(), b"mine");
    assert_eq!(names(out.path()), ["b.qcow2"]);

    // What was there before and was to be replaced is not taken away.
    std::fs::write(&first, "old").unwrap();
    std::fs::remove_file(&second).unwrap();
    let targets = [Export { replace: true, ..targets[0].clone() }, targets[1].clone()];
    let mut tell = |_| std::fs::write(&second, "mine").unwrap();
    export(source(&top), &targets, &mut tell, &patience()).await.unwrap_err();
    assert_eq!(names(out.path()), ["a.raw", "b.qcow2"]);
    let replaced = [Export { replace: true, ..targets[1].clone() }];
    export(source(&top), &replaced, &mut |_| (), &patience()).await.unwrap();
    assert!(std::fs::read(&second).unwrap().starts_with(b"QFI"));
}

/// Bytes are flipped all over every file; verification must object exactly when QEMU reads other content.
#[tokio::test]
async fn a_flipped_byte_is_caught_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 16);
    let reader = Reader::open(&top, Format::Qcow2, &patience()).await.unwrap();
    let (progress, _receiver) = watch::channel(0.0);
    let pass = Pass {
        reader,
        source: top.clone(),
        expected: None,
        exports: all_formats(folder.path()),
        progress: progress.clone(),
    };
    let (blocks, written) = tokio::task::spawn_blocking(move || pass.run()).await.unwrap().unwrap();
    verify::all(&written, &blocks, &progress, &patience()).await.unwrap();
    let mut caught = 0;
    for one in &written {
        let mut first = true;
        let file = File::options().read(true).write(true).open(one.staged.path()).unwrap();
        let length = file.metadata().unwrap().len();
        let driver = driver(one.export.format);
        for place in noise(length, 10).into_iter().map(|n| u64::from(n) * (length - 1) / 255) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
            let verdict = verify::all(std::slice::from_ref(one), &blocks, &progress, &patience()).await;
            let compare = Command::new("qemu-img")
                .args(["compare", "-q", "-f", "qcow2", "-F", driver])
                .arg(&top)
                .arg(one.staged.path())
                .output()
                .unwrap();
            let name = one.export.format.as_str();
            assert_eq!(verdict.is_ok(), compare.status.success(), "{name} at byte {place}: {verdict:?}");
            caught += usize::from(verdict.is_err());
            if let Err(alone) = verdict
                && std::mem::take(&mut first)
            {
                // Beside files that are right, before and after it: the same words about the same file.
                let together = verify::all(&written, &blocks, &progress, &patience()).await.unwrap_err();
                assert_eq!(together.to_string(), alone.to_string());
            }
            file.write_all_at(&byte, place).unwrap();
        }
        verify::all(std::slice::from_ref(one), &blocks, &progress, &patience()).await.unwrap();
    }
    assert!(caught > 20, "only {caught} flips hit data");
}

#[tokio::test]
async fn a_disk_that_changed_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 16);
    let targets = [Export { replace: true, ..to(ExportFormat::Vmdk, out.path().join("a.vmdk")) }];
    let report = export(source(&top), &targets, &mut |_| (), &patience()).await.unwrap();
    run(folder.path(), "qemu-io", &["-f", "qcow2", "-c", "write -P 1 9M 1", "top.qcow2"]);
    let expected = Source { blocks: Some(&report.blocks), ..source(&top) };
    let error = export(expected, &targets, &mut |_| (), &patience()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("1 of its blocks of 512 KiB differ, at byte 9437184"), "{text}");
    assert_eq!(names(out.path()), ["a.vmdk"]);
}

#[tokio::test]
async fn what_cannot_be_read_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 16);
    std::fs::remove_file(folder.path().join("1.qcow2")).unwrap();
    let error = export(source(&top), &all_formats(out.path()), &mut |_| (), &patience()).await.unwrap_err();
    assert!(matches!(error, ExportError::Read(ReadError::Read { .. })), "{error}");
    assert!(error.to_string().contains("1.qcow2"), "{error}");
    assert_eq!(names(out.path()), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_export_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let top = chain(folder.path(), 64);
    let patience = patience();
    let cancel = patience.cancel.clone();
    let mut tell = |_| cancel.cancel();
    let error = export(source(&top), &all_formats(out.path()), &mut tell, &patience).await.unwrap_err();
    assert_eq!(Failure::from(error).kind, FailureKind::Cancelled);
    assert_eq!(names(out.path()), [""; 0]);
}

#[tokio::test]
async fn names_are_checked_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.raw");
    std::fs::write(&path, [1; 512]).unwrap();
    let origin = Source { path: &path, format: Format::Raw, blocks: None };
    let target = |path: PathBuf| Export { replace: true, ..to(ExportFormat::Raw, path) };
    let onto = export(origin, &[target(path.clone())], &mut |_| (), &patience()).await.unwrap_err();
    assert!(matches!(onto, ExportError::OntoItself { .. }), "{onto}");
    let same = [target(folder.path().join("b")), target(folder.path().join("b"))];
    let twice = export(origin, &same, &mut |_| (), &patience()).await.unwrap_err();
    assert!(matches!(twice, ExportError::Twice { .. }), "{twice}");
    let nowhere = [target(folder.path().join("none/b"))];
    let nowhere = export(origin, &nowhere, &mut |_| (), &patience()).await.unwrap_err();
    assert!(matches!(nowhere, ExportError::NoFolder { .. }), "{nowhere}");
    assert_eq!(names(folder.path()), ["a.raw"]);
}

#[tokio::test]
async fn what_a_killed_export_left_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [1; 512]).unwrap();
    let [dead, alive, other] = ["a.raw.1-0", "a.raw.2-0", "b.raw.1-0"]
        .map(|n| folder.path().join(format!(".{n}{}", files::UNFINISHED)));
    let files = [&dead, &alive, &other].map(|p| File::create(p).unwrap());
    flock(&files[1], FlockOperation::LockExclusive).unwrap();
    let origin = Source { path: &path, format: Format::Raw, blocks: None };
    let exports = [to(ExportFormat::Raw, folder.path().join("a.raw"))];
    export(origin, &exports, &mut |_| (), &patience()).await.unwrap();
    assert!(!dead.exists() && alive.exists() && other.exists());
    assert_eq!(std::fs::read(folder.path().join("a.raw")).unwrap(), [1; 512]);
}

#[test]
fn space_is_counted_over_all_targets() {
    let folder = tempfile::tempdir().unwrap();
    let free = files::free_space(folder.path()).unwrap();
    // Two thirds of what is free: one such file fits, two do not.
    let blocks = free / 3 * 2 / BLOCK_SIZE as u64;
    let size = blocks * BLOCK_SIZE as u64;
    let target = |name: &str| to(ExportFormat::Raw, folder.path().join(name));
    let all = 0..blocks;
    let data = std::slice::from_ref(&all);
    check_space(size, data, &[target("a")]).unwrap();
    let error = check_space(size, data, &[target("a"), target("b")]).unwrap_err();
    assert!(matches!(error, ExportError::NoSpace { .. }), "{error}");
    let vhd = to(ExportFormat::Vhd, folder.path().join("c"));
    let large = check_space(3 << 40, &[], &[vhd]).unwrap_err();
    assert!(matches!(large, ExportError::TooLarge { .. }), "{large}");
}
