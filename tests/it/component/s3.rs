//! S3Download and S3Upload against a real store: moto, which checks signatures, or the program that
//! `KILN_TEST_S3S_FS` names.

use super::rig::{Rig, exists, statuses, steps};
use super::s3_store::{Bucket, server};
use super::web::{self, Asked, reply, rest};
use kiln::component::fetch::s3::{Buckets, Credentials, Keys, S3};
use kiln::component::fetch::{Fetching, Store};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// It checks more of a request than moto does, and knows less of what S3 answers.
fn is_s3s_fs() -> bool {
    std::env::var_os("KILN_TEST_S3S_FS").is_some()
}

/// A rig that may use the store as `change` leaves its settings.
async fn rig(change: impl FnOnce(&mut S3)) -> Rig {
    let mut rig = Rig::new().await;
    let mut s3 = server().settings.clone();
    change(&mut s3);
    rig.options.fetching = Some(Fetching {
        store: Store::new(rig.path("store"), 1 << 30),
        networks: Vec::new(),
        s3: Some(Arc::new(s3)),
    });
    rig
}

fn step(action: &str, inputs: &str) -> String {
    steps(&format!("- {{name: Copy, action: {action}, inputs: [{{{inputs}}}]}}"))
}

/// A path and what is there: a text is a file, `/` a folder, `-` nothing, `->x` a link to x.
type Tree = &'static [(&'static str, &'static str)];

struct Download {
    inputs: &'static str,
    /// Keys and what they hold.
    objects: Tree,
    before: Tree,
    /// Part of the failure's message; empty for success.
    fails: &'static str,
    after: Tree,
}

const fn down(inputs: &'static str, objects: Tree, after: Tree) -> Download {
    Download { inputs, objects, before: &[], fails: "", after }
}

const fn down_fails(
    inputs: &'static str,
    objects: Tree,
    before: Tree,
    fails: &'static str,
    after: Tree,
) -> Download {
    Download { inputs, objects, before, fails, after }
}

const DOWNLOADS: &[Download] = &[
    down(
        "source: 's3://BUCKET/a/b.txt', destination: HERE/x/y.txt",
        &[("a/b.txt", "one")],
        &[("x/y.txt", "one")],
    ),
    down("source: 's3://BUCKET/a b+ü&=', destination: rel", &[("a b+ü&=", "odd")], &[("rel", "odd")]),
    down("source: 's3://BUCKET/empty', destination: HERE/e", &[("empty", "")], &[("e", "")]),
    down("source: 's3://BUCKET/a', destination: HERE/e, overwrite: true", &[("a", "new")], &[("e", "new")]),
    Download {
        before: &[("e", "older")],
        ..down("source: 's3://BUCKET/a', destination: HERE/e", &[("a", "new")], &[("e", "new")])
    },
    down(
        "source: 's3://BUCKET/a', destination: HERE/e, expectedBucketOwner: 123456789012",
        &[("a", "1")],
        &[("e", "1")],
    ),
    down(
        "source: 's3://BUCKET/p/*', destination: HERE/out",
        &[("p/one", "1"), ("p/s/two", "2"), ("px", "3"), ("q/three", "4")],
        &[("out/one", "1"), ("out/s/two", "2"), ("out/px", "-"), ("out/three", "-")],
    ),
    down(
        "source: 's3://BUCKET/p/*', destination: 'HERE/out/'",
        &[("p/", ""), ("p/f", "1")],
        &[("out/f", "1")],
    ),
    down(
        "source: 's3://BUCKET/*', destination: HERE/all",
        &[("a", "1"), ("b/c", "2")],
        &[("all/a", "1"), ("all/b/c", "2")],
    ),
    down_fails(
        "source: 's3://BUCKET/a', destination: HERE/e, overwrite: false",
        &[("a", "new")],
        &[("e", "older")],
        "exists, and overwrite is false",
        &[("e", "older")],
    ),
    down_fails(
        "source: 's3://BUCKET/p/*', destination: HERE/out, overwrite: false",
        &[("p/a", "new"), ("p/b", "new")],
        &[("out/b", "older")],
        "overwrite is false",
        // What was written before stays.
        &[("out/a", "new"), ("out/b", "older")],
    ),
    down_fails("source: 's3://BUCKET/none', destination: HERE/e", &[], &[], "NoSuchKey (404)", &[("e", "-")]),
    down_fails(
        "source: 's3://no-bucket-of-ours/a', destination: HERE/e",
        &[],
        &[],
        "NoSuchBucket (404)",
        &[],
    ),
    down_fails(
        "source: 's3://BUCKET/p/*', destination: HERE/out",
        &[("x", "1")],
        &[],
        "no object below",
        &[("out", "-")],
    ),
    down_fails(
        "source: 's3://BUCKET/p/*.txt', destination: HERE/out",
        &[("p/a.txt", "1")],
        &[],
        "NoSuchKey",
        &[],
    ),
    down_fails(
        "source: 's3://BUCKET/a', destination: HERE/d/",
        &[("a", "1")],
        &[],
        "is a file: write",
        &[("d", "-")],
    ),
    down_fails(
        "source: 's3://BUCKET/a', destination: HERE/d",
        &[("a", "1")],
        &[("d", "/")],
        "is a folder",
        &[],
    ),
    down_fails("source: 's3://BUCKET/', destination: HERE/d", &[], &[], "names no object", &[]),
    down_fails("source: 'https://BUCKET/a', destination: HERE/d", &[], &[], "no s3:// address", &[]),
    down_fails(
        "source: 's3://BUCKET/a', destination: HERE/e, expectedBucketOwner: me",
        &[("a", "1")],
        &[],
        "no account number",
        &[],
    ),
];

