//! WebDownload: a small server that also misbehaves.

use super::rig::{Rig, output, statuses, steps};
use super::web::{Server, reply, rest};
use kiln::component::fetch::{Fetching, Store};

const BODY: &str = "the content\n";
const RIGHT: &str = "3ef9550502e554fbe76d38efa3b857394d56618fa8fcc8b4a2686c2df2cb5019";
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

/// A guest that owns none of this machine's addresses, and a host that may ask these of its own networks.
async fn rig(networks: &[&str]) -> Rig {
    let mut rig = Rig::new().await;
    rig.guest.foreign = ["127.0.0.1", "127.0.0.2", "::1"].map(|a| a.parse().unwrap()).to_vec();
    fetching(&mut rig, networks);
    rig
}

/// A guest that owns what this machine owns but 127.0.0.2, and a host that asks the open network only.
async fn rig_with_own_addresses() -> Rig {
    let mut rig = Rig::new().await;
    rig.guest.foreign = vec!["127.0.0.2".parse().unwrap()];
    fetching(&mut rig, &[]);
    rig
}

fn fetching(rig: &mut Rig, networks: &[&str]) {
    rig.options.fetching = Some(Fetching {
        store: Store::new(rig.path("store"), 1 << 30),
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
        s3: None,
    });
}

/// Files in the host's store, the folders of notes and parts aside.
fn stored(rig: &Rig) -> usize {
    let entries = std::fs::read_dir(rig.path("store")).unwrap().flatten();
    entries.filter(|e| e.file_name().len() == 64).count()
}

