//! `kiln image diff`.

use crate::cli::Settings;
use crate::cli::render::{Format, Progress};
use crate::model::Failure;
use crate::service::Service;
use crate::service::diff::{self, Depth, Difference, FileChange, PackageChange, Side};
use crate::support::wait::Patience;
use kiln_protocol::message::{Entry, EntryKind};
use serde_json::{Value, json};

/// As diff(1) has it.
const DIFFERENT: u8 = 1;

pub async fn run(
    service: &Service,
    names: [&str; 2],
    depth: Depth,
    settings: &Settings,
    patience: &Patience,
) -> Result<u8, Failure> {
    if depth != Depth::Packages && !matches!(settings.progress, Progress::Json | Progress::None) {
        tell!("comparing the files of {} and {}, each in an appliance of its own", names[0], names[1]);
    }
    let (from, to, difference) = diff::diff(service, names, depth, &settings.looks()?, patience).await?;
    match settings.format {
        Format::Json => println!("{}", record(&from, &to, &difference)),
        Format::Human => print(&from, &to, &difference),
    }
    Ok(if difference.is_none() { 0 } else { DIFFERENT })
}

fn print(from: &Side, to: &Side, difference: &Difference) {
    if !difference.is_none() {
        println!("--- {}\n+++ {}", from.title, to.title);
    }
    heading("packages", difference.packages.is_empty());
    for PackageChange { name, from, to } in &difference.packages {
        match (from, to) {
            (Some(from), Some(to)) => line('~', name, &format!("{from} -> {to}")),
            (Some(version), None) => line('-', name, version),
            (_, version) => line('+', name, version.as_deref().unwrap_or_default()),
        }
    }
    heading("files", difference.files.is_empty());
    for change in &difference.files {
        match (&change.from, &change.to) {
            (Some(from), Some(to)) => line('~', &change.path, &changed(change, from, to)),
            (Some(entry), None) => line('-', &change.path, &told(entry)),
            (_, entry) => line('+', &change.path, &entry.as_ref().map(told).unwrap_or_default()),
        }
    }
    let arguments = [('-', &difference.removed_arguments), ('+', &difference.added_arguments)];
    heading("kernel arguments", arguments.iter().all(|(_, words)| words.is_empty()));
    for (sign, words) in arguments {
        words.iter().for_each(|word| line(sign, word, ""));
    }
    if let (Some(before), Some(after)) = (from.bytes, to.bytes)
        && before != after
    {
        println!("size of all files\n  ~ {} KiB -> {} KiB", before >> 10, after >> 10);
    }
    if difference.is_none() {
        println!("{} and {} do not differ", from.title, to.title);
    }
    difference.notes.iter().for_each(|note| println!("note: {note}"));
    if difference.of_packages + difference.of_records > 0 {
        println!(
            "not listed (--all does): {} that changed packages brought, {} of records, caches and logs that may differ",
            difference.of_packages, difference.of_records
        );
    }
}

fn heading(title: &str, empty: bool) {
    if !empty {
        println!("{title}");
    }
}

/// Names come from a guest: none of them steers the terminal.
fn line(sign: char, name: &str, detail: &str) {
    let text = format!("  {sign} {name}  {detail}");
    let shown: String = text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    println!("{shown}");
}

fn told(entry: &Entry) -> String {
    let kind = kind(entry);
    let owner = format!("{}:{}", entry.uid, entry.gid);
    match (entry.kind, &entry.target) {
        (EntryKind::Symlink, Some(target)) => format!("-> {target}"),
        (EntryKind::File, _) => format!("{kind}, {} bytes, {:04o} {owner}", entry.size, entry.mode & 0o7777),
        _ => format!("{kind}, {:04o} {owner}", entry.mode & 0o7777),
    }
}

fn changed(change: &FileChange, from: &Entry, to: &Entry) -> String {
    let told = |aspect: &&str| match *aspect {
        "kind" => format!("{} -> {}", kind(from), kind(to)),
        "mode" => format!("mode {:04o} -> {:04o}", from.mode & 0o7777, to.mode & 0o7777),
        "owner" => format!("owner {}:{} -> {}:{}", from.uid, from.gid, to.uid, to.gid),
        _ if from.target.is_some() || to.target.is_some() => format!(
            "-> {} was -> {}",
            to.target.as_deref().unwrap_or("?"),
            from.target.as_deref().unwrap_or("?")
        ),
        _ => format!("content, {} -> {} bytes", from.size, to.size),
    };
    change.aspects.iter().map(told).collect::<Vec<_>>().join("; ")
}

fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::File => "file",
        EntryKind::Folder => "folder",
        EntryKind::Symlink => "link",
        EntryKind::Other => "special file",
    }
}

fn record(from: &Side, to: &Side, difference: &Difference) -> Value {
    let file = |entry: &Option<Entry>| {
        entry.as_ref().map(|e| {
            json!({"kind": kind(e), "size": e.size, "mode": format!("{:04o}", e.mode & 0o7777), "uid": e.uid,
                   "gid": e.gid, "target": e.target, "sha256": e.sha256})
        })
    };
    let packages = difference.packages.iter().map(|p| json!({"name": p.name, "from": p.from, "to": p.to}));
    let files = difference
        .files
        .iter()
        .map(|f| json!({"path": f.path, "from": file(&f.from), "to": file(&f.to), "differs": f.aspects}));
    json!({
        "from": from.title,
        "to": to.title,
        "same": difference.is_none(),
        "packages": packages.collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
        "kernelArguments": {"removed": difference.removed_arguments, "added": difference.added_arguments},
        "bytes": {"from": from.bytes, "to": to.bytes},
        "notes": difference.notes,
        "notListed": {"ofChangedPackages": difference.of_packages, "recordsCachesLogs": difference.of_records},
    })
}
