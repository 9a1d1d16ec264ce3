//! What kiln reads in rpm's database is what rpm says.

use crate::rpm_root::RpmRoot;
use kiln::disk::rpm::{packages, paths};
use kiln::support::wait::Patience;

/// Lets rpm trust a key that is made for it.
fn trust_a_key(rpm: &RpmRoot) {
    let own = rpm.work.join("gnupg");
    std::fs::create_dir(&own).unwrap();
    let (home, key) = (own.to_str().unwrap(), rpm.work.join("key.asc"));
    let key = key.to_str().unwrap();
    let quiet = ["--homedir", home, "--batch", "--quiet"];
    let make = ["--passphrase", "", "--quick-gen-key", "nobody <n@example.org>", "rsa2048", "sign"];
    rpm.run("gpg", &[&quiet[..], &make].concat());
    rpm.run("gpg", &[&quiet[..], &["--armor", "--output", key, "--export"]].concat());
    rpm.run("gpgconf", &["--homedir", home, "--kill", "all"]);
    rpm.rpm(&["--import", key]);
}

#[test]
fn the_packages_and_paths_are_those_that_rpm_tells() {
    let folder = tempfile::tempdir().unwrap();
    let rpm = RpmRoot::new(&folder.path().join("work"), &folder.path().join("root"));
    rpm.install(
        "plain",
        "1.0",
        None,
        &[("/opt/plain/a", "a"), ("/opt/plain/sub/b", "b"), ("/etc/plain", "c")],
    );
    rpm.install("zero", "2~rc1", Some(0), &[]);
    rpm.install("later", "1.0", Some(3), &[("/usr/bin/later", "old")]);
    rpm.install("later", "0.9", Some(4), &[("/usr/bin/later", "new"), ("/usr/bin/more", "new")]);
    trust_a_key(&rpm);

    let database = rpm.root.join("var/lib/rpm/rpmdb.sqlite");
    let patience = Patience::unlimited(&Default::default());
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let told = rpm.rpm(&["-qa", "--qf", "%{NAME} %{ARCH} %{EVR}\n"]).replace("(none)", "");
    let told = sorted(told.lines().map(str::to_owned).collect());
    let read = packages(&database, &patience).unwrap();
    let read = read.into_iter().map(|p| format!("{} {} {}", p.name, p.architecture, p.version));
    assert_eq!(sorted(read.collect()), told);
    assert_eq!(told[1..], ["later noarch 4:0.9-1", "plain noarch 1.0-1", "zero noarch 0:2~rc1-1"]);
    assert!(told[0].starts_with("gpg-pubkey  ") && told.len() == 4, "{told:?}");

    for (name, files) in [("plain", 3), ("later", 2), ("zero", 0)] {
        let told: Vec<String> =
            rpm.rpm(&["-ql", name]).lines().filter(|l| l.starts_with('/')).map(str::to_owned).collect();
        assert_eq!(told.len(), files, "{name}");
        assert_eq!(
            sorted(paths(&database, &[(name.into(), "noarch".into())], &patience).unwrap()),
            sorted(told)
        );
    }
    assert_eq!(paths(&database, &[("plain".into(), "x86_64".into())], &patience).unwrap(), [""; 0]);
}
