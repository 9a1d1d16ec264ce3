use super::*;
use crate::appliance::Package;

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
    }
}

fn side(packages: &[(&str, &str)], command_line: &str, files: &[(&str, &str)]) -> Side {
    let package = |(name, version): &(&str, &str)| Package {
        name: (*name).into(),
        architecture: "amd64".into(),
        version: (*version).into(),
    };
    let owned = BTreeMap::from([
        ("hello".to_owned(), vec!["/.".into(), "/bin/hello".into(), "/etc/hello".into()]),
        ("libx:amd64".to_owned(), vec!["/usr/lib/libx.so".into()]),
    ]);
    Side {
        title: "x".into(),
        contents: Contents {
            command_line: command_line.into(),
            packages: Some(packages.iter().map(package).collect()),
            owned,
        },
        files: files.iter().map(|(path, content)| ((*path).to_owned(), entry(path, content))).collect(),
    }
}

#[test]
fn what_packages_bring_and_record_is_counted_only() {
    let from =
        side(&[("libx", "1"), ("same", "7")], "root=x quiet", &[("/usr/lib/libx.so", "a"), ("/motd", "b")]);
    let to = side(
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
    let found = compare(&from, &to, false);
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
    assert_eq!((found.from_bytes, found.to_bytes), (2, 16));
    assert_eq!(
        (found.removed_arguments, found.added_arguments),
        (vec!["quiet".into()], vec!["console=ttyS0".into()])
    );
    assert_eq!(compare(&from, &to, true).files.len(), 6);
}

#[test]
fn times_are_no_difference_and_the_rest_is_named() {
    let (from, mut to) =
        (side(&[], "", &[("/a", "a"), ("/b", "b")]), side(&[], "", &[("/a", "a"), ("/b", "b")]));
    to.files.get_mut("/a").unwrap().modified = 2;
    assert!(compare(&from, &to, true).is_none());
    let b = to.files.get_mut("/b").unwrap();
    (b.mode, b.gid, b.kind) = (0o100_600, 4, EntryKind::Other);
    assert_eq!(compare(&from, &to, false).files[0].aspects, ["kind", "mode", "owner"]);
}
