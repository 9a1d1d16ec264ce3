use super::*;
use proptest::prelude::*;

/// Tag, type, count, data.
type Tag<'a> = (u32, u32, u32, &'a [u8]);

pub fn record(tags: &[Tag]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, kind, count, bytes) in tags {
        index.extend([*tag, *kind, data.len() as u32, *count].map(u32::to_be_bytes).concat());
        data.extend(*bytes);
    }
    [&(tags.len() as u32).to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat()
}

const TOLD: [Tag; 4] = [
    (NAME, STRING, 1, b"na\tme\0"),
    (VERSION, STRING, 1, b"1.2\0"),
    (RELEASE, STRING, 1, b"3.el9\0"),
    (ARCHITECTURE, STRING, 1, b"noarch\0"),
];

fn package(tags: &[Tag]) -> Result<String> {
    let p = Header::parse(&record(tags))?.package()?;
    Ok(format!("{} {} {}", p.name, p.architecture, p.version))
}

fn paths(tags: &[Tag], mut room: usize) -> Result<(Vec<String>, bool)> {
    let mut paths = Vec::new();
    let all = Header::parse(&record(tags))?.paths(&mut paths, &mut room)?;
    Ok((paths, all))
}

#[test]
fn a_record_tells_its_package() {
    assert_eq!(package(&TOLD).unwrap(), "na?me noarch 1.2-3.el9");
    let with = |tag: Tag| package(&[&TOLD[..], &[tag]].concat());
    assert_eq!(with((EPOCH, NUMBERS, 1, &[0, 0, 1, 2])).unwrap(), "na?me noarch 258:1.2-3.el9");
    assert_eq!(with((NAME, STRING, 1, b"moved\0")).unwrap(), "moved noarch 1.2-3.el9");
    // A key that rpm trusts has no architecture.
    assert_eq!(package(&TOLD[..3]).unwrap(), "na?me  1.2-3.el9");
    let long = [&[b'x'; 5000][..], b"\0"].concat();
    assert_eq!(with((NAME, STRING, 1, &long)).unwrap().len(), 200 + " noarch 1.2-3.el9".len());
}

#[test]
fn a_record_tells_its_paths() {
    let files: [Tag; 3] = [
        (DIRECTORIES, STRINGS, 2, b"/usr/bin/\0/etc/\0"),
        (BASENAMES, STRINGS, 3, b"a\0b\0c\0"),
        (DIRECTORY_OF, NUMBERS, 3, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ];
    assert_eq!(
        paths(&files, 1000).unwrap(),
        (vec!["/usr/bin/a".into(), "/etc/b".into(), "/usr/bin/c".into()], true)
    );
    assert_eq!(paths(&files, 100).unwrap(), (vec!["/usr/bin/a".into()], false));
    assert_eq!(paths(&TOLD, 0).unwrap(), (vec![], true));
    let mut outside = files;
    outside[2].3 = &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    assert!(paths(&outside, 1000).unwrap_err().contains("does not name"));
    outside[2].2 = 1;
    assert!(paths(&outside, 1000).unwrap_err().contains("more files"));
    let long = [&[b'/'; 4096][..], b"\0"].concat();
    outside[0] = (DIRECTORIES, STRINGS, 1, &long);
    assert!(paths(&outside, 10000).unwrap_err().contains("too long"));
}

#[test]
fn what_a_record_says_of_itself_is_not_believed() {
    let said = |bytes: &[u8]| Header::parse(bytes).and_then(|h| h.package()).unwrap_err();
    let sound = record(&TOLD);
    for length in 0..sound.len() {
        said(&sound[..length]);
    }
    said(&[&sound[..], b"x"].concat());
    let with = |at: usize, word: u32| {
        let mut bytes = sound.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        bytes
    };
    assert_eq!(said(&with(0, 1 << 31)), "it has too many tags");
    assert_eq!(said(&with(0, 60_000)), "its index is cut off");
    assert_eq!(said(&with(4, u32::MAX)), "it has another length than it says");
    // The first entry: tag, type, offset, count.
    assert_eq!(said(&with(8, 7)), "it has no name");
    assert_eq!(said(&with(12, NUMBERS)), "a tag of it has the wrong type");
    assert_eq!(said(&with(16, u32::MAX)), "a tag of it points behind its end");
    assert_eq!(said(&with(20, u32::MAX)), "a tag of it has too many values");
    let endless = [&TOLD[1..], &[(NAME, STRING, 1, &b"abc"[..])]].concat();
    assert_eq!(package(&endless).unwrap_err(), "a string of it has no end");
    let cut = [&TOLD[..], &[(EPOCH, NUMBERS, 2, &[0, 0, 0, 1][..])]].concat();
    assert_eq!(package(&cut).unwrap_err(), "a tag of it is cut off");
    let few = [(DIRECTORIES, STRINGS, 3, &b"/a\0/b\0"[..])];
    assert_eq!(paths(&few, 1000).unwrap_err(), "a string of it has no end");
}

proptest! {
    #[test]
    fn any_bytes_are_a_package_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(header) = Header::parse(&bytes) {
            let _ = (header.package(), header.paths(&mut Vec::new(), &mut 1000));
        }
    }

    /// As above, of records whose lengths are right, with the tags that are looked for.
    #[test]
    fn any_tags_are_a_package_or_an_error(
        entries in prop::collection::vec((0..8usize, 0..10u32, 0..80u32, 0..12u32), 0..12),
        data in prop::collection::vec(0..4u8, 0..64),
    ) {
        const TAGS: [u32; 8] =
            [NAME, VERSION, RELEASE, EPOCH, ARCHITECTURE, DIRECTORY_OF, BASENAMES, DIRECTORIES];
        let mut bytes = [entries.len() as u32, data.len() as u32].map(u32::to_be_bytes).concat();
        for (tag, kind, offset, count) in &entries {
            bytes.extend([TAGS[*tag], *kind, *offset, *count].map(u32::to_be_bytes).concat());
        }
        bytes.extend(&data);
        let header = Header::parse(&bytes).unwrap();
        if let Ok(package) = header.package() {
            prop_assert!(!package.version.contains(char::is_control));
        }
        let (mut paths, mut room) = (Vec::new(), 1000);
        let _ = header.paths(&mut paths, &mut room);
        prop_assert!(paths.iter().map(|p: &String| p.len()).sum::<usize>() <= 3000, "U+FFFD has three bytes");
    }
}
