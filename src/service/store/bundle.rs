//! The file in which layers travel: a first line, and one zstd frame with a table of contents, then the disks.
//!
//! The table says everything beforehand, so that a file from a stranger is refused before anything of it is
//! written. It holds no paths: a disk's file is named by its digest or, a layer's, by digits of its own.

use crate::base::{Origin, is_name};
use crate::model::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Another version is another first line.
pub const FIRST_LINE: &[u8] = b"kiln-layers 1\n";

/// Most bytes of the table.
const MOST_TABLE: usize = 256 << 20;
const MOST_DISKS: usize = 10_000;
const MOST_LAYERS: usize = 10_000;
/// Most bytes of one text in it, and of what is known of one layer's inputs.
const MOST_TEXT: usize = 4096;
/// Of one base image.
const MOST_TEXTS: usize = 100;
const MOST_PARTS: usize = 8 << 20;
/// Nobody has a larger disk.
const MOST_DISK: u64 = 1 << 46;
/// zstd may look back so far: 2^27 bytes.
const WINDOW: u32 = 27;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Table {
    /// Bottoms before what stands on them.
    pub disks: Vec<Disk>,
    pub layers: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// SHA-256, 64 digits.
    pub digest: String,
    pub bytes: u64,
    pub virtual_size: u64,
    pub backing: Option<String>,
    /// The 32 digits of a layer file's own name; None: it is named by its digest.
    pub own: Option<String>,
    /// The base image whose disk it is.
    pub base: Option<Base>,
    /// Its bytes follow.
    pub follows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Base {
    pub name: String,
    /// All of it, where its disk follows.
    pub record: Option<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub description: String,
    pub architecture: String,
    pub firmware: Vec<String>,
    pub created: i64,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    pub key: String,
    pub disk: String,
    pub recipe: String,
    pub component: String,
    pub position: u32,
    pub parts: String,
    pub build: String,
}

impl Disk {
    pub fn file(&self) -> Option<String> {
        self.own.as_ref().map(|digits| format!("layer-{digits}.qcow2"))
    }
}

fn digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digits of a layer file's own name.
pub fn own_digits(file: &str) -> Option<String> {
    let name = file.strip_prefix("layer-")?.strip_suffix(".qcow2")?;
    digits(name, 32).then(|| name.to_owned())
}

impl Table {
    /// What is wrong with it, in the first place where something is.
    pub fn check(&self) -> Result<(), String> {
        if self.disks.len() > MOST_DISKS || self.layers.len() > MOST_LAYERS {
            return Err(format!("it has {} disks and {} layers", self.disks.len(), self.layers.len()));
        }
        let mut known: BTreeMap<&str, &Disk> = BTreeMap::new();
        let mut names = std::collections::BTreeSet::new();
        for disk in &self.disks {
            let wrong =
                |what: &str| Err(format!("disk {:.12}: {what}", disk.digest.escape_default().to_string()));
            if !digits(&disk.digest, 64) {
                return wrong("its digest is none");
            }
            if disk.own.as_ref().is_some_and(|own| !digits(own, 32) || !names.insert(own)) {
                return wrong("its name is none of its own");
            }
            if disk.bytes > MOST_DISK || disk.virtual_size > MOST_DISK {
                return wrong("it is larger than any disk");
            }
            if disk.base.as_ref().is_some_and(|b| !is_name(&b.name) || b.record.is_some() != disk.follows) {
                return wrong("it is no base image");
            }
            if disk.base.as_ref().and_then(|b| b.record.as_ref()).is_some_and(|r| !is_modest(r)) {
                return wrong("what is said of the base image is not well-formed");
            }
            match &disk.backing {
                Some(below) if !known.contains_key(below.as_str()) => {
                    return wrong("what it stands on does not come before it");
                }
                Some(_) if !disk.follows || disk.base.is_some() => {
                    return wrong("an overlay has to follow, and is no base image");
                }
                None if disk.base.is_none() => return wrong("it stands on nothing and is no base image"),
                _ => {}
            }
            if known.insert(&disk.digest, disk).is_some() {
                return wrong("it is there twice");
            }
        }
        for layer in &self.layers {
            let texts = [&layer.recipe, &layer.component, &layer.build];
            let fits = texts.iter().all(|t| t.len() <= MOST_TEXT && !t.chars().any(char::is_control));
            let record: Option<serde_json::Value> = Some(&layer.parts)
                .filter(|p| p.len() <= MOST_PARTS)
                .and_then(|p| serde_json::from_str(p).ok());
            if !digits(&layer.key, 64) || !fits || record.is_none_or(|r| !r["ran"].is_array()) {
                return Err(format!(
                    "layer {:.12}: it is not well-formed",
                    layer.key.escape_default().to_string()
                ));
            }
            if known.get(layer.disk.as_str()).is_none_or(|disk| disk.backing.is_none()) {
                return Err(format!("layer {:.12}: its disk is no overlay of the file", layer.key));
            }
        }
        Ok(())
    }
}

/// Short texts that may be shown.
fn is_modest(record: &Record) -> bool {
    let origin = serde_json::to_value(&record.origin).unwrap_or_default();
    let mut texts = vec![record.description.clone(), record.architecture.clone()];
    texts.extend(record.firmware.iter().cloned());
    collect_texts(&origin, &mut texts);
    texts.len() <= MOST_TEXTS
        && texts.iter().all(|t| t.len() <= MOST_TEXT && !t.chars().any(char::is_control))
}

fn collect_texts(value: &serde_json::Value, texts: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => texts.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        serde_json::Value::Object(fields) => fields.values().for_each(|field| collect_texts(field, texts)),
        _ => {}
    }
}