struct Upload {
    inputs: &'static str,
    before: Tree,
    fails: &'static str,
    objects: Tree,
}

const fn up(inputs: &'static str, before: Tree, objects: Tree) -> Upload {
    Upload { inputs, before, fails: "", objects }
}

const fn up_fails(inputs: &'static str, before: Tree, fails: &'static str) -> Upload {
    Upload { inputs, before, fails, objects: &[] }
}

const TREE: Tree =
    &[("d/a.log", "1"), ("d/b.log", "2"), ("d/c.txt", "3"), ("d/s/e.log", "4"), ("d/l", "->c.txt")];

const UPLOADS: &[Upload] = &[
    up("source: HERE/a, destination: 's3://BUCKET/x/y'", &[("a", "one")], &[("x/y", "one")]),
    up("source: a, destination: 's3://BUCKET/x/'", &[("a", "one")], &[("x/a", "one")]),
    up("source: HERE/a, destination: 's3://BUCKET'", &[("a", "")], &[("a", "")]),
    up("source: 'HERE/a ü=', destination: 's3://BUCKET/'", &[("a ü=", "odd")], &[("a ü=", "odd")]),
    up("source: HERE/l, destination: 's3://BUCKET/k'", &[("a", "one"), ("l", "->a")], &[("k", "one")]),
    up(
        "source: HERE/a, destination: 's3://BUCKET/k', expectedBucketOwner: '123456789012', recurse: 'false'",
        &[("a", "one")],
        &[("k", "one")],
    ),
    up(
        "source: 'HERE/d/*', destination: 's3://BUCKET/p/'",
        TREE,
        &[("p/a.log", "1"), ("p/b.log", "2"), ("p/c.txt", "3"), ("p/l", "3")],
    ),
    up("source: 'HERE/d/*.log', destination: 's3://BUCKET/p'", TREE, &[("p/a.log", "1"), ("p/b.log", "2")]),
    up(
        "source: 'HERE/d/*', destination: 's3://BUCKET/p/', recurse: true",
        TREE,
        &[("p/a.log", "1"), ("p/b.log", "2"), ("p/c.txt", "3"), ("p/l", "3"), ("p/s/e.log", "4")],
    ),
    up(
        "source: HERE/d, destination: 's3://BUCKET', recurse: 'true'",
        TREE,
        &[("a.log", "1"), ("b.log", "2"), ("c.txt", "3"), ("l", "3"), ("s/e.log", "4")],
    ),
    up("source: 'HERE/d/*', destination: 's3://BUCKET/p/'", &[("d/s/e", "4")], &[]),
    up_fails("source: HERE/none, destination: 's3://BUCKET/p'", &[], "there is no file"),
    up_fails("source: 'HERE/*.x', destination: 's3://BUCKET/p'", TREE, "nothing matches"),
    up_fails("source: HERE/d, destination: 's3://BUCKET/p'", TREE, "needs recurse: true"),
    up_fails("source: HERE/a, destination: 's3://no-bucket-of-ours/p'", &[("a", "1")], "NoSuchBucket (404)"),
    up_fails("source: HERE/a, destination: /tmp/p", &[("a", "1")], "no s3:// address"),
];

