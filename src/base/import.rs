//! A base image from a disk that somebody else made.

use super::store::{BaseImage, DISK, Origin, Store};
use super::work::Work;
use super::{BaseError, Doing, Progress, is_name, ova};
use crate::disk::{self, Brought, Foreign, Format, gpt};
use crate::model::{Architecture, Firmware};
use crate::support::clock;
use crate::support::text::printable;
use crate::support::wait::Patience;
use std::path::{Path, PathBuf};

/// What to import and as what.
#[derive(Clone, Debug)]
pub struct Import {
    pub file: PathBuf,
    /// Without it the file's name decides.
    pub form: Option<Form>,
    /// Without it the file's name is taken.
    pub name: Option<String>,
    pub description: Option<String>,
    /// Of the system on the disk; without it this machine's.
    pub architecture: Option<Architecture>,
    /// What boots the disk; empty: what its partition table says.
    pub firmware: Vec<Firmware>,
    /// SHA-256 that the file must have, 64 hex digits.
    pub digest: Option<String>,
    /// Follow backing files that lie beside the disk.
    pub flatten: bool,
}

/// What a file is said to be. Never guessed from its content: a raw disk may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Disk(Format),
    Ova,
}

impl std::str::FromStr for Form {
    type Err = String;
    fn from_str(text: &str) -> Result<Form, String> {
        if text == "ova" {
            return Ok(Form::Ova);
        }
        text.parse().map(Form::Disk).map_err(|e| format!("{e}, or ova"))
    }
}

impl Form {
    fn of(path: &Path) -> Option<Form> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "vpc" => Some(Form::Disk(Format::Vhd)),
            other => other.parse().ok(),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Disk(format) => format.as_str(),
            Form::Ova => "ova",
        }
    }
}

/// Imports the disk, or returns the base image that came from the same file under the same name.
pub async fn import(
    store: &Store,
    request: &Import,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<BaseImage, BaseError> {
    let file = request.file.as_path();
    let opened = Foreign::open(file)?;
    let wrong = |what: String| BaseError::Import { path: file.to_owned(), what };
    let form = match request.form {
        Some(form) => form,
        None => form_of(&opened)?,
    };
    let name = match &request.name {
        Some(name) => name.clone(),
        None => name_of(file),
    };
    if !is_name(&name) {
        return Err(wrong(format!("`{name}` is no name for a base image: give another one (--name)")));
    }
    let work = Work::create(store.home()).await?;
    let job = Importing { store, request, form, name, opened, work: &work.path, patience };
    let result = job.run(progress).await;
    work.remove().await;
    result
}

/// An import whose file is not known yet.
struct Importing<'a> {
    store: &'a Store,
    request: &'a Import,
    form: Form,
    name: String,
    opened: Foreign,
    work: &'a Path,
    patience: &'a Patience,
}

impl Importing<'_> {
    async fn run(self, progress: &mut Progress<'_>) -> Result<BaseImage, BaseError> {
        let Importing { store, request, form, name, opened, work, patience } = self;
        let file = request.file.as_path();
        progress(Doing::Step(&format!("reading {}", file.display())));
        let folder = work.join("source");
        std::fs::create_dir(&folder).map_err(store_error("making", &folder))?;
        // From here on the file may become what it likes: what was copied is what is checked and used.
        let source = opened.bring(&folder, patience).await?;
        let digest = disk::sha256(&source.file, patience).await?;
        if let Some(wanted) = &request.digest
            && !wanted.trim_start_matches("sha256:").eq_ignore_ascii_case(&digest)
        {
            return Err(BaseError::Digest { path: file.to_owned(), wanted: wanted.clone(), found: digest });
        }
        let origin = Origin::Import { file: file_name(file), format: form.name().into(), digest };
        // What a chain of files holds, the digest of the first does not say.
        let same = |b: &BaseImage| b.name == name && b.origin == origin && !request.flatten;
        if let Some(found) = store.list()?.into_iter().find(same) {
            agrees(&found, request)?;
            progress(Doing::Step(&format!("{name} is there already, from the same file")));
            return Ok(found);
        }
        Job { store, request, source, form, name, origin, work, patience }.run(progress).await
    }
}

