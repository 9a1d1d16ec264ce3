//! A base image from a vendor's server: which version, which digest, who signed it, the disk itself.
//!
//! The disk is kept only when it has the digest of the vendor's list, whatever the way to it was like,
//! and then goes through the same import as any stranger's.

mod signature;
mod sums;
mod version;

use super::definition::{Definition, Download, Signature, VERSION};
use super::import::{self, Form, Import};
use super::store::{BaseImage, Origin, Store};
use super::work::Work;
use super::{BaseError, Doing, Progress, is_name};
use crate::component::fetch::{self, FetchError, Part, Watch};
use crate::disk::Foreign;
use crate::support::command::CommandError;
use crate::support::wait::{Impatience, Patience};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use sums::Digest;

pub(super) use version::sides;

/// Bytes of a page or list; the largest seen have some 100 KiB.
const PAGE: u64 = 4 << 20;
/// How often everything is asked anew when what came does not fit together: a vendor may be publishing.
const ROUNDS: usize = 6;
/// How often the same is taken for an accident.
const SAME: usize = 3;
/// What [`PullError::Fetch`] calls the disk.
pub const DISK: &str = "the disk";
/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

/// What to pull.
#[derive(Clone, Debug)]
pub struct Pull<'a> {
    pub definition: &'a Definition,
    pub download: &'a Download,
    /// Without it the definition's.
    pub name: Option<String>,
    /// Without it the newest.
    pub version: Option<String>,
    /// A file of keys; without it the definition's, where this host has that.
    pub key: Option<PathBuf>,
    /// SHA-256 or SHA-512 that the vendor's file must have.
    pub digest: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{what} ({address}) cannot be had")]
    Fetch { what: &'static str, address: String, source: FetchError },
    #[error("{page} names no version in the way of `{link}`")]
    NoVersion { page: String, link: String },
    #[error("it has no version `{wanted}`{}", known(.versions))]
    Unknown { wanted: String, versions: Vec<String> },
    #[error("{what}")]
    Asked { what: String },
    #[error(
        "what came from {address} is another file: it has sha256:{found}, and the vendor's list says {listed}"
    )]
    Wrong { address: String, found: String, listed: String },
    #[error("the vendor's list {address} cannot be used")]
    List { address: String, source: sums::SumsError },
    #[error("the list of digests is not signed by a key in {}{}", key.display(), said.iter().map(|l| format!("\n  | {l}")).collect::<String>())]
    Signature { key: PathBuf, said: Vec<String> },
    #[error("the vendor's file has {listed}, and {wanted} is wanted")]
    Digest { wanted: String, listed: String },
    #[error("the vendor's signature cannot be checked: {0}")]
    NoCheck(String),
    #[error(transparent)]
    Tool(CommandError),
    #[error("{}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Impatience(#[from] Impatience),
}

fn known(versions: &[String]) -> String {
    let newest: Vec<&str> = versions.iter().rev().take(5).map(String::as_str).collect();
    if newest.is_empty() { String::new() } else { format!("; the newest are {}", newest.join(", ")) }
}

impl PullError {
    /// Whether asking for everything anew may help.
    fn passes(&self) -> bool {
        matches!(
            self,
            PullError::NoVersion { .. }
                | PullError::List { .. }
                | PullError::Signature { .. }
                | PullError::Wrong { .. }
        )
    }
}

