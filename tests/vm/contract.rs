//! What component documents promise, in real guests: every action of Linux, reboots between the steps
//! of two components, apt, and the components that come with kiln (their tests: `boot.rs`).

use crate::build::{Bench, wait_for_no_machine};
use crate::disks::tool;
use crate::s3_store::{Bucket, server};
use kiln::catalog::artifact::digest_bytes;
use kiln::component::action;
use kiln::component::fetch::s3::Credentials;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

const FILES: [&str; 5] = ["recipe.yaml", "values.yaml", "first.yml", "second.yml", "nested.yml"];
const BUCKET: Bucket = Bucket("contract");

/// Who counted in which boot of the guest: exit code 194 runs its step again, a Reboot goes on with the
/// next one, and `Again` and `Asks` ran a second time though their `if` no longer held.
const STEPS: &str = "first Before in boot 1
first Again in boot 1
first Again in boot 2
first Between in boot 2
second Asks a in boot 3
second Asks a in boot 4
second Asks b in boot 4
second Between in boot 4
second After in boot 5
";

const TREE: &str = "copies d 755 root:root
copies/renamed f 640 daemon:daemon
link l 777 root:root
made d 755 root:root
made/deep d 750 root:root
made/file f 604 root:adm
shelf d 755 daemon:adm
shelf/mirror d 711 daemon:adm
shelf/mirror/deep d 750 daemon:adm
shelf/mirror/file f 640 daemon:adm
";

/// As UpdateOS left them twice, and update-linux and install-package-linux in the end.
const VERSIONS: &str = "kiln-probe\t2.0
kiln-rest\t1.0
kiln-spare\t1.0
kiln-probe\t2.0
kiln-rest\t1.0
kiln-spare\t2.0
kiln-probe\t2.0
kiln-rest\t2.0
kiln-spare\t2.0
kiln-tool\t2.0
";

/// A repository of small packages, each in two versions.
fn repository(folder: &Path) -> PathBuf {
    let repository = folder.join("repository");
    std::fs::create_dir(&repository).unwrap();
    let mut index = String::new();
    for name in ["kiln-probe", "kiln-rest", "kiln-spare", "kiln-tool"] {
        for version in ["1.0", "2.0"] {
            let tree = folder.join(format!("{name}-{version}"));
            std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
            let control = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\n\
                 Maintainer: Tests <tests@example.test>\nDescription: nothing\n"
            );
            std::fs::write(tree.join("DEBIAN/control"), &control).unwrap();
            let package = repository.join(format!("{name}_{version}.deb"));
            let arguments = ["--root-owner-group", "--build", tree.to_str().unwrap()];
            tool("dpkg-deb", &[&arguments[..], &[package.to_str().unwrap()]].concat(), "");
            let bytes = std::fs::read(&package).unwrap();
            index += &format!(
                "{control}Filename: ./{name}_{version}.deb\nSize: {}\nSHA256: {}\n\n",
                bytes.len(),
                digest_bytes(&bytes)
            );
        }
    }
    std::fs::write(repository.join("Packages"), index).unwrap();
    repository
}

/// The address by which this machine is reached from outside; of loopback the guest has its own.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only picks the way.
    socket.connect("192.0.2.1:9").expect("a host that builds base images has a network");
    socket.local_addr().unwrap().ip()
}

/// Answers every request with `outside`, for as long as the test runs.
fn serve(address: IpAddr) -> String {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            lines.find(String::is_empty);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    base
}

/// A bench that may use the store and the server, and the flags that the recipe needs.
fn prepare() -> (Bench, [String; 4]) {
    let bench = Bench::new("contract");
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/contract");
    for name in FILES {
        std::fs::copy(documents.join(name), bench.folder.join(name)).unwrap();
    }
    let repository = repository(&bench.folder);
    for file in std::fs::read_dir(&repository).unwrap().flatten() {
        let key = format!("repository/{}", file.file_name().to_str().unwrap());
        BUCKET.put(&key, &std::fs::read(file.path()).unwrap());
    }
    BUCKET.put("nested.yml", &std::fs::read(bench.folder.join("nested.yml")).unwrap());
    let address = own_address();
    let endpoint = server().settings.endpoint.as_deref().unwrap();
    let settings = format!(
        "documents:\n  networks: [{address}/32]\n  s3: {{buckets: [contract], endpoint: '{endpoint}', region: us-east-1}}\n"
    );
    std::fs::write(bench.folder.join("home/settings.yaml"), settings).unwrap();
    let flags = ["--set".into(), format!("Host={}", serve(address)), "--values".into(), "values.yaml".into()];
    (bench, flags)
}

fn report(name: &str) -> String {
    String::from_utf8(BUCKET.get(&format!("report/{name}"))).unwrap()
}

#[test]
fn every_action_of_linux_works_in_a_guest_and_reboots_fall_between_steps() {
    let (bench, flags) = prepare();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let plan = bench.json(&[&["plan", "recipe.yaml"], &flags[..]].concat());
    let steps = plan["stages"].as_array().unwrap().iter().flat_map(|s| s["steps"].as_array().unwrap());
    let used: BTreeSet<&str> = steps.map(|s| s["action"].as_str().unwrap()).collect();
    let linux = action::ALL.iter().filter(|a| a.platforms.linux).map(|a| a.name);
    assert_eq!(used, linux.collect());

    let Credentials::Keys(keys) = &server().settings.credentials else { panic!("moto has keys") };
    let mut build = bench.kiln(&["--progress", "json", "build", "recipe.yaml"]);
    build.args(&flags).env("AWS_ACCESS_KEY_ID", &keys.id).env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    let output = build.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("the guest is back").count(), 4, "{said}");

    assert_eq!(report("steps"), STEPS);
    assert_eq!(report("tree"), TREE);
    assert_eq!(
        report("encoded").split_whitespace().collect::<String>(),
        "6f006e0065000a0074007700".to_owned() + "6f000a00"
    );
    assert_eq!(report("versions"), VERSIONS);
    assert_eq!((report("outside"), report("inside")), ("outside".into(), "inside".into()));
    assert_eq!(report("nested"), "stone\n");
    let values = "i-0123456789 north,south eu-north-7 123456789012 Debian GNU/Linux\n";
    assert_eq!(report("values"), values);
    // The guest has the secret, no log has it.
    assert_eq!(report("secret"), "open-sesame-now\n");
    let log = bench.run(&["log", "contract"]);
    let shown = String::from_utf8_lossy(&log.stdout);
    assert!(shown.contains("Hello World from the validate phase."), "{shown}");
    assert!(!said.contains("open-sesame") && !shown.contains("open-sesame"));
    assert_eq!(BUCKET.keys().iter().filter(|k| k.starts_with("report/")).count(), 9);
    wait_for_no_machine("contract-1.0.0-1");
}
