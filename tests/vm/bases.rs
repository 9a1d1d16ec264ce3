//! What `kiln base` finds on a disk, through the command line.

use crate::build::Bench;
use crate::disks::{Tree, disk};
use serde_json::json;

/// A disk of the other family's usual file system, from its import to what is known of it.
#[test]
fn an_imported_disk_is_looked_into() {
    let bench = Bench::without_bases("base-inspect");
    let tree = Tree::new(&bench.folder);
    tree.file(
        "var/lib/dpkg/status",
        "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2-1\n\n\
         Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
         Package: a\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 1:0.9\n",
    );
    tree.file("usr/bin/cloud-init", "");
    tree.file("usr/sbin/qemu-ga", "");
    let raw = disk(&bench.folder, &tree, "xfs", 320);
    let imported = bench.json(&["base", "import", raw.to_str().unwrap(), "--name", "other"]);
    assert_eq!(imported["firmware"], json!(["uefi"]));

    let facts = bench.json(&["base", "inspect", "other"]);
    assert_eq!(facts["os"], json!({"id": "debian", "version": "12", "name": "Debian of the tests"}));
    assert_eq!((&facts["partitionTable"], &facts["firmware"]), (&json!("gpt"), &json!(["uefi"])));
    let volumes = facts["volumes"].as_array().unwrap();
    let kinds: Vec<_> = volumes.iter().map(|v| (&v["number"], &v["filesystem"], &v["label"])).collect();
    let (one, two, three) = (json!(1), json!(2), json!(3));
    assert_eq!(
        kinds,
        [
            (&one, &json!(null), &json!(null)),
            (&two, &json!("vfat"), &json!("ESP")),
            (&three, &json!("xfs"), &json!("root"))
        ]
    );
    assert_eq!((&facts["root"]["partition"], &facts["root"]["filesystem"]), (&three, &json!("xfs")));
    let mib = |name: &str| facts["root"][name].as_u64().unwrap() >> 20;
    assert!((200..=320).contains(&mib("total")) && (100..mib("total")).contains(&mib("free")), "{facts}");
    assert_eq!((&facts["cloudInit"], &facts["guestAgent"]), (&json!(true), &json!(true)));
    assert_eq!(facts["packages"], 2);
    assert_eq!(
        facts["packageList"],
        json!([
            {"name": "b", "version": "2-1", "architecture": "all"},
            {"name": "a", "version": "1:0.9", "architecture": "amd64"}
        ])
    );
    assert_eq!(facts["kernels"], json!(["6.1.0-56-test", "6.1.0-9-test"]));
    assert_eq!(facts["digest"], imported["digest"], "looking changes nothing");
}
