//! Pulls from a small server that does what a vendor's does, and worse.

use super::{Rig, tool};
use crate::component::web::{Asked, Server, reply, rest};
use sha2::{Digest, Sha256, Sha512};
use std::sync::Arc;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A qcow2 of some MiB that differs from those of other seeds.
fn disk(rig: &Rig, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()
    };
    let content: Vec<u8> = (0..(3 << 18)).flat_map(|_| noise()).collect();
    rig.file("d.raw", content);
    tool(rig.folder.path(), "qemu-img convert -q -f raw -O qcow2 d.raw d.qcow2");
    std::fs::read(rig.path("d.qcow2")).unwrap()
}

/// A definition of what the server publishes, with more lines of `download`.
fn definition(rig: &Rig, base: &str, more: &str) {
    let text = format!(
        "name: vendors\ndescription: a vendor's\narchitecture: x86_64\nfirmware: [bios]\ndownload:\n  \
         versions: {{page: {base}/, link: '\"{{version}}/\"'}}\n  address: {base}/{{version}}/disk.qcow2\n  \
         checksums: {base}/{{version}}/SUMS\n{more}"
    );
    rig.file("vendors.yaml", text);
}

const INDEX: &[u8] =
    b"<a href=\"20250101/\">1</a> <a href=\"20250203/\">2</a> <a href=\"latest/\">latest</a>";

/// A vendor's server with one disk in two versions.
async fn vendor(old: Vec<u8>, new: Vec<u8>) -> Server {
    let line = |disk: &[u8]| format!("{}  disk.qcow2\n", hex(&Sha512::digest(disk)));
    Server::start(move |asked| match asked.path.as_str() {
        "/" => reply("200 OK", "", INDEX),
        "/20250101/SUMS" => reply("200 OK", "", line(&old).as_bytes()),
        "/20250203/SUMS" => reply("200 OK", "", line(&new).as_bytes()),
        "/20250101/disk.qcow2" => reply("200 OK", "", &old),
        "/20250203/disk.qcow2" => reply("200 OK", "", &new),
        _ => reply("404 Not Found", "", b""),
    })
    .await
}

