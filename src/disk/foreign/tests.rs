use super::*;
use crate::support::command::Tool;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

fn patience() -> Patience {
    Patience::new(Duration::from_secs(120), &CancellationToken::new())
}

async fn qemu_img(dir: &Path, arguments: &str) {
    Tool::new("qemu-img").args(arguments.split(' ')).dir(dir).run(&patience()).await.unwrap();
}

/// Brings a file and takes it in.
async fn taken(path: &Path, format: Format, target: &Path, flatten: bool) -> Result<Info, ForeignError> {
    let folder = tempfile::tempdir().unwrap();
    let source = Foreign::open(path)?.bring(folder.path(), &patience()).await?;
    take_in(&source, format, target, flatten, &mut |_| (), &patience()).await
}

async fn refused(path: &Path, format: Format, flatten: bool) -> String {
    let target = path.with_file_name("target.qcow2");
    let error = taken(path, format, &target, flatten).await.unwrap_err();
    assert!(!target.exists());
    error.to_string()
}

#[tokio::test]
async fn names_of_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::write(dir.join("secret"), vec![7; 1 << 20]).unwrap();
    qemu_img(dir, "create -q -f qcow2 -F raw -b /etc/passwd backing.qcow2 1M").await;
    let text = refused(&dir.join("backing.qcow2"), Format::Qcow2, false).await;
    assert!(text.contains("`/etc/passwd`"), "{text}");
    let text = refused(&dir.join("backing.qcow2"), Format::Qcow2, true).await;
    assert!(text.contains("not just the name"), "{text}");

    qemu_img(dir, "create -q -f qcow2 -o data_file=secret data.qcow2 1M").await;
    let text = refused(&dir.join("data.qcow2"), Format::Qcow2, true).await;
    assert!(text.contains("data file"), "{text}");

    std::fs::write(
        dir.join("flat.vmdk"),
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"/etc/passwd\" 0\n",
    )
    .unwrap();
    let text = refused(&dir.join("flat.vmdk"), Format::Vmdk, false).await;
    assert!(text.contains("no VMDK that holds its own data"), "{text}");
}

#[tokio::test]
async fn nonsense_is_refused_soon() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let begun = std::time::Instant::now();
    std::fs::write(
        dir.join("noise"),
        (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    for format in [Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx] {
        refused(&dir.join("noise"), format, false).await;
        refused(&dir.join("empty"), format, false).await;
    }
    refused(&dir.join("empty"), Format::Raw, false).await;

    qemu_img(dir, "create -q -f qcow2 huge.qcow2 1M").await;
    let file = File::options().write(true).open(dir.join("huge.qcow2")).unwrap();
    file.write_all_at(&(8u64 << 60).to_be_bytes(), 24).unwrap();
    refused(&dir.join("huge.qcow2"), Format::Qcow2, false).await;

    qemu_img(dir, "create -q -f qcow2 large.qcow2 100T").await;
    let text = refused(&dir.join("large.qcow2"), Format::Qcow2, false).await;
    assert!(text.contains("16 TiB"), "{text}");

    qemu_img(dir, "create -q -f qcow2 -o preallocation=full short.qcow2 1M").await;
    let file = File::options().write(true).open(dir.join("short.qcow2")).unwrap();
    file.set_len(200_000).unwrap();
    refused(&dir.join("short.qcow2"), Format::Qcow2, false).await;

    // A refcount table that is its own refcount block, and so on.
    qemu_img(dir, "create -q -f qcow2 loop.qcow2 1M").await;
    let file = File::options().write(true).open(dir.join("loop.qcow2")).unwrap();
    file.write_all_at(&(1u64 << 16).to_be_bytes(), 1 << 16).unwrap();
    refused(&dir.join("loop.qcow2"), Format::Qcow2, false).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_raw_disk_that_starts_like_qcow2_stays_raw() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    qemu_img(dir, "create -q -f qcow2 -F raw -b /etc/passwd inner 1M").await;
    let mut content = std::fs::read(dir.join("inner")).unwrap();
    content.resize(1 << 20, 0);
    std::fs::write(dir.join("disk.raw"), &content).unwrap();
    let target = dir.join("t.qcow2");
    let info = taken(&dir.join("disk.raw"), Format::Raw, &target, false).await.unwrap();
    assert_eq!((info.virtual_size, info.backing), (1 << 20, None));
    qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
    assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), content);
}

