//! UpdateOS: which package manager is asked for what. The managers are scripts that write down how they were called.

use super::rig::{Rig, statuses, steps};
use std::os::unix::fs::PermissionsExt;

async fn with(managers: &[&str]) -> Rig {
    let mut rig = Rig::new().await;
    let bin = rig.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in managers {
        let script = format!(
            "#!/bin/sh\necho \"{name} $* [$DEBIAN_FRONTEND]\" >> {}\n[ \"$1\" != showhold ] || echo held\n",
            rig.path("calls")
        );
        let path = bin.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    rig.options.environment = vec![("PATH".into(), bin.to_str().unwrap().into())];
    rig
}

#[tokio::test]
async fn each_package_manager_is_asked_in_its_own_words() {
    const APT: &str = "-y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
    let all = "{}";
    let some = "{include: [nginx, curl], exclude: [curl]}";
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