#[tokio::test]
async fn the_newest_is_pinned_by_version_and_digest() {
    let rig = Rig::new();
    let (old, new) = (disk(&rig, 1), disk(&rig, 2));
    let digests = (sha256(&old), sha256(&new));
    let server = vendor(old, new).await;
    definition(&rig, &server.base, "");

    let ended = rig.kiln("--format json --progress json base pull vendors.yaml").await;
    for line in ended.err.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["type"].is_string() && event["at"].is_i64(), "{line}");
    }
    assert!(ended.err.contains("unverified: its vendor is not known to sign"), "{}", ended.err);
    let record = ended.json();
    assert_eq!((&record["version"], &record["unverified"]), (&"20250203".into(), &true.into()));
    assert_eq!(record["origin"]["digest"], digests.1.as_str());
    assert!(record["origin"]["listed"].as_str().unwrap().starts_with("sha512:"));

    // What is there is not downloaded again, and what is pinned is not even asked for.
    rig.kiln("--format json base pull vendors.yaml").await.json();
    assert_eq!(server.asked("/20250203/disk.qcow2").len(), 1);
    let asked = server.all().len();
    rig.kiln("--format json base pull vendors.yaml --version 20250203").await.json();
    assert_eq!(server.all().len(), asked);

    let record =
        rig.kiln("--format json base pull vendors.yaml --version 20250101 --name older").await.json();
    assert_eq!(record["origin"]["digest"], digests.0.as_str());
    let list = rig.kiln("--format json base list").await.json();
    let versions: Vec<&str> =
        list["bases"].as_array().unwrap().iter().map(|b| b["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["20250101", "20250203"]);
    assert!(rig.kiln("base list").await.out.contains("a vendor's, 20250203, unverified"));
    assert!(rig.kiln("base show vendors").await.out.contains("unverified    true: its vendor"));

    let digest = format!("base pull vendors.yaml --name other --digest {}", "0".repeat(64));
    rig.kiln(&digest).await.failed(4, &["is wanted"]);
    rig.kiln("base pull vendors.yaml --version 2024")
        .await
        .failed(5, &["no version `2024`", "20250203, 20250101"]);
    assert!(
        rig.left()
            .iter()
            .all(|p| !p.starts_with(rig.path("home/tmp")) && !p.starts_with(rig.path("home/pulls")))
    );

    rig.kiln("base remove vendors").await.json_free();
    assert!(!rig.kiln("base list").await.out.contains("20250203"));
}

impl super::Ended {
    fn json_free(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }
}

/// The answer as it is cut by a bad connection after so many bytes of the file.
fn cut(mut answer: Vec<u8>, file: &[u8], bytes: usize) -> Vec<u8> {
    let head = answer.len().saturating_sub(file.len());
    answer.truncate(head + bytes);
    answer
}

/// Pulls a disk that is served as `answer` says; returns what was asked, and the digest that was recorded.
async fn pulled(answer: impl Fn(&Asked, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> (Vec<Asked>, String) {
    let rig = Rig::new();
    let disk = Arc::new(disk(&rig, 7));
    let (served, sums) = (disk.clone(), format!("{} *disk.qcow2\n", sha256(&disk)));
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/" => reply("200 OK", "", INDEX),
        "/20250203/SUMS" => reply("200 OK", "", sums.as_bytes()),
        _ => answer(asked, &served),
    })
    .await;
    definition(&rig, &server.base, "");
    let record = rig.kiln("--format json base pull vendors.yaml").await.json();
    let digest = record["origin"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(digest, sha256(&disk));
    (server.asked("/20250203/disk.qcow2"), digest)
}

const TAG: &str = "ETag: \"one\"\r\n";
const DATE: &str = "Last-Modified: Mon, 03 Feb 2025 10:00:00 GMT\r\n";

#[tokio::test]
async fn a_broken_download_is_gone_on_with_by_tag_or_date() {
    for (header, validator) in [(TAG, "\"one\""), (DATE, "Mon, 03 Feb 2025 10:00:00 GMT")] {
        let (asked, _) = pulled(move |asked, disk| match rest(asked, disk) {
            Some(rest) => rest,
            None => cut(reply("200 OK", header, disk), disk, 1_500_000),
        })
        .await;
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].header("range"), "bytes=1500000-");
        assert_eq!(asked[1].header("if-range"), validator);
    }
}

#[tokio::test]
async fn a_server_that_ignores_ranges_sends_all_of_it_again() {
    let (asked, _) = pulled(|asked, disk| {
        let whole = reply("200 OK", TAG, disk);
        if asked.count == 1 { cut(whole, disk, 2_000_000) } else { whole }
    })
    .await;
    assert_eq!(asked.len(), 2);
}

/// A part of one file and the rest of another: the digest tells, and all of it is asked for again.
#[tokio::test]
async fn what_was_put_together_of_two_files_is_not_taken() {
    let (asked, _) = pulled(|asked, disk| match asked.count {
        1 => {
            let other: Vec<u8> = disk.iter().map(|b| !b).collect();
            cut(reply("200 OK", TAG, &other), disk, 1_000_000)
        }
        _ => rest(asked, disk).unwrap_or_else(|| reply("200 OK", TAG, disk)),
    })
    .await;
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn lies_about_the_length_do_no_harm() {
    let with_length = |length: usize, disk: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n{TAG}\r\n");
        [head.as_bytes(), disk].concat()
    };
    for lie in [-1000i64, 5000] {
        let (asked, _) = pulled(move |asked, disk| match asked.count {
            1 => with_length((disk.len() as i64 + lie) as usize, disk),
            2 if asked.header("range").ends_with(&format!("={}-", disk.len())) => {
                reply("416 Range Not Satisfiable", "", b"")
            }
            _ => rest(asked, disk).unwrap_or_else(|| reply("200 OK", TAG, disk)),
        })
        .await;
        assert!((2..=3).contains(&asked.len()), "{lie}: {}", asked.len());
    }
}