pub fn refused(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Input, format!("the file cannot be imported: {what}"))
        .hint("It is damaged, or no file of kiln store export. Nothing that is not whole was taken in.")
}

/// Writes the first line and the table; the disks are the caller's next bytes. Call `finish` in the end.
pub fn begin<W: Write>(mut target: W, table: &Table) -> std::io::Result<zstd::Encoder<'static, W>> {
    target.write_all(FIRST_LINE)?;
    let mut packed = zstd::Encoder::new(target, 3)?;
    packed.include_checksum(true)?;
    let text = serde_json::to_vec(table)?;
    packed.write_all(&(text.len() as u64).to_be_bytes())?;
    packed.write_all(&text)?;
    Ok(packed)
}

/// Reads and checks the first line and the table.
pub fn open<'a, R: Read + 'a>(mut source: R) -> Result<(Table, Box<dyn Read + 'a>), Failure> {
    let mut line = [0; FIRST_LINE.len()];
    source.read_exact(&mut line).map_err(refused)?;
    if line != FIRST_LINE {
        return Err(refused("its first line is not that of kiln's layers, version 1"));
    }
    let mut unpacked = zstd::Decoder::new(source).map_err(refused)?.single_frame();
    unpacked.window_log_max(WINDOW).map_err(refused)?;
    let mut length = [0; 8];
    unpacked.read_exact(&mut length).map_err(refused)?;
    let length = u64::from_be_bytes(length);
    if length > MOST_TABLE as u64 {
        return Err(refused(format!("its table has {length} bytes")));
    }
    let mut text = Vec::new();
    unpacked.by_ref().take(length).read_to_end(&mut text).map_err(refused)?;
    if text.len() as u64 != length {
        return Err(refused("it ends within its table"));
    }
    let table: Table = serde_json::from_slice(&text).map_err(refused)?;
    table.check().map_err(refused)?;
    Ok((table, Box::new(unpacked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(digit: &str, on: Option<&str>) -> Disk {
        Disk {
            digest: digit.repeat(64),
            bytes: 3,
            virtual_size: 1 << 20,
            backing: on.map(|d| d.repeat(64)),
            own: on.map(|_| digit.repeat(32)),
            base: on.is_none().then(base),
            follows: on.is_some(),
        }
    }

    fn base() -> Base {
        Base { name: "debian-12".into(), record: None }
    }

    fn table() -> Table {
        let entry = Entry {
            key: "e".repeat(64),
            disk: "2".repeat(64),
            recipe: "nginx".into(),
            component: "install".into(),
            position: 0,
            parts: r#"{"start": [], "components": [], "ran": [1]}"#.into(),
            build: "nginx-1.0.0-1".into(),
        };
        Table {
            disks: vec![disk("1", None), disk("2", Some("1")), disk("3", Some("2"))],
            layers: vec![entry],
        }
    }

    fn packed(table: &Table) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = begin(&mut file, table).unwrap();
        encoder.write_all(b"disk").unwrap();
        encoder.finish().unwrap();
        file
    }

    #[test]
    fn a_table_is_read_back_and_the_disks_follow() {
        let file = packed(&table());
        let (read, mut rest) = open(&file[..]).unwrap();
        assert_eq!((&read.disks, &read.layers), (&table().disks, &table().layers));
        let mut text = String::new();
        rest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "disk");
        assert_eq!(own_digits(&read.disks[1].file().unwrap()), read.disks[1].own);
        assert_eq!(own_digits("layer-../../../../../../etc/passwd.qcow2"), None);
    }

    #[test]
    fn what_no_kiln_writes_is_refused() {
        type Change = fn(&mut Table);
        let changes: [(&str, Change); 20] = [
            ("digest", |t| t.disks[1].digest = "../../etc/passwd".into()),
            ("digest in capitals", |t| t.disks[2].digest = "A".repeat(64)),
            ("name", |t| t.disks[1].own = Some("../x".into())),
            ("name of another", |t| t.disks[2].own = t.disks[1].own.clone()),
            ("bytes", |t| t.disks[1].bytes = u64::MAX),
            ("size", |t| t.disks[1].virtual_size = u64::MAX),
            ("twice", |t| t.disks[2] = t.disks[1].clone()),
            ("order", |t| t.disks.swap(1, 2)),
            ("on itself", |t| t.disks[1].backing = Some("2".repeat(64))),
            ("on nothing", |t| t.disks[1].backing = None),
            ("does not follow", |t| t.disks[1].follows = false),
            ("base and overlay", |t| t.disks[1].base = Some(base())),
            ("path", |t| t.disks[0].base = Some(Base { name: "../x".into(), record: None })),
            ("no base without a record", |t| t.disks[0].follows = true),
            ("a layer on nobody's disk", |t| t.layers[0].disk = "9".repeat(64)),
            ("a layer that is the base", |t| t.layers[0].disk = "1".repeat(64)),
            ("key", |t| t.layers[0].key = "k".into()),
            ("control characters", |t| t.layers[0].component = "a\u{1b}[31m".into()),
            ("parts", |t| t.layers[0].parts = "[]".into()),
            ("too many", |t| t.layers = vec![t.layers[0].clone(); MOST_LAYERS + 1]),
        ];
        for (what, change) in changes {
            let mut bad = table();
            change(&mut bad);
            assert!(open(&packed(&bad)[..]).is_err(), "{what}");
        }
        let good = packed(&table());
        for end in 0..good.len() - 8 {
            let read = open(&good[..end]).map(|(_, mut rest)| rest.read_to_end(&mut Vec::new()));
            assert!(!matches!(read, Ok(Ok(_))), "cut after {end} bytes");
        }
        assert!(open(&b"kiln-layers 2\n..."[..]).is_err());
        // A table that says it is larger than any memory.
        let mut bomb = FIRST_LINE.to_vec();
        bomb.extend(zstd::encode_all(&u64::MAX.to_be_bytes()[..], 1).unwrap());
        assert!(open(&bomb[..]).is_err());
    }
}
