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

async fn refused(path: &Path, format: Format, flatten: bool) -> String {
    let target = path.with_file_name("target.qcow2");
    let error = take_in(path, format, &target, flatten, &mut |_| (), &patience()).await.unwrap_err();
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
    let info =
        take_in(&dir.join("disk.raw"), Format::Raw, &target, false, &mut |_| (), &patience()).await.unwrap();
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
    let info = take_in(&top, Format::Qcow2, &target, true, &mut |_| (), &patience()).await.unwrap();
    assert_eq!(info.backing, None);
    qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
    assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), content);

    std::fs::remove_file(&target).unwrap();
    std::fs::remove_file(dir.join("one.raw")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("one.raw")).unwrap();
    let error = take_in(&top, Format::Qcow2, &target, true, &mut |_| (), &patience()).await.unwrap_err();
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
        let info = take_in(&source, format, &target, false, &mut |_| (), &patience()).await.unwrap();
        assert_eq!(info.virtual_size, 4 << 20, "{format}");
        qemu_img(dir, "convert -f qcow2 -O raw t.qcow2 back.raw").await;
        assert_eq!(std::fs::read(dir.join("back.raw")).unwrap(), content, "{format}");
    }
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