fn parts(rig: &Rig) -> usize {
    std::fs::read_dir(rig.path("store/parts")).unwrap().count()
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
    let verified =
        format!("{{source: 'BASE/a.txt', destination: HERE/f, algorithm: SHA256, checksum: '{RIGHT}'}}");
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

#[tokio::test]
async fn redirects_and_names_are_looked_at_again() {
    let other = Server::start(|_| reply("200 OK", "", b"hush")).await;
    let port = other.base.rsplit(':').next().unwrap().to_owned();
    let targets = [
        other.base.clone(),
        format!("http://localhost:{port}"),
        "http://169.254.169.254/latest".into(),
        format!("http://[::ffff:127.0.0.1]:{port}"),
    ];
    let own = targets.clone();
    let server = Server::start_on("127.0.0.2", move |asked| {
        let number: usize = asked.path.trim_start_matches('/').parse().unwrap();
        reply("302 Found", &format!("Location: {}/\r\n", own[number]), b"")
    })
    .await;
    let mut rig = rig(&["127.0.0.2"]).await;
    for number in 0..targets.len() {
        let text = download(&server.base, &format!("{{source: 'BASE/{number}', destination: HERE/f}}"));
        let message = rig.run(&text).await.failure.unwrap().message;
        assert!(message.contains("which the host does not ask"), "{number}: {message}");
        assert_eq!(server.asked(&format!("/{number}")).len(), 1);
    }
    assert!(other.all().is_empty());
}

#[tokio::test]
async fn what_has_been_fetched_is_not_fetched_again() {
    let server = Server::start(|asked| {
        let (tag, body) = match asked.path.as_str() {
            "/strong" if asked.count < 4 => ("\"one\"", "one"),
            "/strong" => ("\"two\"", "two"),
            "/weak" => ("W/\"weak\"", "weak"),
            _ => ("\"tag\"", BODY),
        };
        match asked.header("if-none-match") == tag {
            true => reply("304 Not Modified", "", b""),
            false => reply("200 OK", &format!("ETag: {tag}\r\n"), body.as_bytes()),
        }
    })
    .await;
    let mut rig = rig(&["127.0.0.1"]).await;
    let mut get = async |name: &str, more: &str| {
        let inputs = format!("{{source: 'BASE/{name}', destination: HERE/{name}{more}}}");
        let report = rig.run(&download(&server.base, &inputs)).await;
        assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
        let content = rig.read(name);
        std::fs::remove_file(rig.path(name)).unwrap();
        (content, stored(&rig))
    };
    // The server is asked whether it is still the same; it sends it only when it is not.
    for (content, files) in [("one", 1), ("one", 1), ("one", 1), ("two", 2), ("two", 2)] {
        assert_eq!(get("strong", "").await, (content.to_owned(), files));
    }
    // A weak tag stands for no bytes.
    get("weak", "").await;
    get("weak", "").await;
    assert!(server.asked("/weak").iter().all(|a| a.header("if-none-match").is_empty()));
    // By its digest it needs no server at all, also under another address.
    let digest = format!(", algorithm: SHA256, checksum: '{}'", RIGHT.to_uppercase());
    for name in ["sum", "sum", "elsewhere"] {
        assert_eq!(get(name, &digest).await.0, BODY);
    }
    assert_eq!((server.asked("/sum").len(), server.asked("/elsewhere").len()), (1, 0));
    // A copy that was damaged is found out by the guest, and fetched anew.
    std::fs::write(rig.path(&format!("store/{RIGHT}")), "other bytes\n").unwrap();
    let inputs = format!("{{source: 'BASE/new', destination: HERE/new{digest}}}");
    let report = rig.run(&download(&server.base, &inputs)).await;
    assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
    assert_eq!((rig.read("new").as_str(), server.asked("/new").len()), (BODY, 1));
    assert_eq!(std::fs::read_to_string(rig.path(&format!("store/{RIGHT}"))).unwrap(), BODY);
    // What came unchecked is not taken for what came checked: the server is asked for all of it again.
    let inputs = "{source: 'BASE/new', destination: HERE/new, ignoreCertificateErrors: true}";
    rig.run(&download(&server.base, inputs)).await;
    assert_eq!(server.asked("/new")[1].header("if-none-match"), "");
}

#[tokio::test]
async fn the_next_run_goes_on_where_this_one_was_cut_short() {
    let server = server().await;
    let mut rig = rig(&["127.0.0.1"]).await;
    let text = |seconds| {
        let inputs = format!("[{{source: '{}/cut', destination: HERE/cut}}]", server.base);
        steps(&format!("- {{name: Get, action: WebDownload, timeoutSeconds: {seconds}, inputs: {inputs}}}"))
    };
    // The connection breaks at once, and the second try comes too late.
    let report = rig.run(&text(1)).await;
    assert_eq!(statuses(&report), ["Get timedOut"]);
    assert_eq!(parts(&rig), 2, "a part and its tag");
    let report = rig.run(&text(60)).await;
    assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
    assert!(std::fs::read(rig.path("cut")).unwrap() == long());
    let asked = server.asked("/cut");
    assert_eq!((asked.len(), asked[1].header("if-range")), (2, "\"v1\""));
    assert_eq!((parts(&rig), stored(&rig)), (0, 1));
}

#[tokio::test]
async fn addresses_of_the_guests_own_are_asked_by_the_guest() {
    let server = server().await;
    let mut rig = rig_with_own_addresses().await;
    let by_name = server.base.replace("127.0.0.1", "localhost");
    let inputs = format!(
        "{{source: 'BASE/a.txt', destination: HERE/a}}, {{source: 'BASE/moved', destination: HERE/b}}, \
         {{source: '{by_name}/cut', destination: HERE/c}}"
    );
    let report = rig.run(&download(&server.base, &inputs)).await;
    assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
    assert_eq!((rig.read("a").as_str(), rig.read("b").as_str()), (BODY, BODY));
    assert!(std::fs::read(rig.path("c")).unwrap() == long());
    // What a guest says is for this guest only.
    assert_eq!((stored(&rig), parts(&rig)), (0, 0));
    // From there the way leads no further than from anywhere.
    let other = Server::start_on("127.0.0.2", |_| reply("200 OK", "", b"hush")).await;
    let away = other.base.clone();
    let server = Server::start(move |_| reply("302 Found", &format!("Location: {away}/\r\n"), b"")).await;
    let report = rig.run(&download(&server.base, "{source: 'BASE/x', destination: HERE/x}")).await;
    let message = report.failure.unwrap().message;
    assert!(message.contains("which the host does not ask"), "{message}");
    assert!(other.all().is_empty());
}

#[tokio::test]
async fn a_closed_port_of_the_guest_is_told_as_such() {
    let mut rig = rig_with_own_addresses().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let inputs = format!("[{{source: '{base}/x', destination: HERE/x}}]");
    let text = steps(&format!("- {{name: Get, action: WebDownload, timeoutSeconds: 2, inputs: {inputs}}}"));
    let report = rig.run(&text).await;
    assert_eq!(statuses(&report), ["Get timedOut"]);
    assert!(rig.watch.told.iter().any(|l| l.contains("Connection refused")), "{:?}", rig.watch.told);
}

/// A server with a certificate that nobody has signed.
#[tokio::test]
async fn a_guests_own_server_may_speak_tls() {
    use std::io::{BufRead, BufReader};
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/component/tls_server.py");
    let mut server = std::process::Command::new(super::s3_store::python())
        .arg(script)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let base = format!("https://127.0.0.1:{}", line.trim());
    for inside in [true, false] {
        let mut rig = if inside { rig_with_own_addresses().await } else { rig(&["127.0.0.1"]).await };
        let report = rig.run(&download(&base, "{source: 'BASE/a', destination: HERE/a}")).await;
        let message = report.failure.unwrap().message;
        assert!(message.contains("the server cannot be trusted"), "{message}");
        let inputs = "{source: 'BASE/a', destination: HERE/a, ignoreCertificateErrors: true}";
        let report = rig.run(&download(&base, inputs)).await;
        assert_eq!(statuses(&report), ["Get success"], "{:?}", report.failure);
        assert_eq!(rig.read("a"), "sealed\n".repeat(50_000));
        assert_eq!(stored(&rig), usize::from(!inside));
    }
    drop(server.stdin.take());
    server.wait().unwrap();
}
