//! UpdateOS and the package installer: scripts for managers write down what they are asked; then Debian's
//! own dnf, which has a root and a repository of its own. apt-get is asked in a guest (`tests/vm`).

use super::rig::{Rig, output, statuses, steps};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A folder of programs that is all of the step's path.
async fn with_programs() -> (Rig, PathBuf) {
    let mut rig = Rig::new().await;
    let bin = rig.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    rig.options.environment = vec![("PATH".into(), bin.to_str().unwrap().into())];
    (rig, bin)
}

async fn with(managers: &[&str]) -> Rig {
    let (rig, bin) = with_programs().await;
    for name in managers {
        let calls = rig.path("calls");
        let text =
            format!("echo \"{name} $* [$DEBIAN_FRONTEND]\" >> {calls}\n[ \"$1\" != showhold ] || echo held");
        script(&bin, name, &text);
    }
    // What is installed here: nginx and curl, but not what is called odd.
    let known = "for name; do case $name in nginx|curl) echo \"ii $name $name\";; odd) echo \"un odd odd\";; esac; done";
    for name in ["rpm", "dpkg-query"] {
        script(&bin, name, known);
    }
    rig
}

#[tokio::test]
async fn each_package_manager_is_asked_in_its_own_words() {
    const APT: &str = "-y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
    let all = "{}";
    let some = "{include: [nginx, curl, odd], exclude: [curl]}";
    let without = "{exclude: [held, kernel]}";
    for (managers, inputs, calls) in [
        (&["dnf", "yum"][..], all, vec!["dnf -y update []".to_owned()]),
        (&["yum"], some, vec!["yum -y update --exclude=curl nginx []".into()]),
        (
            &["apt-get", "apt-mark"],
            all,
            vec!["apt-get update [noninteractive]".into(), format!("apt-get {APT} upgrade [noninteractive]")],
        ),
        (
            &["apt-get", "apt-mark"],
            some,
            vec![
                "apt-get update [noninteractive]".into(),
                format!("apt-get {APT} install --only-upgrade nginx [noninteractive]"),
            ],
        ),
        (
            &["apt-get", "apt-mark"],
            without,
            vec![
                "apt-get update [noninteractive]".into(),
                "apt-mark showhold [noninteractive]".into(),
                "apt-mark hold kernel [noninteractive]".into(),
                format!("apt-get {APT} upgrade [noninteractive]"),
                "apt-mark unhold kernel [noninteractive]".into(),
            ],
        ),
        (&["dnf"], "{include: [a], exclude: [a]}", vec![]),
        (&["dnf"], "{include: [odd, none]}", vec![]),
        (&["dnf"], "{include: [nginx, none]}", vec!["dnf -y update nginx []".into()]),
        (&["apt-get"], "{include: [odd, none]}", vec!["apt-get update [noninteractive]".into()]),
    ] {
        let mut rig = with(managers).await;
        let report =
            rig.run(&steps(&format!("- {{name: Update, action: UpdateOS, inputs: {inputs}}}"))).await;
        assert_eq!(statuses(&report), ["Update success"], "{inputs}: {:?}", report.failure);
        let found = std::fs::read_to_string(rig.path("calls")).unwrap_or_default();
        assert_eq!(found.lines().collect::<Vec<_>>(), calls, "{inputs}");
    }
}

#[tokio::test]
async fn no_manager_and_odd_names_are_failures() {
    let mut rig = with(&[]).await;
    let report = rig.run(&steps("- {name: Update, action: UpdateOS}")).await;
    assert!(report.failure.unwrap().message.contains("neither dnf, yum nor apt-get"));
    let report =
        rig.run(&steps("- {name: Update, action: UpdateOS, inputs: {include: [--nogpgcheck]}}")).await;
    assert!(report.failure.unwrap().message.contains("no package name"));
}

