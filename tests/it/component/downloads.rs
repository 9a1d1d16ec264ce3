//! WebDownload: a small server that also misbehaves.

use super::rig::{Rig, output, statuses, steps};
use super::web::{Server, reply, rest};
use kiln::component::fetch::{Fetching, Store};

const BODY: &str = "the content\n";
const WRONG: &str = "33d2e65fd4d5a9da1aafc2d7e8d3fca9ebaa6d8bbf3f8a5b1a4a2ad4ee2ee6a2";

/// Bytes that a connection breaks in the middle of.
fn long() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

async fn server() -> Server {
    Server::start(|asked| match asked.path.as_str() {
        "/a.txt" | "/dir/a.txt?x=1" => reply("200 OK", "", BODY.as_bytes()),
        "/moved" => reply("302 Found", "Location: /a.txt\r\n", b""),
        "/forever" => reply("302 Found", "Location: /forever\r\n", b""),
        "/flaky" if asked.count == 1 => reply("503 Busy", "", b""),
        "/flaky" => reply("200 OK", "", BODY.as_bytes()),
        "/cut" => rest(asked, &long()).unwrap_or_else(|| {
            let mut all = reply("200 OK", "ETag: \"v1\"\r\n", &long());
            all.truncate(300_000);
            all
        }),
        _ => reply("404 Not Found", "", b"nothing here"),
    })
    .await
}

async fn rig(networks: &[&str]) -> Rig {
    let mut rig = Rig::new().await;
    rig.options.fetching = Some(Fetching {
        store: Store::new(rig.path("store"), 1 << 30),
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
        s3: None,
    });
    rig
}

fn download(base: &str, inputs: &str) -> String {
    steps(&format!("- {{name: Get, action: WebDownload, inputs: [{}]}}", inputs.replace("BASE", base)))
}

#[tokio::test]
async fn files_land_where_the_destination_says() {
    let server = server().await;
    let mut rig = rig(&["127.0.0.1"]).await;
    let report = rig
        .run(&download(
            &server.base,
            "{source: 'BASE/a.txt', destination: HERE/x/y/b.txt}, {source: 'BASE/dir/a.txt?x=1', destination: HERE/z/}, {source: 'BASE/moved', destination: rel}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
    for name in ["x/y/b.txt", "z/a.txt", "rel"] {
        assert_eq!(rig.read(name), BODY);
    }
    assert_eq!(
        output(&report, "Get", "destination"),
        ["x/y/b.txt", "z/a.txt", "rel"].map(|n| rig.path(n)).join("|")
    );
}

#[tokio::test]
async fn digests_and_existing_files_are_heeded() {
    let server = server().await;
    let mut rig = rig(&["127.0.0.1"]).await;
    let digest = {
        let out = std::process::Command::new("sh")
            .args(["-c", "printf 'the content\\n' | sha256sum"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()[..64].to_owned()
    };
    let verified =
        format!("{{source: 'BASE/a.txt', destination: HERE/f, algorithm: SHA256, checksum: '{digest}'}}");
    for expected_requests in [1, 1] {
        let report = rig.run(&download(&server.base, &verified)).await;
        assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
        // The second time the file is there already.
        assert_eq!(server.asked("/a.txt").len(), expected_requests);
    }
    for (inputs, part) in [
        (
            format!("{{source: 'BASE/a.txt', destination: HERE/g, algorithm: SHA256, checksum: '{WRONG}'}}"),
            "has the SHA256 digest",
        ),
        ("{source: 'BASE/a.txt', destination: HERE/f, overwrite: false}".into(), "overwrite is false"),
        ("{source: 'BASE/none', destination: HERE/g}".into(), "status 404"),
        ("{source: 'BASE/forever', destination: HERE/g}".into(), "redirects"),
        ("{source: 'BASE/', destination: HERE/}".into(), "does not end with a file name"),
        ("{source: 'file:///etc/passwd', destination: HERE/g}".into(), "no http or https"),
    ] {
        let report = rig.run(&download(&server.base, &inputs)).await;
        let message = report.failure.unwrap().message;
        assert!(message.contains(part), "{inputs}: {message}");
    }
    let left: Vec<_> =
        std::fs::read_dir(rig.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only f and the store: {left:?}");
    assert_eq!(server.asked("/none").len(), 1, "what is not there is not asked for again");
}

#[tokio::test]
async fn a_bad_connection_is_taken_up_where_it_broke() {
    let server = server().await;
    let mut rig = rig(&["127.0.0.1"]).await;
    let report = rig
        .run(&download(
            &server.base,
            "{source: 'BASE/cut', destination: HERE/cut}, {source: 'BASE/flaky', destination: HERE/flaky}",
        ))
        .await;
    assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
    assert!(std::fs::read(rig.path("cut")).unwrap() == long());
    let cut = server.asked("/cut");
    assert_eq!(cut.len(), 2);
    assert_eq!(cut[1].header("if-range"), "\"v1\"");
    assert!(cut[1].header("range").starts_with("bytes="), "{cut:?}");
    assert_eq!(server.asked("/flaky").len(), 2);
}

#[tokio::test]
async fn the_hosts_own_network_is_not_asked() {
    let server = server().await;
    let mut rig = rig(&[]).await;
    let by_name = server.base.replace("127.0.0.1", "localhost");
    for source in [
        server.base.as_str(),
        by_name.as_str(),
        "http://169.254.169.254",
        "http://[::1]:1",
        "http://[::ffff:10.0.0.1]",
    ] {
        let text = download(source, "{source: 'BASE/a.txt', destination: HERE/f}");
        let message = rig.run(&text).await.failure.unwrap().message;
        assert!(message.contains("which the host does not ask"), "{source}: {message}");
    }
    assert!(server.asked("/a.txt").is_empty());
    rig.options.fetching = None;
    let message = rig
        .run(&download(&server.base, "{source: 'BASE/a.txt', destination: HERE/f}"))
        .await
        .failure
        .unwrap();
    assert!(message.message.contains("may not fetch"), "{message}");
}