#[tokio::test]
async fn a_chain_beside_the_disk_is_flattened_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let content: Vec<u8> = (0..2 << 20).map(|i: u32| (i >> 12) as u8).collect();
    std::fs::write(dir.join("one.raw"), &content).unwrap();
    qemu_img(dir, "create -q -f qcow2 -F raw -b one.raw two.qcow2").await;
    qemu_img(dir, "create -q -f qcow2 -F qcow2 -b two.qcow2 three.qcow2").await;
    let target = dir.join("t.qcow2");
    let top = dir.join("three.qcow2");
    assert!(refused(&top, Format::Qcow2, false).await.contains("`two.qcow2`"));
    let info = taken(&top, Format::Qcow2, &target, true).await.unwrap();
    assert_eq!(info.backing, None);
    qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
    assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), content);

    std::fs::remove_file(&target).unwrap();
    std::fs::remove_file(dir.join("one.raw")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("one.raw")).unwrap();
    let error = taken(&top, Format::Qcow2, &target, true).await.unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

/// QEMU believes the last of two names of a format: kiln would look at `b.img` as raw data, QEMU
/// would follow it to wherever it leads.
#[tokio::test]
async fn a_header_with_two_readings_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::write(dir.join("secret"), vec![b's'; 1 << 20]).unwrap();
    qemu_img(dir, &format!("create -q -f qcow2 -F raw -b {} b.img", dir.join("secret").display())).await;
    qemu_img(dir, "create -q -f qcow2 -F qcow2 -b b.img top.qcow2").await;
    let top = dir.join("top.qcow2");
    let mut bytes = std::fs::read(&top).unwrap();
    let at = bytes.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    let raw = b"\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0";
    bytes.splice(at..at, raw.iter().copied());
    // The header's cluster keeps its size.
    bytes.drain((1 << 16)..(1 << 16) + raw.len());
    let name_at = u64_at(&bytes, 8).unwrap() + raw.len() as u64;
    bytes[8..16].copy_from_slice(&name_at.to_be_bytes());
    std::fs::write(&top, bytes).unwrap();
    let info = image::info(&top, Format::Qcow2, &patience()).await.unwrap();
    assert_eq!(info.backing_format.as_deref(), Some("qcow2"), "QEMU takes the last");
    let said = refused(&top, Format::Qcow2, true).await;
    assert!(said.contains("more than once"), "{said}");
}

#[tokio::test]
async fn every_format_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let content: Vec<u8> = (0..4 << 20).map(|i: u32| (i >> 10) as u8).collect();
    std::fs::write(dir.join("a.raw"), &content).unwrap();
    for format in Format::ALL {
        let (source, target) = (dir.join(format!("s.{format}")), dir.join("t.qcow2"));
        image::convert(&dir.join("a.raw"), Format::Raw, &source, format, None, &mut |_| (), &patience())
            .await
            .unwrap();
        let info = taken(&source, format, &target, false).await.unwrap();
        assert_eq!(info.virtual_size, 4 << 20, "{format}");
        qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
        assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), content, "{format}");
    }
}

/// Whatever happens to the files after they were brought, what was brought is what is read.
#[tokio::test]
async fn a_file_that_is_swapped_or_changed_is_read_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, own) = (folder.path(), folder.path().join("own"));
    std::fs::create_dir(&own).unwrap();
    std::fs::write(dir.join("secret"), vec![b's'; 1 << 20]).unwrap();
    std::fs::write(dir.join("a.raw"), vec![b'a'; 1 << 20]).unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 a.raw a.qcow2").await;
    let path = dir.join("a.qcow2");
    let source = Foreign::open(&path).unwrap().bring(&own, &patience()).await.unwrap();
    // Written into, as its owner could: now it stands on a file of the host.
    let evil = format!("create -q -f qcow2 -F raw -b {} evil.qcow2 1M", dir.join("secret").display());
    qemu_img(dir, &evil).await;
    let evil = std::fs::read(dir.join("evil.qcow2")).unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(&evil, 0).unwrap();
    let target = dir.join("t.qcow2");
    take_in(&source, Format::Qcow2, &target, false, &mut |_| (), &patience()).await.unwrap();
    qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
    assert!(std::fs::read(dir.join("back.raw")).unwrap() == vec![b'a'; 1 << 20]);
    assert!(refused(&path, Format::Qcow2, false).await.contains("secret"));

    // Opened, and then another one in its place.
    std::fs::remove_file(&target).unwrap();
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::create_dir(&own).unwrap();
    let raw = dir.join("a.raw");
    let opened = Foreign::open(&raw).unwrap();
    std::fs::rename(dir.join("secret"), &raw).unwrap();
    let source = opened.bring(&own, &patience()).await.unwrap();
    assert!(std::fs::read(&source.file).unwrap() == vec![b'a'; 1 << 20]);
}