/// Packages of nothing but a name and a version, in a repository.
fn repository(folder: &Path) -> PathBuf {
    let repository = folder.join("repository");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(folder).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e} (cargo xtask install)"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (top, rpms) = (format!("_topdir {}", folder.display()), format!("_rpmdir {}", repository.display()));
    for (name, version) in [("probe", "1.0"), ("probe", "2.0"), ("spare", "1.0"), ("spare", "2.0")] {
        let text = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: nothing\nLicense: none\n\
             BuildArch: noarch\n%description\nnothing\n%files\n"
        );
        std::fs::write(folder.join("spec"), text).unwrap();
        run("rpmbuild", &["-bb", "--quiet", "--define", &top, "--define", &rpms, "spec"]);
    }
    run("createrepo_c", &["--quiet", repository.to_str().unwrap()]);
    repository
}

/// A machine of the dnf family, as far as documents can tell: dnf and rpm, in a root of their own.
async fn with_dnf() -> Rig {
    let (rig, bin) = with_programs().await;
    let repository = repository(rig.folder.path());
    let root = rig.path("root");
    std::fs::create_dir(&root).unwrap();
    // dnf wants to be root; in a namespace of its own it is.
    let unshare = if rustix::process::geteuid().is_root() { "" } else { "/usr/bin/unshare --map-root-user " };
    let path = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let dnf = format!(
        "{path}\nexec {unshare}dnf --installroot={root} --releasever=1 --setopt=gpgcheck=0 \
         --setopt=reposdir={root}/none --repofrompath=probe,file://{} \"$@\"",
        repository.display()
    );
    script(&bin, "dnf", &dnf);
    std::os::unix::fs::symlink("/bin/bash", bin.join("bash")).unwrap();
    script(&bin, "rpm", &format!("{path}\nexec {unshare}rpm --root={root} \"$@\""));
    rig
}

#[tokio::test]
async fn the_dnf_of_debian_installs_and_updates() {
    let mut rig = with_dnf().await;
    let old = "- {name: Old, action: ExecuteBinary, inputs: {path: dnf, arguments: [-y, install, probe-1.0, spare-1.0]}}";
    let ask = "- {name: Ask, action: ExecuteBinary, inputs: {path: rpm, arguments: [-qa, --qf, '%{NAME}-%{VERSION} ']}}";
    let mut versions = Vec::new();
    for step in [
        old,
        "- {name: Update, action: UpdateOS, inputs: {include: [probe, spare, none], exclude: [spare]}}",
        "- {name: Update, action: UpdateOS, inputs: {exclude: [spare]}}",
        "- {name: Update, action: UpdateOS, inputs: {include: [none]}}",
        "- {name: Update, action: UpdateOS}",
        // Nothing is left to do.
        "- {name: Update, action: UpdateOS, inputs: {include: ['s*']}}",
    ] {
        let report = rig.run(&steps(&format!("{step}\n{ask}"))).await;
        assert!(report.is_success(), "{step}: {:?} {:?}", report.failure, rig.watch.told);
        let mut found: Vec<String> =
            output(&report, "Ask", "stdout").split_whitespace().map(str::to_owned).collect();
        found.sort();
        versions.push(found.join(" "));
    }
    assert_eq!(versions[0], "probe-1.0 spare-1.0");
    assert_eq!(versions[1..4], ["probe-2.0 spare-1.0"; 3]);
    assert_eq!(versions[4..], ["probe-2.0 spare-2.0"; 2]);
}

#[tokio::test]
async fn the_package_installer_works_with_dnf() {
    let mut rig = with_dnf().await;
    let text = kiln::component::library::find("install-package-linux").unwrap().text;
    let component = rig.component(text, &[("Package", "probe")]);
    let report = rig.run_all(&[component], None, None).await;
    assert!(report.is_success(), "{:?} {:?}", report.failure, rig.watch.told);
    assert_eq!(output(&report, "PackageIsInstalled", "stdout"), "probe-2.0-1.noarch");
    let missing = rig.component(text, &[("Package", "none")]);
    let report = rig.run_all(&[missing], None, None).await;
    assert_eq!(statuses(&report), ["InstallPackage failed"]);
}