/// Pulls the disk, or returns the base image that is there from the same file.
pub async fn pull(
    store: &Store,
    request: &Pull<'_>,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<BaseImage, BaseError> {
    let name = request.name.clone().unwrap_or_else(|| request.definition.name.clone());
    let failed = |source| BaseError::Pull { name: name.clone(), source: Box::new(source) };
    let asked = |what: String| failed(PullError::Asked { what });
    if !is_name(&name) {
        return Err(asked(format!("`{name}` is no name for a base image: give another one (--name)")));
    }
    let digest = match &request.digest {
        None => None,
        Some(text) => {
            let what = || asked(format!("`{text}` is no digest: 64 or 128 hexadecimal digits are expected"));
            Some(Digest::parse(text).ok_or_else(what)?)
        }
    };
    if request.version.is_some() && request.download.versions.is_none() {
        return Err(asked("its definition knows no versions, so there is none to choose (--version)".into()));
    }
    if let Some(wanted) = request.version.as_ref().filter(|v| !version::is_version(v)) {
        return Err(asked(format!("`{wanted}` is no version of a vendor's")));
    }
    if request.key.is_some() && request.download.signature.is_none() {
        return Err(asked(
            "its definition names no signature, so there is nothing to check with --key".into(),
        ));
    }
    // What is pinned and here needs no network.
    let pinned = request.version.as_ref().filter(|_| request.key.is_none() && digest.is_none());
    if let Some(found) = pinned.map(|v| here(store, &name, |p| p.version == Some(v))).transpose()?.flatten() {
        progress(Doing::Step(&format!("{name} is there already in this version")));
        return Ok(found);
    }
    let downloads = fetch::Store::new(store.home().join("pulls"), 0);
    let io = |source| BaseError::Store { doing: "making", path: store.home().join("pulls"), source };
    downloads.drop_old_parts().map_err(io)?;
    let work = Work::create(store.home()).await?;
    let job = Job { store, request, name: &name, digest, downloads, work: &work.path, patience };
    let result = job.run(progress).await;
    work.remove().await;
    result
}

/// What is recorded of a pull.
struct Pulled<'a> {
    version: Option<&'a String>,
    listed: &'a str,
}

/// The newest base of that name that was pulled so.
fn here(
    store: &Store,
    name: &str,
    is_it: impl Fn(&Pulled<'_>) -> bool,
) -> Result<Option<BaseImage>, BaseError> {
    let fits = |base: &BaseImage| match &base.origin {
        Origin::Pull { version, listed, .. } => is_it(&Pulled { version: version.as_ref(), listed }),
        _ => false,
    };
    Ok(store.list()?.into_iter().find(|b| b.name == name && fits(b)))
}

struct Job<'a> {
    store: &'a Store,
    request: &'a Pull<'a>,
    name: &'a str,
    digest: Option<Digest>,
    downloads: fetch::Store,
    work: &'a Path,
    patience: &'a Patience,
}

/// One file of a vendor's, told apart from all others.
struct Target {
    version: Option<String>,
    address: String,
    checksums: String,
    digest: Digest,
    /// The signer's fingerprint, or why nobody could tell.
    signed: Result<String, String>,
}