fn prepare(folder: &Path, tree: Tree) {
    for (name, content) in tree {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, path).unwrap(),
            None if *content == "/" => std::fs::create_dir_all(path).unwrap(),
            None => std::fs::write(path, content).unwrap(),
        }
    }
}

fn hold(name: &str, report: &kiln::component::RunReport, fails: &str) {
    match &report.failure {
        None => assert!(fails.is_empty(), "{name}: should fail with {fails}"),
        Some(failure) => {
            assert!(!fails.is_empty() && failure.message.contains(fails), "{name}: {failure}");
        }
    }
}

#[tokio::test]
async fn every_row_of_s3_download_holds() {
    let mut rig = rig(|_| ()).await;
    for (i, case) in DOWNLOADS.iter().enumerate() {
        if is_s3s_fs() && case.fails.contains("NoSuchBucket") {
            continue;
        }
        let bucket = Bucket(format!("down-{i}").leak());
        bucket.keys();
        case.objects.iter().for_each(|(key, body)| bucket.put(key, body.as_bytes()));
        let folder = rig.folder.path().join(bucket.0);
        std::fs::create_dir(&folder).unwrap();
        prepare(&folder, case.before);
        rig.options.working_directory = folder.to_str().unwrap().into();
        let inputs = case.inputs.replace("HERE", folder.to_str().unwrap()).replace("BUCKET", bucket.0);
        let report = rig.run(&step("S3Download", &inputs)).await;
        let name = format!("case {i}: {}", case.inputs);
        hold(&name, &report, case.fails);
        for (path, want) in case.after {
            let path = folder.join(path);
            match *want {
                "-" => assert!(!exists(path.to_str().unwrap()), "{name}: {}", path.display()),
                "/" => assert!(path.is_dir(), "{name}: {}", path.display()),
                text => assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}"),
            }
        }
    }
}

#[tokio::test]
async fn every_row_of_s3_upload_holds() {
    let mut rig = rig(|_| ()).await;
    for (i, case) in UPLOADS.iter().enumerate() {
        if is_s3s_fs() && case.fails.contains("NoSuchBucket") {
            continue;
        }
        let bucket = Bucket(format!("up-{i}").leak());
        bucket.keys();
        let folder = rig.folder.path().join(bucket.0);
        std::fs::create_dir(&folder).unwrap();
        prepare(&folder, case.before);
        rig.options.working_directory = folder.to_str().unwrap().into();
        let inputs = case.inputs.replace("HERE", folder.to_str().unwrap()).replace("BUCKET", bucket.0);
        let report = rig.run(&step("S3Upload", &inputs)).await;
        let name = format!("case {i}: {}", case.inputs);
        hold(&name, &report, case.fails);
        let want: Vec<&str> = case.objects.iter().map(|(key, _)| *key).collect();
        assert_eq!(bucket.keys(), want, "{name}");
        for (key, body) in case.objects {
            assert_eq!(bucket.get(key), body.as_bytes(), "{name}: {key}");
        }
    }
}

#[tokio::test]
async fn what_is_unchanged_comes_from_the_hosts_store() {
    let mut rig = rig(|_| ()).await;
    let bucket = Bucket("kept");
    bucket.put("a", b"first");
    let text = step("S3Download", "source: 's3://kept/a', destination: HERE/f");
    let content = |rig: &Rig| std::fs::read_dir(rig.path("store")).unwrap().count();
    for (body, kept) in [("first", 1), ("first", 1), ("second", 2)] {
        bucket.put("a", body.as_bytes());
        let report = rig.run(&text).await;
        assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
        assert_eq!(rig.read("f"), body);
        // Beside the folders of notes and of parts.
        assert_eq!(content(&rig), kept + 2);
    }
    // Taken from the store: what a changed copy there holds is what arrives.
    bucket.put("b", b"honest");
    let text = step("S3Download", "source: 's3://kept/b', destination: HERE/g");
    rig.run(&text).await;
    for entry in std::fs::read_dir(rig.path("store")).unwrap().flatten() {
        if std::fs::read(entry.path()).is_ok_and(|c| c == b"honest") {
            std::fs::write(entry.path(), b"marked").unwrap();
        }
    }
    rig.run(&text).await;
    // s3s-fs sends an object also where it is told which one is here.
    assert_eq!(rig.read("g"), if is_s3s_fs() { "honest" } else { "marked" });
}

