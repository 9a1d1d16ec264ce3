//! What a test can check of the house rules: layering, sizes, words.

use crate::shell::{Result, root};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LAYERS: &[(&str, u8)] = &[
    ("support", 0),
    ("model", 1),
    ("catalog", 2),
    ("disk", 2),
    ("machine", 2),
    ("guest", 2),
    ("appliance", 3),
    ("component", 3),
    ("base", 4),
    ("boot", 4),
    ("distribute", 4),
    ("build", 5),
    ("service", 6),
    ("cli", 7),
];

const MAX_LINES: usize = 900;
const MAX_FUNCTION: usize = 120;

/// (what, the only rooms it may stand in)
const RESERVED: &[(&str, &[&str])] = &[
    // `disk` reads a database that others made.
    ("rusqlite", &["catalog", "disk"]),
    ("println!", &["cli"]),
    ("eprintln!", &["cli"]),
    ("std::env::var", &["cli"]),
    ("indicatif", &["cli"]),
];

pub fn run() -> Result {
    let mut findings = Vec::new();
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    for folder in ["src", "guest-agent", "xtask/src", "tests"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let name = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().into_owned();
            sizes(&name, &text, &mut findings);
            if name.ends_with("/tests.rs") {
                continue;
            }
            if let Some(room) =
                name.strip_prefix("src/").and_then(|n| n.split_once('/')).map(|(room, _)| room)
            {
                match layers.get(room) {
                    Some(layer) => layering(&name, room, *layer, &text, &layers, &mut findings),
                    None => findings
                        .push(format!("{name}: room `{room}` has no layer; add it to xtask/src/tidy.rs")),
                }
            }
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    findings.iter().for_each(|f| eprintln!("{f}"));
    Err(format!("{} findings", findings.len()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The lines before a file's own tests.
fn without_tests(text: &str) -> Vec<&str> {
    text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).collect()
}

fn sizes(name: &str, text: &str, findings: &mut Vec<String>) {
    let lines = without_tests(text);
    if lines.len() > MAX_LINES {
        findings.push(format!("{name}: {} lines without tests, the limit is {MAX_LINES}", lines.len()));
    }
    let mut begun: Option<(usize, usize)> = None;
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_function =
            ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "pub(super) fn "]
                .iter()
                .any(|start| line.trim_start().starts_with(start));
        if is_function
            && begun.is_none()
            && !line.trim_end().ends_with('}')
            && !line.trim_end().ends_with(';')
        {
            begun = Some((number, indent));
        } else if let Some((from, at)) = begun
            && indent == at
            && line.trim() == "}"
        {
            if number - from > MAX_FUNCTION {
                findings.push(format!(
                    "{name}:{}: function of {} lines, the limit is {MAX_FUNCTION}",
                    from + 1,
                    number - from
                ));
            }
            begun = None;
        }
    }
}

fn layering(
    name: &str,
    room: &str,
    layer: u8,
    text: &str,
    layers: &BTreeMap<&str, u8>,
    findings: &mut Vec<String>,
) {
    for (number, line) in without_tests(text).iter().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for (at, _) in code.match_indices("crate::") {
            let target: String =
                code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(other) = layers.get(target.as_str()) else { continue };
            // Side by side in L2 stays apart: disk facts do not know machines.
            if target != room && *other >= layer {
                findings.push(format!(
                    "{name}:{}: `{room}` (L{layer}) uses `{target}` (L{other}); imports go down",
                    number + 1
                ));
            }
        }
        for (what, rooms) in RESERVED {
            // Where programs lie is a fact of the host, not a setting.
            if code.contains(what) && !rooms.contains(&room) && !code.contains("(\"PATH\")") {
                findings.push(format!(
                    "{name}:{}: `{what}` belongs in {} only",
                    number + 1,
                    rooms.join(", ")
                ));
            }
        }
    }
}