impl Job<'_> {
    async fn run(&self, progress: &mut Progress<'_>) -> Result<BaseImage, BaseError> {
        let mut before: Vec<String> = Vec::new();
        loop {
            match self.once(progress).await {
                Err(BaseError::Pull { source, name }) if source.passes() => {
                    let text = chain(&source);
                    let same = before.iter().filter(|b| **b == text).count();
                    before.push(text);
                    if before.len() == ROUNDS || same + 1 == SAME {
                        return Err(BaseError::Pull { source, name });
                    }
                    let text = before.last().expect("pushed above");
                    progress(Doing::Step(&format!("{text}; once more from the start")));
                    let pause = tokio::time::sleep(Duration::from_secs(before.len() as u64));
                    self.patience.wait("a pull", pause).await.map_err(|e| self.failed(e.into()))?;
                }
                ended => return ended,
            }
        }
    }

    fn failed(&self, source: PullError) -> BaseError {
        BaseError::Pull { name: self.name.to_owned(), source: Box::new(source) }
    }

    async fn once(&self, progress: &mut Progress<'_>) -> Result<BaseImage, BaseError> {
        let target = self.target(progress).await.map_err(|e| self.failed(e))?;
        let listed = target.digest.to_string();
        let same = |p: &Pulled<'_>| p.listed == listed && p.version == target.version.as_ref();
        if let Some(mut found) = here(self.store, self.name, same)? {
            progress(Doing::Step(&format!("{} is there already, from the same file", self.name)));
            // A kiln that died once the base was there has left what it came from.
            if let Ok(part) = self.downloads.part(&target.address) {
                part.discard();
            }
            if let Origin::Pull { signed_by, unverified, .. } = &mut found.origin
                && let (None, Ok(by)) = (&signed_by, &target.signed)
            {
                (*signed_by, *unverified) = (Some(by.clone()), None);
                return self.store.record_again(&found);
            }
            return Ok(found);
        }
        let fetched = self.fetch(&target, progress).await;
        let (part, sha256) = fetched.map_err(|e| self.failed(e))?;
        let result = self.import(&target, &part, sha256, progress).await;
        match &result {
            // It goes on from here next time.
            Err(BaseError::Disk(_) | BaseError::Store { .. }) => {}
            Err(BaseError::Foreign(crate::disk::ForeignError::Disk(_))) => {}
            _ => part.discard(),
        }
        result
    }

    /// Which file it is: version, digest, signature.
    async fn target(&self, progress: &mut Progress<'_>) -> Result<Target, PullError> {
        let download = self.request.download;
        let version = self.version(progress).await?;
        let resolved = |address: &str| match &version {
            Some(version) => address.replace(VERSION, version),
            None => address.to_owned(),
        };
        let (address, checksums) = (resolved(&download.address), resolved(&download.checksums));
        let of = version.as_ref().map(|v| format!(" of {v}")).unwrap_or_default();
        progress(Doing::Step(&format!("asking for the digests{of}: {checksums}")));
        let list = self.page("the vendor's list of digests", &checksums, progress).await?;
        let (signed, list) = match &download.signature {
            None => (Err("its vendor is not known to sign the list of digests".to_owned()), list),
            Some(signature) => {
                let beside = signature.address.as_deref().map(resolved);
                self.signature(signature, beside.as_deref(), list, progress).await?
            }
        };
        match &signed {
            Ok(by) => progress(Doing::Step(&format!("the list of digests is signed by {by}"))),
            Err(why) => progress(Doing::Step(&format!("unverified: {why}"))),
        }
        let unusable = |source| PullError::List { address: checksums.clone(), source };
        let file = fetch::file_name(&address).unwrap_or_default();
        let digest = sums::find(&String::from_utf8_lossy(&list), &file).map_err(unusable)?;
        if let Some(wanted) =
            self.digest.as_ref().filter(|d| d.algorithm == digest.algorithm && **d != digest)
        {
            return Err(PullError::Digest { wanted: wanted.to_string(), listed: digest.to_string() });
        }
        Ok(Target { version, address, checksums, digest, signed })
    }

    async fn version(&self, progress: &mut Progress<'_>) -> Result<Option<String>, PullError> {
        let Some(versions) = &self.request.download.versions else { return Ok(None) };
        progress(Doing::Step(&format!("asking which versions there are: {}", versions.page)));
        let page = self.page("the vendor's list of versions", &versions.page, progress).await;
        let page = match (page, &self.request.version) {
            (Ok(page), _) => page,
            // It may be there all the same.
            (Err(PullError::Fetch { .. }), Some(wanted)) => return Ok(Some(wanted.clone())),
            (Err(error), _) => return Err(error),
        };
        let named = version::named(&String::from_utf8_lossy(&page), &versions.link);
        let wanted = self.request.version.as_deref();
        match (version::chosen(&named, wanted), wanted) {
            (Some(found), _) => Ok(Some(found.clone())),
            // Some vendors name only their newest.
            (None, Some(wanted)) if named.len() <= 1 => Ok(Some(wanted.to_owned())),
            (None, Some(wanted)) => Err(PullError::Unknown { wanted: wanted.into(), versions: named }),
            (None, None) => {
                Err(PullError::NoVersion { page: versions.page.clone(), link: versions.link.clone() })
            }
        }
    }

    async fn page(
        &self,
        what: &'static str,
        address: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<u8>, PullError> {
        let mut say = |line: &str| progress(Doing::Step(line));
        let page = fetch::page(address, PAGE, self.patience, &mut say).await;
        page.map_err(|source| PullError::Fetch { what, address: address.into(), source })
    }

    /// The signer or why there is none, and what of the list counts.
    async fn signature(
        &self,
        signature: &Signature,
        beside: Option<&str>,
        list: Vec<u8>,
        progress: &mut Progress<'_>,
    ) -> Result<(Result<String, String>, Vec<u8>), PullError> {
        let Some(key) = self.request.key.as_ref().or(signature.key.as_ref()) else {
            return Ok((
                Err("its definition names no key of its vendor (--key FILE gives one)".into()),
                list,
            ));
        };
        let package = signature.package.as_deref().filter(|_| self.request.key.is_none());
        if let Some(hindrance) = signature::hindrance(key, package) {
            return match self.request.key {
                Some(_) => Err(PullError::NoCheck(hindrance)),
                None => Ok((Err(hindrance), list)),
            };
        }
        let bytes = match beside {
            Some(address) => Some(self.page("the vendor's signature", address, progress).await?),
            None => None,
        };
        let scratch = self.work.join("signature");
        let io = |source| PullError::File { path: scratch.clone(), source };
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir(&scratch).map_err(io)?;
        let check = signature::Check { list: &list, signature: bytes.as_deref(), key, scratch: &scratch };
        let (by, content) = check.run(self.patience).await?;
        Ok((Ok(by), content))
    }

    /// The vendor's file, whole, and its SHA-256.
    async fn fetch(&self, target: &Target, progress: &mut Progress<'_>) -> Result<(Part, String), PullError> {
        progress(Doing::Step(&format!("downloading {}", target.address)));
        let (watch, sha256) = (Arc::new(Watch::default()), Arc::new(Mutex::new(String::new())));
        let (wanted, note) = (target.digest.clone(), sha256.clone());
        let is_it = move |file: &std::fs::File| {
            let (found, short) = sums::of(file, wanted.algorithm)?;
            *note.lock().unwrap_or_else(PoisonError::into_inner) = short;
            Ok(found == wanted)
        };
        let lines = Mutex::new(Vec::new());
        let mut say = |line: &str| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
        let mut tick = tokio::time::interval(TICK);
        let ended = {
            let download =
                fetch::file(&self.downloads, &target.address, is_it, &watch, self.patience, &mut say);
            let mut download = pin!(download);
            loop {
                let ended = tokio::select! {
                    ended = &mut download => Some(ended),
                    _ = tick.tick() => None,
                };
                let lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
                lines.iter().for_each(|line| progress(Doing::Step(line)));
                let (done, total) = watch.now();
                progress(Doing::Bytes { done, total });
                if let Some(ended) = ended {
                    break ended;
                }
            }
        };
        let sha256 = sha256.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = target.address.clone();
        let part = ended.map_err(|source| match source {
            FetchError::Other => {
                PullError::Wrong { address, found: sha256.clone(), listed: target.digest.to_string() }
            }
            source => PullError::Fetch { what: DISK, address, source },
        })?;
        // Of another kind than the vendor's list has.
        if let Some(wanted) = &self.digest {
            let io = |source| PullError::File { path: target.address.clone().into(), source };
            let (found, _) = sums::of(&part.file, wanted.algorithm).map_err(io)?;
            if found != *wanted {
                part.discard();
                return Err(PullError::Digest { wanted: wanted.to_string(), listed: found.to_string() });
            }
        }
        Ok((part, sha256))
    }

    async fn import(
        &self,
        target: &Target,
        part: &Part,
        digest: String,
        progress: &mut Progress<'_>,
    ) -> Result<BaseImage, BaseError> {
        let file_name = fetch::file_name(&target.address).unwrap_or_default();
        // Under the name that the vendor gave it, which is what failures show.
        let folder = self.work.join("vendor");
        let file = folder.join(&file_name);
        let io = |source| BaseError::Store { doing: "making", path: file.clone(), source };
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).map_err(io)?;
        std::fs::hard_link(part.path().expect("a part of this caller's"), &file).map_err(io)?;
        let definition = self.request.definition;
        let form = match self.request.download.format {
            Some(format) => Form::Disk(format),
            None => import::form_of(&Foreign::open(&file)?)?,
        };
        let origin = Origin::Pull {
            definition: definition.name.clone(),
            version: target.version.clone(),
            address: target.address.clone(),
            checksums: target.checksums.clone(),
            format: form.name().into(),
            digest,
            listed: target.digest.to_string(),
            signed_by: target.signed.as_ref().ok().cloned(),
            unverified: target.signed.as_ref().err().cloned(),
        };
        let request = Import {
            file,
            form: Some(form),
            name: Some(self.name.to_owned()),
            description: Some(definition.description.clone()),
            architecture: Some(definition.architecture),
            firmware: definition.firmware.clone(),
            digest: None,
            flatten: false,
        };
        import::take(self.store, &request, form, self.name.to_owned(), origin, progress, self.patience).await
    }
}

/// An error and what led to it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
