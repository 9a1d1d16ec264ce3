//! What `qemu-img` does for kiln.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use sha2::Digest;

use super::Format;
use crate::model::{Failure, FailureKind};
use crate::support::command::{CommandError, Limits, Tool};
use crate::support::files::{self, Staged};
use crate::support::wait::{Impatience, Patience};

/// Left free on the host beyond what a conversion is expected to write, in bytes.
const SPACE_MARGIN: u64 = 64 << 20;
/// A disk compresses to no less than about a quarter; below that a conversion is not even begun.
const BEST_COMPRESSION: u64 = 4;
/// What looking at a file from strangers may cost.
const LIMITS: Limits = Limits { memory: 2 << 30, cpu: Duration::from_secs(60) };

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("disk {}: {operation} failed", path.display())]
    Tool { operation: &'static str, path: PathBuf, source: CommandError },
    #[error("disk {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error(
        "not enough space on the host for {}: {} MiB needed, {} MiB free",
        path.display(),
        needed >> 20,
        free >> 20
    )]
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    #[error("disk {} refers to another file ({what}): it is not self-contained", path.display())]
    NotSelfContained { path: PathBuf, what: String },
    #[error("disk {} is damaged", path.display())]
    Corrupt { path: PathBuf, source: CommandError },
    #[error("disk {}: qemu-img's answer cannot be read", path.display())]
    Answer { path: PathBuf, source: serde_json::Error },
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

impl DiskError {
    pub fn kind(&self) -> FailureKind {
        match self {
            DiskError::Impatience(e) => e.into(),
            DiskError::Locked { .. } => FailureKind::Conflict,
            DiskError::NotSelfContained { .. } => FailureKind::Input,
            _ => FailureKind::Environment,
        }
    }

    /// The same of a file that its owner knows by another name.
    pub(super) fn of(mut self, shown: &Path) -> DiskError {
        match &mut self {
            DiskError::Tool { path, .. }
            | DiskError::Locked { path }
            | DiskError::NotSelfContained { path, .. }
            | DiskError::Corrupt { path, .. }
            | DiskError::Answer { path, .. }
            | DiskError::Io { path, .. } => *path = shown.to_owned(),
            DiskError::NoSpace { .. } | DiskError::Impatience(_) => {}
        }
        self
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        Failure::from_error(error.kind(), &error)
    }
}

/// What `qemu-img info` says about one file. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub format: Format,
    /// Size of the disk as a guest sees it.
    pub virtual_size: u64,
    /// Size of the file on the host, holes not counted.
    pub actual_size: u64,
    /// The backing file exactly as the image names it.
    pub backing: Option<PathBuf>,
    pub backing_format: Option<String>,
    /// Other files that hold the disk's data: a qcow2 data file, the extents of a VMDK.
    pub data_files: Vec<String>,
}

impl Info {
    /// Refuses a disk that makes QEMU open another file: a stranger's image could name any file of the host.
    pub fn require_self_contained(&self, path: &Path) -> Result<(), DiskError> {
        let backing = self.backing.iter().map(|b| format!("backing file {}", b.display()));
        let data = self.data_files.iter().map(|d| format!("data file {d}"));
        match backing.chain(data).next() {
            Some(what) => Err(DiskError::NotSelfContained { path: path.into(), what }),
            None => Ok(()),
        }
    }
}

/// How a target is compressed, where its format can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    /// Faster and smaller; QEMU 5.1 or later can read it, few other programs can.
    Zstd,
}

/// What a check of an image's own tables found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Clusters that nothing refers to: wasted space, no harm.
    pub leaks: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInfo {
    virtual_size: u64,
    actual_size: Option<u64>,
    backing_filename: Option<PathBuf>,
    backing_filename_format: Option<String>,
    format_specific: Option<FormatSpecific>,
}

#[derive(Deserialize)]
pub(super) struct FormatSpecific {
    #[serde(default)]
    data: SpecificData,
}