#[tokio::test]
async fn what_never_fits_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let sums = format!("{} *disk.qcow2\n", "0".repeat(64));
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/" => reply("200 OK", "", INDEX),
        "/20250203/SUMS" => reply("200 OK", "", sums.as_bytes()),
        "/20250101/SUMS" => reply("200 OK", "", b"<html>please log in</html>"),
        _ => reply("200 OK", TAG, b"<html>please log in</html>"),
    })
    .await;
    definition(&rig, &server.base, "");
    let ended = rig.kiln("base pull vendors.yaml").await;
    ended.failed(8, &["is another file: it has sha256:", "next: Nothing of it was kept"]);
    assert_eq!(server.asked("/20250203/disk.qcow2").len(), 3, "{}", ended.err);
    let ended = rig.kiln("base pull vendors.yaml --version 20250101").await;
    ended.failed(8, &["has no SHA-256 or SHA-512 of disk.qcow2"]);
    assert_eq!(rig.left(), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn without_a_network_it_says_what_to_do() {
    let rig = Rig::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    definition(&rig, &format!("http://{closed}"), "");
    let ended = rig.kiln("base pull vendors.yaml").await;
    ended.failed(8, &["list of versions", "next: Without a network", "kiln base import FILE --name vendors"]);
    rig.kiln("base pull debian-12").await.failed(2, &["kiln base build debian-12"]);
    rig.kiln("base build ubuntu-24.04").await.failed(2, &["kiln base pull ubuntu-24.04"]);
    rig.kiln("base pull debian-12-generic --key k").await.failed(2, &["nothing to check with --key"]);
}

#[tokio::test]
async fn signatures_are_heeded_where_keys_are_at_hand() {
    let rig = Rig::new();
    let here = rig.folder.path().to_owned();
    std::fs::create_dir(rig.path("g")).unwrap();
    let gpg = |line: &str| {
        tool(
            &here,
            &format!("gpg --homedir g --batch --quiet --pinentry-mode loopback --passphrase= {line}"),
        );
    };
    gpg("--quick-gen-key vendor ed25519 sign never");
    gpg("--quick-gen-key other ed25519 sign never");
    gpg("--armor --output vendor.asc --export vendor");
    gpg("--output other.gpg --export other");
    let disk = disk(&rig, 3);
    rig.file("SUMS", format!("SHA256 (disk.qcow2) = {}\n", sha256(&disk)));
    gpg("--local-user vendor --output SUMS.gpg --detach-sign SUMS");
    gpg("--local-user vendor --output CLEAR --clearsign SUMS");
    tool(&here, "gpgconf --homedir g --kill all");
    let read = |name: &str| std::fs::read(rig.path(name)).unwrap();
    let (sums, detached, clear) = (read("SUMS"), read("SUMS.gpg"), read("CLEAR"));
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/" => reply("200 OK", "", INDEX),
        "/20250203/SUMS" => reply("200 OK", "", &sums),
        "/20250203/SUMS.gpg" => reply("200 OK", "", &detached),
        "/20250203/CLEAR" => reply("200 OK", "", &clear),
        _ => reply("200 OK", TAG, &disk),
    })
    .await;
    let beside = format!(
        "  signature: {{address: '{}/{{version}}/SUMS.gpg', key: KEY, package: keys}}\n",
        server.base
    );

    definition(&rig, &server.base, &beside.replace("KEY", "none.gpg"));
    let record = rig.kiln("--format json base pull vendors.yaml").await.json();
    let why = record["origin"]["unverified"].as_str().unwrap();
    assert!(why.contains("none.gpg is not on this machine (the package keys brings it)"), "{why}");
    rig.kiln("base pull vendors.yaml --key none.gpg").await.failed(7, &["none.gpg is not on this machine"]);
    rig.kiln("base pull vendors.yaml --key other.gpg")
        .await
        .failed(4, &["not signed by a key", "next: Nothing"]);

    // The same file, and now somebody can tell.
    definition(&rig, &server.base, &beside.replace("KEY", "vendor.asc"));
    let record = rig.kiln("--format json base pull vendors.yaml").await.json();
    assert_eq!(
        (record["origin"]["signedBy"].as_str().unwrap().len(), &record["unverified"]),
        (40, &false.into())
    );
    assert_eq!(server.asked("/20250203/disk.qcow2").len(), 1);

    definition(&rig, &server.base, "  signature: {key: vendor.asc}\n");
    let text = std::fs::read_to_string(rig.path("vendors.yaml")).unwrap();
    rig.file("vendors.yaml", text.replace("/SUMS\n", "/CLEAR\n"));
    let record = rig.kiln("--format json base pull vendors.yaml --name clear").await.json();
    assert_eq!(record["unverified"], false);
}
