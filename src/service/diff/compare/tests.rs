use super::*;

fn entry(path: &str, content: &str) -> Entry {
    Entry {
        path: path.into(),
        kind: EntryKind::File,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        size: content.len() as u64,
        modified: 1,
        target: None,
        sha256: Some(content.into()),
        extents: None,
    }
}

fn side(packages: &[(&str, &str)], command_line: &str, files: &[(&str, &str)]) -> Holding {
    let package = |(name, version): &(&str, &str)| Package {
        name: (*name).into(),
        architecture: "amd64".into(),
        version: (*version).into(),
    };
    Holding {
        contents: Contents {
            command_line: command_line.into(),
            packages: Inventory::Read {
                manager: "dpkg".into(),
                packages: packages.iter().map(package).collect(),
            },
            mounts: vec![
                Mount { path: String::new(), offset: Some(1 << 20) },
                Mount { path: "/boot".into(), offset: None },
            ],
        },
        files: files.iter().map(|(path, content)| ((*path).to_owned(), entry(path, content))).collect(),
        owned: BTreeSet::new(),
    }
}

fn told(from: &Holding, to: &Holding, all: bool) -> Difference {
    compare(from, to, packages(&from.contents.packages, &to.contents.packages), &BTreeSet::new(), all)
}

#[test]
fn what_packages_bring_and_record_is_counted_only() {
    let mut from =
        side(&[("libx", "1"), ("same", "7")], "root=x quiet", &[("/usr/lib/libx.so", "a"), ("/motd", "b")]);
    let mut to = side(
        &[("hello", "2"), ("libx", "1.1"), ("same", "7")],
        "root=x console=ttyS0",
        &[
            ("/usr/lib/libx.so", "aa"),
            ("/motd", "bb"),
            ("/usr/bin/hello", "h"),
            ("/etc/hello", "e"),
            ("/var/lib/dpkg/status", "s"),
            ("/var/logs", "not a log"),
        ],
    );
    let changes = packages(&from.contents.packages, &to.contents.packages);
    let named =
        |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), "amd64".to_owned())).collect::<Vec<_>>();
    assert_eq!(of_changed(&from.contents.packages, &changes), named(&["libx"]));
    assert_eq!(of_changed(&to.contents.packages, &changes), named(&["hello", "libx"]));
    from.owned = ["/.".into(), "/usr/lib/libx.so".into()].into();
    to.owned = ["/bin/hello".into(), "/etc/hello".into()].into();
    let found = told(&from, &to, false);
    let package = |name: &str, from: Option<&str>, to: Option<&str>| PackageChange {
        name: name.into(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    assert_eq!(found.packages, [package("hello", None, Some("2")), package("libx", Some("1"), Some("1.1"))]);
    let paths: Vec<&str> = found.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["/motd", "/var/logs"]);
    assert_eq!(found.files[0].aspects, ["content"]);
    assert_eq!((found.of_packages, found.of_records), (3, 1));
    assert_eq!((from.bytes(), to.bytes()), (2, 16));
    assert_eq!(
        (found.removed_arguments, found.added_arguments),
        (vec!["quiet".into()], vec!["console=ttyS0".into()])
    );
    assert_eq!(told(&from, &to, true).files.len(), 6);
}

#[test]
fn times_are_no_difference_and_the_rest_is_named() {
    let (from, mut to) =
        (side(&[], "", &[("/a", "a"), ("/b", "b")]), side(&[], "", &[("/a", "a"), ("/b", "b")]));
    to.files.get_mut("/a").unwrap().modified = 2;
    assert!(told(&from, &to, true).is_none());
    let b = to.files.get_mut("/b").unwrap();
    (b.mode, b.gid, b.kind) = (0o100_600, 4, EntryKind::Other);
    assert_eq!(told(&from, &to, false).files[0].aspects, ["kind", "mode", "owner"]);
}

/// One file of both sides, without digests, in these places.
fn placed(path: &str, from: Option<&[Extent]>, to: Option<&[Extent]>) -> (Holding, Holding) {
    let one = |extents: Option<&[Extent]>| {
        let mut side = side(&[], "", &[(path, "abc")]);
        let entry = side.files.get_mut(path).unwrap();
        (entry.sha256, entry.extents) = (None, extents.map(<[Extent]>::to_vec));
        side
    };
    (one(from), one(to))
}

#[test]
fn only_the_same_places_of_blocks_that_are_alike_prove_a_file_the_same() {
    const BLOCK: u64 = BLOCK_SIZE as u64;
    // Volumes begin at block 2: places on the volume are two blocks further on the disk.
    let a = [Extent(0, BLOCK - 1, 4096)];
    let differing = |blocks: &[u64]| blocks.iter().copied().collect::<BTreeSet<u64>>();
    let must_be_read =
        |(from, to): (Holding, Holding), blocks: &[u64]| !unproven(&from, &to, &differing(blocks)).is_empty();
    assert!(!must_be_read(placed("/x", Some(&a), Some(&a)), &[0, 1, 4]));
    assert!(must_be_read(placed("/x", Some(&a), Some(&a)), &[2]));
    assert!(must_be_read(placed("/x", Some(&a), Some(&a)), &[3]), "the second block that it touches");
    // Moved inside of blocks that are alike: two files may have changed their names.
    assert!(must_be_read(placed("/x", Some(&a), Some(&[Extent(0, 0, 4096)])), &[]));
    assert!(must_be_read(placed("/x", Some(&a), Some(&[Extent(8192, BLOCK - 1, 4096)])), &[]));
    assert!(must_be_read(placed("/x", None, Some(&a)), &[]));
    assert!(must_be_read(placed("/boot/x", Some(&a), Some(&a)), &[]), "places of that volume mean nothing");
    assert!(!must_be_read(placed("/bootx", Some(&a), Some(&a)), &[]));
    let wild = [Extent(0, u64::MAX - 1, u64::MAX)];
    assert!(must_be_read(placed("/x", Some(&wild), Some(&wild)), &[]));
    // Another size is another content, and nothing but a digest tells more.
    let (from, mut to) = placed("/x", Some(&a), Some(&a));
    to.files.get_mut("/x").unwrap().size = 4;
    assert_eq!(unproven(&from, &to, &differing(&[2])), [""; 0]);
    assert_eq!(told(&from, &to, false).files[0].aspects, ["content"]);
}

#[test]
fn packages_that_nobody_can_read_are_told() {
    let (mut from, to) = (side(&[], "", &[]), side(&[("a", "1")], "", &[]));
    assert_eq!(told(&from, &to, false).packages.len(), 1);
    from.contents.packages =
        Inventory::Unread { manager: "rpm".into(), database: "/db".into(), why: "it is cut off".into() };
    let found = told(&from, &to, false);
    assert!(found.packages.is_empty() && found.notes[0].contains("/db"), "{found:?}");
    assert!(found.notes[0].ends_with("cannot read: it is cut off"), "{found:?}");
}

#[test]
fn of_a_package_all_installed_versions_are_compared() {
    let from = side(&[("kernel", "6.1"), ("kernel", "6.2")], "", &[]);
    let to = side(&[("kernel", "6.3"), ("kernel", "6.2"), ("kernel", "6.1")], "", &[]);
    let kernel = PackageChange {
        name: "kernel".into(),
        from: Some("6.1, 6.2".into()),
        to: Some("6.1, 6.2, 6.3".into()),
    };
    assert_eq!(packages(&from.contents.packages, &to.contents.packages), [kernel]);
    let again = side(&[("kernel", "6.2"), ("kernel", "6.1")], "", &[]);
    assert_eq!(packages(&from.contents.packages, &again.contents.packages), []);
}