impl FormatSpecific {
    /// Whether no data of the disk is in another file than the one named.
    pub(super) fn is_one_file(&self) -> bool {
        self.data.data_file.is_none() && self.data.extents.is_empty()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<Extent>,
}

#[derive(Deserialize)]
struct Extent {
    filename: Option<String>,
}

fn tool(limits: Option<Limits>) -> Tool {
    let tool = Tool::new("qemu-img");
    match limits {
        Some(limits) => tool.limits(limits),
        None => tool,
    }
}

/// The name of a format in QEMU's own words.
pub(super) fn driver(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vpc",
        other => other.as_str(),
    }
}

/// The path in a form that QEMU takes for a file and nothing else (`nbd:...`, `json:...` are names, too).
fn absolute(path: &Path) -> Result<PathBuf, DiskError> {
    std::path::absolute(path).map_err(|source| DiskError::Io { path: path.into(), source })
}

/// What `qemu-img` calls itself.
pub async fn tool_version(patience: &Patience) -> Result<String, CommandError> {
    let text = Tool::new("qemu-img").arg("--version").run(patience).await?.text();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(CommandError) -> DiskError + use<> {
    let path = path.to_owned();
    move |error| {
        let text = error.to_string();
        if let CommandError::Stopped { source, .. } = error {
            return DiskError::Impatience(source);
        }
        if text.contains("\" lock") {
            return DiskError::Locked { path: path.clone() };
        }
        if text.contains("No space left on device") {
            let free = files::free_space(&path).unwrap_or(0);
            return DiskError::NoSpace { path: path.clone(), needed: free + 1, free };
        }
        DiskError::Tool { operation, path: path.clone(), source: error }
    }
}

/// Creates a qcow2 at `target` that holds only what differs from `backing`. `size` in bytes, at least the
/// backing disk's; without it the backing disk's own. The backing file must stay where it is.
pub async fn create_overlay(
    backing: &Path,
    backing_format: Format,
    target: &Path,
    size: Option<u64>,
    patience: &Patience,
) -> Result<(), DiskError> {
    let (backing, target) = (absolute(backing)?, absolute(target)?);
    let mut tool = Tool::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", driver(backing_format), "-b"])
        .arg(&backing)
        .arg(&target);
    if let Some(size) = size {
        tool = tool.arg(size.to_string());
    }
    tool.run(patience).await.map_err(failed("creating an overlay", &target))?;
    Ok(())
}

/// As [`create_overlay`], on a file that is not there yet, or in use: nobody looks at it. `size` in bytes.
pub async fn create_overlay_unopened(
    backing: &Path,
    target: &Path,
    size: u64,
    patience: &Patience,
) -> Result<(), DiskError> {
    let (backing, target) = (absolute(backing)?, absolute(target)?);
    let tool = Tool::new("qemu-img")
        .args(["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(&backing)
        .arg(&target)
        .arg(size.to_string());
    tool.run(patience).await.map_err(failed("creating an overlay", &target))?;
    Ok(())
}

/// Makes an overlay stand on a file further down its chain, and hold what lay between. The guest's disk stays
/// the same. Nothing else may use the overlay.
pub async fn rebase(overlay: &Path, backing: &Path, patience: &Patience) -> Result<(), DiskError> {
    let (overlay, backing) = (absolute(overlay)?, absolute(backing)?);
    let tool = Tool::new("qemu-img").args(["rebase", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    tool.arg(&backing).arg(&overlay).run(patience).await.map_err(failed("merging its chain", &overlay))?;
    Ok(())
}

/// Looks at an image file, safe also for files from strangers: nothing but the file itself is opened.
pub async fn info(path: &Path, format: Format, patience: &Patience) -> Result<Info, DiskError> {
    let path = absolute(path)?;
    let output = Tool::new("qemu-img")
        .args(["info", "--output=json", "-U", "-f", driver(format)])
        .arg(&path)
        .limits(LIMITS)
        .run(patience)
        .await
        .map_err(failed("looking at it", &path))?;
    let raw: RawInfo = serde_json::from_slice(&output.stdout)
        .map_err(|source| DiskError::Answer { path: path.clone(), source })?;
    let specific = raw.format_specific.map(|f| f.data).unwrap_or_default();
    let own = path.to_string_lossy();
    let extents = specific.extents.into_iter().filter_map(|e| e.filename).filter(|f| *f != own);
    Ok(Info {
        format,
        virtual_size: raw.virtual_size,
        actual_size: raw.actual_size.unwrap_or(0),
        backing: raw.backing_filename,
        backing_format: raw.backing_filename_format,
        data_files: specific.data_file.into_iter().chain(extents).collect(),
    })
}

/// Refuses a file that somebody writes to, by QEMU's locks, which of its tools only a conversion heeds. Of
/// what the file holds one sector is read, as of a raw disk, which names no other file, and thrown away.
pub(super) async fn require_unused(path: &Path, patience: &Patience) -> Result<(), DiskError> {
    let path = absolute(path)?;
    let file = json_file(&path)?;
    let sector = serde_json::json!({"driver": "raw", "size": 512, "file": file});
    let tool = Tool::new("qemu-img").args(["convert", "-f", "raw", "-n", "--target-image-opts"]);
    let tool = tool.arg(format!("json:{sector}")).arg("driver=null-co,size=512").limits(LIMITS);
    tool.run(patience).await.map_err(failed("looking at it", &path))?;
    Ok(())
}

/// A file as QEMU's options name it.
fn json_file(path: &Path) -> Result<serde_json::Value, DiskError> {
    let source = || io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8");
    let name = path.to_str().ok_or_else(|| DiskError::Io { path: path.to_owned(), source: source() })?;
    let driver = if path.is_file() { "file" } else { "host_device" };
    Ok(serde_json::json!({"driver": driver, "filename": name}))
}

/// Writes the whole disk, backing files included, as one self-contained file. `target` is whole and durable
/// when this returns and untouched when it fails. `progress` is told parts of 1.
///
/// VMDK is always compressed; raw, VHD and VHDX never are.
pub async fn convert(
    source: &Path,
    source_format: Format,
    target: &Path,
    target_format: Format,
    compression: Option<Compression>,
    progress: &mut (dyn FnMut(f32) + Send),
    patience: &Patience,
) -> Result<(), DiskError> {
    convert_within((source, source_format), (target, target_format), compression, None, progress, patience)
        .await
}

/// How a disk is opened that may have been made to do harm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger {
    pub limits: Limits,
    /// No backing file is opened, whatever its header says.
    pub alone: bool,
}

/// The argument that makes a tool open a disk.
fn opened_as(path: &Path, format: Format, alone: bool) -> Result<OsString, DiskError> {
    // Of the formats read here only this one lets options say so; foreign VMDK and VHD with parents are refused.
    if !alone || format != Format::Qcow2 {
        return Ok(path.as_os_str().to_owned());
    }
    let file = json_file(path)?;
    let disk = serde_json::json!({"driver": "qcow2", "backing": null, "file": file});
    Ok(format!("json:{disk}").into())
}

/// As [`convert`], and careful with a stranger's disk.
pub(super) async fn convert_within(
    (source, source_format): (&Path, Format),
    (target, target_format): (&Path, Format),
    compression: Option<Compression>,
    stranger: Option<Stranger>,
    progress: &mut (dyn FnMut(f32) + Send),
    patience: &Patience,
) -> Result<(), DiskError> {
    let (source, target) = (absolute(source)?, absolute(target)?);
    let compressed =
        target_format == Format::Vmdk || (target_format == Format::Qcow2 && compression.is_some());
    let limits = stranger.map(|s| s.limits);
    let opened = opened_as(&source, source_format, stranger.is_some_and(|s| s.alone))?;
    let needed = measure(&source, &opened, source_format, limits, patience).await?;
    let needed = if compressed { needed / BEST_COMPRESSION } else { needed };
    let io = |source| DiskError::Io { path: target.clone(), source };
    let free = files::free_space(&target).map_err(io)?;
    if free < needed + SPACE_MARGIN {
        return Err(DiskError::NoSpace { path: target, needed: needed + SPACE_MARGIN, free });
    }
    let staged = Staged::new(&target).map_err(io)?;
    let tool = tool(limits)
        .args(["convert", "-p", "-f", driver(source_format)])
        .args(target_arguments(target_format, compression))
        .arg(&opened)
        .arg(staged.path());
    let mut parser = Percent::default();
    let mut chunk = |bytes: &[u8]| {
        parser.feed(bytes).into_iter().for_each(&mut *progress);
        true
    };
    tool.run_streamed(patience, &mut |_| (), &mut chunk).await.map_err(failed("converting it", &target))?;
    let task = tokio::task::spawn_blocking(move || staged.commit());
    task.await.expect("writing does not panic").map_err(io)
}

/// Bytes that the disk's data takes, zeroes not counted.
async fn measure(
    path: &Path,
    opened: &OsStr,
    format: Format,
    limits: Option<Limits>,
    patience: &Patience,
) -> Result<u64, DiskError> {
    #[derive(Deserialize)]
    struct Measured {
        required: u64,
    }
    let output = tool(limits)
        .args(["measure", "--output=json", "-O", "qcow2", "-f", driver(format)])
        .arg(opened)
        .run(patience)
        .await
        .map_err(failed("measuring it", path))?;
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .map_err(|source| DiskError::Answer { path: path.into(), source })?;
    Ok(measured.required)
}

fn target_arguments(format: Format, compression: Option<Compression>) -> Vec<&'static str> {
    let mut arguments = vec!["-O", driver(format)];
    arguments.extend_from_slice(match (format, compression) {
        // Order on disk is content order there, so many writers may run ahead of each other.
        (Format::Raw, _) => &["-W", "-m", "8"][..],
        (Format::Vhd, _) => &["-W", "-m", "8", "-o", "subformat=fixed,force_size=on"],
        (Format::Qcow2, None) => &[],
        (Format::Qcow2, Some(Compression::Zlib)) => &["-c", "-m", "8", "-o", "compression_type=zlib"],
        (Format::Qcow2, Some(Compression::Zstd)) => &["-c", "-m", "8", "-o", "compression_type=zstd"],
        (Format::Vmdk, _) => &["-o", "subformat=streamOptimized"],
        (Format::Vhdx, _) => &["-o", "subformat=dynamic"],
    });
    arguments
}

/// The first `length` bytes of the disk as a guest sees it; fewer where it is shorter. `scratch` is a folder.
pub async fn head(
    path: &Path,
    format: Format,
    length: usize,
    scratch: &Path,
    patience: &Patience,
) -> Result<Vec<u8>, DiskError> {
    let path = absolute(path)?;
    let io = |source| DiskError::Io { path: path.clone(), source };
    let staged = Staged::new(&scratch.join("head")).map_err(io)?;
    let tool = Tool::new("qemu-img").args(["dd", "-f", driver(format), "-O", "raw", "bs=512"]);
    tool.arg(format!("count={}", length.div_ceil(512)))
        .arg(joined("if=", &path))
        .arg(joined("of=", staged.path()))
        .limits(LIMITS)
        .run(patience)
        .await
        .map_err(failed("reading its start", &path))?;
    let mut bytes = std::fs::read(staged.path()).map_err(io)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut word = OsString::from(prefix);
    word.push(path);
    word
}

/// Gives a qcow2 overlay that nobody has open another name for its backing file, which holds the same.
pub async fn stand_on(overlay: &Path, backing: &Path, patience: &Patience) -> Result<(), DiskError> {
    let overlay = absolute(overlay)?;
    let tool = Tool::new("qemu-img").args(["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]);
    let tool = tool.arg(absolute(backing)?).arg(&overlay);
    tool.run(patience).await.map_err(failed("renaming its backing file", &overlay))?;
    Ok(())
}

/// Changes only the name by which a qcow2 overlay knows its backing file; the new one is no longer than the
/// old. A bare name means the overlay's own folder. A machine that has the overlay open for reading does not
/// mind: it looked at the name when it opened it.
pub fn rename_backing(overlay: &Path, backing: &str) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    /// Magic, version, offset of the name, its length; big-endian.
    const HEAD: usize = 20;
    let file = std::fs::File::options().read(true).write(true).open(overlay)?;
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0)?;
    let offset = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
    let room = u32::from_be_bytes(head[16..20].try_into().expect("four bytes")) as usize;
    if head[..4] != *b"QFI\xfb" || offset == 0 || room > 1023 || backing.len() > room {
        let what = format!("its header has no room for the backing file's name {backing}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut name = backing.as_bytes().to_vec();
    name.resize(room, 0);
    file.write_all_at(&name, offset)?;
    file.write_all_at(&(backing.len() as u32).to_be_bytes(), 16)
}

/// Checks the tables of an image against each other. Damage is an error. Raw and VHD files have none.
pub async fn check(path: &Path, format: Format, patience: &Patience) -> Result<Check, DiskError> {
    if matches!(format, Format::Raw | Format::Vhd) {
        return Ok(Check { leaks: false });
    }
    let path = absolute(path)?;
    let tool = Tool::new("qemu-img").args(["check", "-q", "-f", driver(format)]).arg(&path).limits(LIMITS);
    match tool.run(patience).await {
        Ok(_) => Ok(Check { leaks: false }),
        Err(CommandError::Failed { status, .. }) if status.code() == Some(3) => Ok(Check { leaks: true }),
        Err(source @ CommandError::Failed { status, .. }) if status.code() == Some(2) => {
            Err(DiskError::Corrupt { path, source })
        }
        Err(error) => Err(failed("checking it", &path)(error)),
    }
}

/// SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits. Works beside the runtime's threads.
pub async fn sha256(path: &Path, patience: &Patience) -> Result<String, DiskError> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Arc::new(AtomicBool::new(false)));
    let (stopped, file) = (stop.0.clone(), path.to_owned());
    let task = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let mut file = std::fs::File::open(file)?;
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        while !stopped.load(Ordering::Relaxed) {
            match file.read(&mut buffer)? {
                0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
                n => hash.update(&buffer[..n]),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    });
    let what = format!("the digest of {}", path.display());
    let digest = patience.wait(&what, task).await?.expect("reading does not panic");
    digest.map_err(|source| DiskError::Io { path: path.into(), source })
}

/// Reads `    (12.34/100%)\r` out of a stream cut anywhere.
#[derive(Default)]
struct Percent {
    text: String,
}

impl Percent {
    fn feed(&mut self, bytes: &[u8]) -> Option<f32> {
        let mut last = None;
        for &byte in bytes {
            match byte {
                b'(' => self.text.clear(),
                b'/' => last = self.text.parse::<f32>().ok().filter(|p| p.is_finite()).or(last),
                // Longer than any number is nothing of ours.
                _ if self.text.len() < 8 => self.text.push(byte.into()),
                _ => {}
            }
        }
        last.map(|percent| (percent / 100.0).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(60), &CancellationToken::new())
    }

    fn raw_disk(folder: &Path, mib: u64) -> PathBuf {
        let path = folder.join("base.raw");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(mib << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100_000], 1 << 20).unwrap();
        path
    }

    #[tokio::test]
    async fn overlays_name_their_backing_file_and_format() {
        let dir = tempfile::tempdir().unwrap();
        let base = raw_disk(dir.path(), 8);
        let overlay = dir.path().join("o.qcow2");
        create_overlay(&base, Format::Raw, &overlay, Some(16 << 20), &patience()).await.unwrap();
        let info = info(&overlay, Format::Qcow2, &patience()).await.unwrap();
        assert_eq!((info.virtual_size, info.backing.as_deref()), (16 << 20, Some(base.as_path())));
        assert_eq!(info.backing_format.as_deref(), Some("raw"));
        rename_backing(&overlay, "base.raw").unwrap();
        let renamed = super::info(&overlay, Format::Qcow2, &patience()).await.unwrap();
        assert_eq!(renamed.backing.as_deref(), Some(Path::new("base.raw")));
        check(&overlay, Format::Qcow2, &patience()).await.unwrap();
        assert!(rename_backing(&overlay, "longer.raw").is_err(), "there is room for `base.raw` now");
        assert!(rename_backing(&base, "b").is_err(), "a raw disk has no header");
        let refused = info.require_self_contained(&overlay).unwrap_err();
        assert!(matches!(refused, DiskError::NotSelfContained { .. }), "{refused}");
    }

    #[tokio::test]
    async fn what_lay_between_is_in_a_rebased_overlay() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("0.qcow2");
        let flat = |path: PathBuf| {
            let raw = dir.path().join("flat.raw");
            async move {
                let p = patience();
                convert(&path, Format::Qcow2, &raw, Format::Raw, None, &mut |_| (), &p).await.unwrap();
                std::fs::read(raw).unwrap()
            }
        };
        convert(&raw_disk(dir.path(), 8), Format::Raw, &base, Format::Qcow2, None, &mut |_| (), &patience())
            .await
            .unwrap();
        let mut below = base.clone();
        // Each writes to a place of its own, the second larger than what it stands on, the last zeros over data.
        for (number, (write, size)) in
            [("write -P 1 3M 100k", 8), ("write -P 2 9M 64k", 12), ("write -z 1M 64k", 12)]
                .into_iter()
                .enumerate()
        {
            let path = dir.path().join(format!("{}.qcow2", number + 1));
            create_overlay(&below, Format::Qcow2, &path, Some(size << 20), &patience()).await.unwrap();
            let tool = Tool::new("qemu-io").args(["-f", "qcow2", "-c", write]).arg(&path);
            tool.run(&patience()).await.unwrap();
            below = path;
        }
        let before = flat(below.clone()).await;
        rebase(&below, &base, &patience()).await.unwrap();
        let info = info(&below, Format::Qcow2, &patience()).await.unwrap();
        assert_eq!(info.backing.as_deref(), Some(&*base));
        assert!(flat(below).await == before, "the guest's disk is another");
    }

    #[tokio::test]
    async fn a_data_file_is_not_self_contained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.qcow2");
        let options = format!("data_file={}", dir.path().join("secret").display());
        let create = Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &options]).arg(&path);
        create.arg("1M").run(&patience()).await.unwrap();
        let info = info(&path, Format::Qcow2, &patience()).await.unwrap();
        assert!(info.require_self_contained(&path).is_err(), "{info:?}");
    }

    #[tokio::test]
    async fn every_format_holds_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let base = raw_disk(dir.path(), 8);
        let overlay = dir.path().join("o.qcow2");
        create_overlay(&base, Format::Raw, &overlay, None, &patience()).await.unwrap();
        for format in Format::ALL {
            let target = dir.path().join(format!("t.{format}"));
            let mut seen = Vec::new();
            let mut progress = |p| seen.push(p);
            convert(&overlay, Format::Qcow2, &target, format, None, &mut progress, &patience())
                .await
                .unwrap();
            assert_eq!(seen.last(), Some(&1.0), "{format}");
            let info = info(&target, format, &patience()).await.unwrap();
            assert_eq!(info.virtual_size, 8 << 20, "{format}");
            info.require_self_contained(&target).unwrap();
            assert_eq!(check(&target, format, &patience()).await.unwrap(), Check { leaks: false });
            let back = dir.path().join("back.raw");
            convert(&target, format, &back, Format::Raw, None, &mut |_| (), &patience()).await.unwrap();
            assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&base).unwrap(), "{format}");
        }
        let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        assert!(names.into_iter().all(|n| !n.to_string_lossy().ends_with(files::UNFINISHED)));
    }

    #[tokio::test]
    async fn a_failed_conversion_leaves_the_target_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t.qcow2");
        std::fs::write(&target, "as it was").unwrap();
        let none = dir.path().join("none");
        let error = convert(&none, Format::Raw, &target, Format::Qcow2, None, &mut |_| (), &patience()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, DiskError::Tool { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "as it was");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (base, path) = (raw_disk(dir.path(), 8), dir.path().join("d.qcow2"));
        convert(&base, Format::Raw, &path, Format::Qcow2, None, &mut |_| (), &patience()).await.unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        // An L1 entry that points into the header.
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x80, 0, 0, 0, 0, 0, 0, 0], 3 << 16).unwrap();
        let error = check(&path, Format::Qcow2, &patience()).await.unwrap_err();
        assert!(matches!(error, DiskError::Corrupt { .. }), "{error}");
    }

    #[tokio::test]
    async fn digests_are_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let digest = sha256(&path, &patience()).await.unwrap();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let cancelled = patience();
        cancelled.cancel.cancel();
        let stopped = sha256(&path, &cancelled).await.unwrap_err();
        assert!(matches!(stopped, DiskError::Impatience(_)), "{stopped}");
    }

    #[test]
    fn progress_is_read_from_pieces() {
        let mut parser = Percent::default();
        assert_eq!(parser.feed(b"    (0.00/100%)\r    (12."), Some(0.0));
        assert_eq!(parser.feed(b"50/100%)\r"), Some(0.125));
        assert_eq!(parser.feed(&[b'x'; 1000]), None);
    }
}