/// Were the header of the copy to name a backing file that was not seen, QEMU would not open it.
#[tokio::test]
async fn a_disk_alone_is_converted_without_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::write(dir.join("secret"), vec![b's'; 1 << 20]).unwrap();
    qemu_img(dir, "create -q -f qcow2 -F raw -b secret a.qcow2").await;
    let limits = Limits { memory: 4 << 30, cpu: Duration::from_secs(60) };
    let stranger = Some(Stranger { limits, alone: true });
    let (source, target) = (dir.join("a.qcow2"), dir.join("b.raw"));
    let (from, to) = ((&*source, Format::Qcow2), (&*target, Format::Raw));
    image::convert_within(from, to, None, stranger, &mut |_| (), &patience()).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == vec![0; 1 << 20]);
}

#[tokio::test]
async fn only_files_and_devices_of_a_disk_s_size_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let open = |name: &str| Foreign::open(&dir.join(name)).map(drop).unwrap_err().to_string();
    assert!(open("none.raw").contains("there is no file"));
    Tool::new("mkfifo").arg(dir.join("pipe.raw")).run(&patience()).await.unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.join("zero.raw")).unwrap();
    for name in ["pipe.raw", "zero.raw", "."] {
        assert!(open(name).contains("no regular file and no block device"), "{name}");
    }
    // Where a pipe took the place of a file, opening it does not wait.
    let pipe = Foreign::open_backing(&dir.join("pipe.raw")).map(drop).unwrap_err();
    assert!(matches!(pipe, ForeignError::NoFile { .. }), "{pipe}");
    std::fs::write(dir.join("empty.raw"), "").unwrap();
    assert!(open("empty.raw").contains("has 0 bytes"));

    // A hole takes no time and no room.
    let holes = dir.join("holes.raw");
    let file = File::create(&holes).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    let own = dir.join("own");
    std::fs::create_dir(&own).unwrap();
    let brought = Foreign::open(&holes).unwrap().bring(&own, &patience()).await.unwrap();
    let meta = std::fs::metadata(&brought.file).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 40, 0o600));
    assert!(meta.blocks() < 4096, "{}", meta.blocks());
    let mut end = [0; 3];
    File::open(&brought.file).unwrap().read_exact_at(&mut end, (1 << 40) - 3).unwrap();
    assert_eq!(&end, b"end");

    std::fs::remove_file(&brought.file).unwrap();
    std::fs::write(dir.join("a.raw"), vec![7; 1 << 20]).unwrap();
    let off = patience();
    off.cancel.cancel();
    let stopped = Foreign::open(&dir.join("a.raw")).unwrap().bring(&own, &off).await.unwrap_err();
    assert!(matches!(stopped, ForeignError::Disk(DiskError::Impatience(_))), "{stopped}");
}

proptest! {
    /// Whatever a header says, reading it ends, without a panic.
    #[test]
    fn no_header_is_too_strange(mut head in proptest::collection::vec(any::<u8>(), 0..600), magic in 0..4u8) {
        let start: &[u8] = match magic {
            0 => b"QFI\xfb\0\0\0\x03",
            1 => b"QFI\xfb\0\0\0\x02",
            2 => b"KDMV",
            _ => b"",
        };
        if head.len() >= start.len() {
            head[..start.len()].copy_from_slice(start);
        }
        let _ = qcow2(&head, Path::new("x"));
        let _ = vmdk(&head, Path::new("x"));
        for at in [0, 72, 100, usize::MAX - 4] {
            let _ = backing_formats(&head, at);
        }
    }
}