/// Whether what was asked for is what is there; what was not asked for may be anything.
fn agrees(found: &BaseImage, request: &Import) -> Result<(), BaseError> {
    let mut other = Vec::new();
    let mut compare = |what: &str, there: String, wanted: String| {
        if there != wanted {
            other.push(format!("{what} {there}, not {wanted}"));
        }
    };
    if let Some(wanted) = request.architecture {
        compare("architecture", found.architecture.to_string(), wanted.to_string());
    }
    let names = |all: &[Firmware]| -> String {
        let known = [Firmware::Bios, Firmware::Uefi].into_iter().filter(|f| all.contains(f));
        known.map(|f| f.as_str()).collect::<Vec<_>>().join(",")
    };
    if !request.firmware.is_empty() {
        compare("firmware", names(&found.firmware), names(&request.firmware));
    }
    if let Some(wanted) = &request.description {
        compare("description", format!("`{}`", found.description), format!("`{wanted}`"));
    }
    match other.is_empty() {
        true => Ok(()),
        false => Err(BaseError::Differs {
            name: found.name.clone(),
            digits: found.digest["sha256:".len()..][..12].to_owned(),
            what: other.join("; "),
        }),
    }
}

/// What a file's name says that it is.
pub(super) fn form_of(file: &Foreign) -> Result<Form, BaseError> {
    let what = || format!("its name does not say what it is{}", hint(file));
    Form::of(file.path()).ok_or_else(|| BaseError::Import { path: file.path().to_owned(), what: what() })
}

/// Imports a file that is known to be the right one, and that only kiln can change.
pub(super) async fn take(
    store: &Store,
    request: &Import,
    form: Form,
    name: String,
    origin: Origin,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<BaseImage, BaseError> {
    let work = Work::create(store.home()).await?;
    let source = Brought { shown: request.file.clone(), file: request.file.clone() };
    let job = Job { store, request, source, form, name, origin, work: &work.path, patience };
    let result = job.run(progress).await;
    work.remove().await;
    result
}

struct Job<'a> {
    store: &'a Store,
    request: &'a Import,
    source: Brought,
    form: Form,
    name: String,
    origin: Origin,
    work: &'a Path,
    patience: &'a Patience,
}

impl Job<'_> {
    async fn run(self, progress: &mut Progress<'_>) -> Result<BaseImage, BaseError> {
        let Job { request, patience, work, .. } = self;
        let (source, format) = self.disk(progress).await?;
        let folder = work.join("out");
        std::fs::create_dir(&folder).map_err(store_error("making", &folder))?;
        let disk = folder.join(DISK);
        progress(Doing::Step("writing the disk anew as qcow2"));
        let mut part = |part: f32| progress(Doing::Part(part));
        let info = disk::take_in(&source, format, &disk, request.flatten, &mut part, patience).await?;
        let firmware = match request.firmware.as_slice() {
            [] => {
                let head = disk::head(&disk, Format::Qcow2, gpt::HEAD_BYTES, work, patience).await?;
                bootable_by(&head, info.virtual_size)
            }
            given => given.to_vec(),
        };
        if firmware.is_empty() {
            let what = "nothing on it can be booted: neither boot code for BIOS nor an EFI system partition is there (if you know better: --firmware)";
            return Err(BaseError::Import { path: request.file.clone(), what: what.into() });
        }
        let digest = disk::sha256(&disk, patience).await?;
        let file_size = std::fs::metadata(&disk).map_err(store_error("reading", &disk))?.len();
        let digest = format!("sha256:{digest}");
        // Another file with the same disk in it. What a vendor's disk is, its definition says each time.
        let same = |b: &BaseImage| b.name == self.name && b.digest == digest;
        if matches!(self.origin, Origin::Import { .. })
            && let Some(found) = self.store.list()?.into_iter().find(same)
        {
            agrees(&found, request)?;
        }
        self.store.add(&BaseImage {
            name: self.name,
            description: match &request.description {
                Some(text) => text.clone(),
                None => format!("imported from {}", file_name(&request.file)),
            },
            architecture: request.architecture.unwrap_or(Architecture::HOST),
            firmware,
            digest,
            disk,
            virtual_size: info.virtual_size,
            file_size,
            created: clock::now_ms(),
            origin: self.origin,
            folder,
        })
    }

    /// The file that holds the disk, and its format.
    async fn disk(&self, progress: &mut Progress<'_>) -> Result<(Brought, Format), BaseError> {
        if let Form::Disk(format) = self.form {
            return Ok((self.source.clone(), format));
        }
        progress(Doing::Step("taking the disk out of the archive"));
        let (archive, inside) = (self.source.file.clone(), self.work.join("disk.vmdk"));
        let (target, patience) = (inside.clone(), self.patience.clone());
        tokio::task::spawn_blocking(move || ova::extract(&archive, &target, &patience))
            .await
            .expect("reading an archive does not panic")
            .map_err(|source| BaseError::Ova { path: self.request.file.clone(), source })?;
        Ok((Brought { shown: inside.clone(), file: inside }, Format::Vmdk))
    }
}