#[tokio::test]
async fn a_large_file_goes_in_parts() {
    let mut rig = rig(|_| ()).await;
    let bucket = Bucket("parts");
    bucket.keys();
    let path = rig.path("large");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((65 << 20) + 7).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"the end", 65 << 20).unwrap();
    let report = rig.run(&step("S3Upload", "source: HERE/large, destination: 's3://parts/large'")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    let report = rig.run(&step("S3Download", "source: 's3://parts/large', destination: HERE/back")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    let same = Command::new("cmp").args([&path, &rig.path("back")]).status().unwrap();
    assert!(same.success());
    assert_eq!(bucket.ask("uploads", "", b""), 0);
}

#[tokio::test]
async fn a_document_may_lie_in_the_store() {
    let inner = "schemaVersion: 1.0
phases: [{name: build, steps: [{name: Inner, action: CreateFile, inputs: [{path: made}]}]}]
";
    let bucket = Bucket("documents");
    bucket.put("inner.yml", inner.as_bytes());
    bucket.put("large.yml", &vec![b' '; (1 << 20) + 1]);
    let mut rig = rig(|_| ()).await;
    let run = |key: &str, owner: &str| {
        let inputs = format!("{{document: 's3://documents/{key}', document-s3-bucket-owner: '{owner}'}}");
        steps(&format!("- {{name: Out, action: ExecuteDocument, inputs: {inputs}}}"))
    };
    let report = rig.run(&run("inner.yml", "123456789012")).await;
    assert_eq!(statuses(&report), ["Out success"], "{:?}", report.failure);
    assert!(exists(&rig.path("made")));
    for (key, owner, part) in [
        ("none.yml", "123456789012", "NoSuchKey"),
        ("large.yml", "123456789012", "more than 1048576 bytes"),
        ("inner.yml", "me", "no account number"),
    ] {
        let message = rig.run(&run(key, owner)).await.failure.unwrap().message;
        assert!(message.contains(part), "{message}");
    }
    // As a download it may be as large as it likes, and stays too large for a document.
    let download = step("S3Download", "source: 's3://documents/large.yml', destination: HERE/f");
    assert_eq!(statuses(&rig.run(&download).await), ["Copy success"]);
    let message = rig.run(&run("large.yml", "123456789012")).await.failure.unwrap().message;
    assert!(message.contains("more than 1048576 bytes"), "{message}");
}

#[tokio::test]
async fn only_what_the_settings_allow_is_asked() {
    let bucket = Bucket("allowed");
    bucket.put("a", b"one");
    let named = Buckets::Named(vec!["allow*".into()]);
    let mut rig = rig(|s3| s3.buckets = named).await;
    let ask = |bucket: &str| step("S3Download", &format!("source: 's3://{bucket}/a', destination: HERE/f"));
    let report = rig.run(&ask("allowed")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    let message = rig.run(&ask("other")).await.failure.unwrap().message;
    assert!(message.contains("add `other` to documents.s3.buckets in settings.yaml"), "{message}");
    let upload = step("S3Upload", "source: HERE/f, destination: 's3://other/f'");
    let message = rig.run(&upload).await.failure.unwrap().message;
    assert!(message.contains("add `other` to documents.s3.buckets"), "{message}");

    rig.options.fetching.as_mut().unwrap().s3 = None;
    for text in [ask("allowed"), step("S3Download", "source: 's3://allowed/*', destination: HERE/d"), upload]
    {
        let message = rig.run(&text).await.failure.unwrap().message;
        assert!(message.contains("documents: {s3: {buckets: [NAME]}}"), "{message}");
    }
}

#[tokio::test]
async fn wrong_keys_are_told() {
    let bucket = Bucket("locked");
    bucket.put("a", b"one");
    let text = step("S3Download", "source: 's3://locked/a', destination: HERE/f");
    for (credentials, part) in [
        (Credentials::Keys(Keys { secret: "wrong".into(), ..keys() }), "SignatureDoesNotMatch (403)"),
        (Credentials::Anonymous, "403"),
        (Credentials::Missing("there are no keys: do this".into()), "there are no keys: do this"),
    ] {
        let mut rig = rig(|s3| s3.credentials = credentials).await;
        let message = rig.run(&text).await.failure.unwrap().message;
        assert!(message.contains(part), "{message}");
        assert!(!exists(&rig.path("f")));
    }
}

fn keys() -> Keys {
    match &server().settings.credentials {
        Credentials::Keys(keys) => keys.clone(),
        other => panic!("{other:?}"),
    }
}

/// A rig that uses a store which does what the test says.
async fn scripted(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> (Rig, web::Server) {
    let store = web::Server::start(answer).await;
    let mut rig = Rig::new().await;
    let s3 = S3 {
        endpoint: Some(store.base.clone()),
        region: "us-east-1".into(),
        path_style: true,
        credentials: Credentials::Keys(Keys { id: "id".into(), secret: "s".into(), token: Some("t".into()) }),
        buckets: Buckets::All,
    };
    rig.options.fetching = Some(Fetching {
        store: Store::new(rig.path("store"), 1 << 30),
        networks: Vec::new(),
        s3: Some(s3.into()),
    });
    (rig, store)
}

#[tokio::test]
async fn the_owner_and_the_session_go_along_signed_and_a_refusal_is_told() {
    let refused = b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    let (mut rig, store) = scripted(move |_| reply("403 Forbidden", "", refused)).await;
    for (action, inputs) in [
        ("S3Download", "source: 's3://buck/a', destination: HERE/f, expectedBucketOwner: 123456789012"),
        ("S3Download", "source: 's3://buck/a/*', destination: HERE/f, expectedBucketOwner: 123456789012"),
        ("S3Upload", "source: /etc/hostname, destination: 's3://buck/a', expectedBucketOwner: 123456789012"),
    ] {
        let message = rig.run(&step(action, inputs)).await.failure.unwrap().message;
        assert!(message.contains("AccessDenied (403): No."), "{message}");
    }
    let asked = store.all();
    assert_eq!(asked.len(), 3, "what is refused is not asked for again");
    for ask in asked {
        assert_eq!(ask.header("x-amz-expected-bucket-owner"), "123456789012");
        assert_eq!(ask.header("x-amz-security-token"), "t");
        let signed =
            "x-amz-content-sha256;x-amz-date;x-amz-expected-bucket-owner;x-amz-security-token,Signature=";
        assert!(ask.header("authorization").contains(signed), "{ask:?}");
    }
}

#[tokio::test]
async fn a_bucket_of_another_region_is_asked_there() {
    let (mut rig, store) = scripted(|asked| match asked.header("authorization").contains("/eu-west-3/s3/") {
        true => reply("200 OK", "", b"here"),
        false => reply("301 Moved Permanently", "x-amz-bucket-region: eu-west-3\r\n", b""),
    })
    .await;
    let report = rig.run(&step("S3Download", "source: 's3://buck/a', destination: HERE/f")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    assert_eq!((rig.read("f").as_str(), store.all().len()), ("here", 2));
}

#[tokio::test]
async fn a_bad_connection_to_the_store_is_taken_up_and_what_changed_begins_again() {
    let one: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let other: Vec<u8> = one.iter().rev().copied().collect();
    let (want, want_other) = (one.clone(), other.clone());
    let (mut rig, store) = scripted(move |asked| {
        let cut = |body: &[u8], tag: &str| {
            let mut all = reply("200 OK", &format!("ETag: {tag}\r\n"), body);
            all.truncate(150_000);
            all
        };
        match (asked.path.as_str(), asked.count) {
            ("/buck/same", 1) => cut(&one, "\"one\""),
            ("/buck/same", 2) => reply("503 Slow", "", b"<Error><Code>SlowDown</Code></Error>"),
            ("/buck/same", _) => rest(asked, &one).unwrap(),
            ("/buck/changed", 1) => cut(&one, "\"one\""),
            ("/buck/changed", _) => match asked.header("if-match") {
                "" => reply("200 OK", "ETag: \"two\"\r\n", &other),
                _ => reply("412 Precondition Failed", "", b""),
            },
            _ => reply("404 Not Found", "", b""),
        }
    })
    .await;
    let report = rig.run(&step("S3Download", "source: 's3://buck/same', destination: HERE/f")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    assert!(std::fs::read(rig.path("f")).unwrap() == want);
    let asked = store.asked("/buck/same");
    assert_eq!((asked.len(), asked[2].header("if-match")), (3, "\"one\""));
    let report = rig.run(&step("S3Download", "source: 's3://buck/changed', destination: HERE/g")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    assert!(std::fs::read(rig.path("g")).unwrap() == want_other);
}

#[tokio::test]
async fn what_does_not_fit_its_checksum_does_not_arrive() {
    let (mut rig, store) = scripted(|asked| {
        let body: &[u8] = if asked.count == 1 { b"12345678X" } else { b"123456789" };
        reply("200 OK", "x-amz-checksum-crc64nvme: rosUhgp5mIg=\r\n", body)
    })
    .await;
    let report = rig.run(&step("S3Download", "source: 's3://buck/a', destination: HERE/f")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    assert_eq!((rig.read("f").as_str(), store.all().len()), ("123456789", 2));
}

#[tokio::test]
async fn more_than_a_thousand_objects_are_refused_before_any_comes() {
    let (mut rig, store) = scripted(|asked| {
        let (from, more) =
            if asked.path.contains("continuation-token=t%2F1") { (600, "false") } else { (0, "true") };
        let keys: String =
            (from..from + 600).map(|i| format!("<Contents><Key>p/{i}</Key></Contents>")).collect();
        let next = "<NextContinuationToken>t/1</NextContinuationToken>";
        let page = format!("<R>{keys}<IsTruncated>{more}</IsTruncated>{next}</R>");
        reply("200 OK", "", page.as_bytes())
    })
    .await;
    let report = rig.run(&step("S3Download", "source: 's3://buck/p/*', destination: HERE/out")).await;
    let message = report.failure.unwrap().message;
    assert!(message.contains("more than 1000 objects"), "{message}");
    assert!(!exists(&rig.path("out")));
    assert_eq!(store.all().len(), 2);
}

#[tokio::test]
async fn marks_of_folders_become_folders() {
    let (mut rig, _store) = scripted(|asked| match asked.path.contains("list-type") {
        true => reply(
            "200 OK",
            "",
            b"<R><Contents><Key>p/</Key></Contents><Contents><Key>p/a/b/</Key></Contents></R>",
        ),
        false => reply("500 Internal Server Error", "", b""),
    })
    .await;
    let report = rig.run(&step("S3Download", "source: 's3://buck/p/*', destination: HERE/out")).await;
    assert_eq!(statuses(&report), ["Copy success"], "{:?}", report.failure);
    assert!(Path::new(&rig.path("out/a/b")).is_dir());
}

#[tokio::test]
async fn names_that_leave_the_folder_are_refused_before_any_comes() {
    for bad in ["p/../x", "p//x", "p/./x", "p/a/.."] {
        let (mut rig, _store) = scripted(move |_| {
            let page =
                format!("<R><Contents><Key>p/ok</Key></Contents><Contents><Key>{bad}</Key></Contents></R>");
            reply("200 OK", "", page.as_bytes())
        })
        .await;
        let report = rig.run(&step("S3Download", "source: 's3://buck/p/*', destination: HERE/out")).await;
        let message = report.failure.unwrap().message;
        assert!(message.contains("cannot be a file's name"), "{message}");
        assert!(!exists(&rig.path("out")));
    }
}

#[tokio::test]
async fn an_upload_in_parts_that_fails_is_given_up_in_the_store_too() {
    let (mut rig, store) = scripted(|asked| match asked.method.as_str() {
        "POST" => reply("200 OK", "", b"<R><UploadId>u&amp;1</UploadId></R>"),
        "DELETE" => reply("204 No Content", "", b""),
        _ => reply("403 Forbidden", "", b"<Error><Code>AccessDenied</Code></Error>"),
    })
    .await;
    std::fs::File::create(rig.path("large")).unwrap().set_len((64 << 20) + 1).unwrap();
    let report = rig.run(&step("S3Upload", "source: HERE/large, destination: 's3://buck/a'")).await;
    assert!(report.failure.unwrap().message.contains("AccessDenied"));
    let methods: Vec<String> = store.all().iter().map(|a| format!("{} {}", a.method, a.path)).collect();
    assert_eq!(
        methods,
        ["POST /buck/a?uploads=", "PUT /buck/a?partNumber=1&uploadId=u%261", "DELETE /buck/a?uploadId=u%261"]
    );
}