fn store_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BaseError {
    let path = path.to_owned();
    move |source| BaseError::Store { doing, path, source }
}

/// What can boot a disk, by its first sectors.
fn bootable_by(head: &[u8], size: u64) -> Vec<Firmware> {
    let mut found = Vec::new();
    let Some(mbr) = head.get(..512).filter(|m| m[510..] == [0x55, 0xAA]) else { return found };
    if mbr[..440].iter().any(|b| *b != 0) {
        found.push(Firmware::Bios);
    }
    let in_gpt = gpt::Table::parse(head, size)
        .is_ok_and(|t| t.partitions.iter().any(|p| p.kind == gpt::kind::EFI_SYSTEM));
    let in_mbr = mbr[446..510].chunks(16).any(|entry| entry[4] == 0xEF);
    if in_gpt || in_mbr {
        found.push(Firmware::Uefi);
    }
    found
}

fn file_name(path: &Path) -> String {
    printable(&path.file_name().unwrap_or_default().to_string_lossy(), usize::MAX)
}

/// A base image's name out of a file's.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    stem.chars().map(|c| if c == '_' || c == ' ' { '-' } else { c }).collect()
}

/// What the first bytes look like: shown to the person who decides, never acted on.
fn hint(file: &Foreign) -> String {
    let looks = match file.start::<8>().as_ref() {
        None => return String::new(),
        Some([b'Q', b'F', b'I', 0xfb, ..]) => "qcow2",
        Some([b'K', b'D', b'M', b'V', ..]) => "vmdk",
        Some(b"vhdxfile") => "vhdx",
        Some(b"conectix") => "vhd",
        Some(_) => "raw",
    };
    format!(" (it looks like {looks}: --disk-format {looks})")
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;
    use crate::support::command::Tool;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(120), &CancellationToken::new())
    }

    fn request(file: PathBuf) -> Import {
        Import {
            file,
            form: None,
            name: None,
            description: None,
            architecture: Some(Architecture::X86_64),
            firmware: Vec::new(),
            digest: None,
            flatten: false,
        }
    }

    /// A disk as the builder lays it out, with boot code or without.
    fn disk(path: &Path, boot_code: bool) {
        let layout = Layout::new(256 << 20);
        let (head, tail) = layout.gpt(Architecture::X86_64, "test");
        let file = std::fs::File::create(path).unwrap();
        file.set_len(layout.size).unwrap();
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(&tail, layout.size - tail.len() as u64).unwrap();
        if boot_code {
            file.write_all_at(&[0xEB], 0).unwrap();
        }
    }

    #[tokio::test]
    async fn a_disk_becomes_a_base_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("home"));
        let raw = dir.path().join("My_Disk.raw");
        disk(&raw, true);
        let import = |r: Import| {
            let store = store.clone();
            async move { super::import(&store, &r, &mut |_| (), &patience()).await }
        };
        let first = import(request(raw.clone())).await.unwrap();
        assert_eq!(first.name, "my-disk");
        assert_eq!(first.firmware, [Firmware::Bios, Firmware::Uefi]);
        assert_eq!(first.virtual_size, 256 << 20);
        let again = import(request(raw.clone())).await.unwrap();
        assert_eq!((again.digest, again.created), (first.digest, first.created));

        let digest = disk::sha256(&raw, &patience()).await.unwrap();
        let other = Import { name: Some("other".into()), digest: Some(digest), ..request(raw.clone()) };
        assert_eq!(import(other).await.unwrap().name, "other");
        let wrong = Import { digest: Some("0".repeat(64)), ..request(raw.clone()) };
        assert!(matches!(import(wrong).await, Err(BaseError::Digest { .. })));

        disk(&raw, false);
        let uefi = import(Import { name: Some("uefi".into()), ..request(raw.clone()) }).await.unwrap();
        assert_eq!(uefi.firmware, [Firmware::Uefi]);
        std::fs::File::create(&raw).unwrap().set_len(1 << 20).unwrap();
        let empty = import(request(raw.clone())).await.unwrap_err().to_string();
        assert!(empty.contains("nothing on it can be booted"), "{empty}");
        assert_eq!(std::fs::read_dir(dir.path().join("home/tmp")).unwrap().count(), 0);
    }

    /// What was asked for and is not there is said, not passed over.
    #[tokio::test]
    async fn a_second_import_that_asks_for_other_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("home"));
        let raw = dir.path().join("a.raw");
        disk(&raw, true);
        let import = |r: Import| {
            let store = store.clone();
            async move { super::import(&store, &r, &mut |_| (), &patience()).await }
        };
        let first = import(request(raw.clone())).await.unwrap();
        let agreeing = Import {
            firmware: vec![Firmware::Uefi, Firmware::Bios],
            description: Some("imported from a.raw".into()),
            ..request(raw.clone())
        };
        assert_eq!(import(agreeing).await.unwrap().created, first.created);
        let bios = Import { firmware: vec![Firmware::Bios], ..request(raw.clone()) };
        let arm = Import { architecture: Some(Architecture::Aarch64), ..request(raw.clone()) };
        let text = Import { description: Some("mine".into()), ..request(raw.clone()) };
        let words = [
            (bios.clone(), "firmware bios,uefi, not bios"),
            (arm, "architecture x86_64, not aarch64"),
            (text, "description `imported from a.raw`, not `mine`"),
        ];
        let next = format!("kiln base remove {}", &first.digest["sha256:".len()..][..12]);
        for (request, words) in words {
            let failure = crate::model::Failure::from(import(request).await.unwrap_err());
            assert_eq!(failure.kind, crate::model::FailureKind::Conflict);
            let text = format!("{failure:?}");
            assert!(text.contains(words) && text.contains(&next), "{text}");
        }
        // The same disk out of another file.
        let other = dir.path().join("b.raw");
        std::fs::copy(&raw, &other).unwrap();
        let other = Import { file: other, name: Some("a".into()), ..bios };
        assert!(matches!(import(other).await, Err(BaseError::Differs { .. })));
        assert_eq!(store.list().unwrap().len(), 1);
        assert_eq!(store.get("a").unwrap().firmware, [Firmware::Bios, Firmware::Uefi]);
    }

    #[tokio::test]
    async fn what_a_file_is_must_be_said() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let file = dir.path().join("disk.img");
        std::fs::write(&file, b"QFI\xfb\0\0\0\x03").unwrap();
        let error = import(&store, &request(file), &mut |_| (), &patience()).await.unwrap_err().to_string();
        assert!(error.contains("--disk-format qcow2"), "{error}");
    }

    #[tokio::test]
    async fn the_disk_of_an_ova_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("home"));
        disk(&dir.path().join("d.raw"), true);
        let run = |program: &'static str, arguments: &'static str| {
            Tool::new(program).args(arguments.split(' ')).dir(dir.path())
        };
        let convert = run("qemu-img", "convert -O vmdk -o subformat=streamOptimized d.raw d.vmdk");
        convert.run(&patience()).await.unwrap();
        std::fs::write(dir.path().join("d.ovf"), "<Envelope/>").unwrap();
        run("tar", "-cf appliance.ova d.ovf d.vmdk").run(&patience()).await.unwrap();
        let request = request(dir.path().join("appliance.ova"));
        let image = import(&store, &request, &mut |_| (), &patience()).await.unwrap();
        assert_eq!((image.name.as_str(), image.virtual_size), ("appliance", 256 << 20));
    }
}
