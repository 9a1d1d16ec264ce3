//! WebDownload: fetched by the host, handed to the guest.

use super::super::fetch::{self, Kept, Wanted};
use super::deliver::{Delivery, hash};
use super::{Action, Context, Field, Input, Item, Kind, Output, Outputs, Platforms, Shape, StepError, Verb};
use crate::support::diagnostic::Findings;
use kiln_protocol::message::{Algorithm, EntryKind};

pub static ACTION: Action = Action {
    verb: Verb::WebDownload,
    name: "WebDownload",
    summary: "Fetches files by http or https",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("source", Kind::Text, "http or https address"),
        Field::required("destination", Kind::Path, "File, or with a separator at the end a folder"),
        Field::optional("overwrite", Kind::Boolean, "false: fail when the file exists").or("true"),
        Field::optional("checksum", Kind::Text, "Digest in hexadecimal digits; needs `algorithm`"),
        Field::optional(
            "algorithm",
            Kind::Choice(&["MD5", "SHA1", "SHA256", "SHA512"]),
            "Kind of `checksum`",
        ),
        Field::optional(
            "ignoreCertificateErrors",
            Kind::Boolean,
            "true: do not check the server's certificate",
        )
        .or("false"),
    ],
    outputs: &["destination"],
    check: Some(check),
};

/// What the document says that the file is.
struct Digest<'a> {
    kind: &'a str,
    algorithm: Algorithm,
    checksum: &'a str,
}

impl Digest<'_> {
    /// What the store knows such a file by.
    fn name(&self) -> String {
        format!("{}:{}", self.kind, self.checksum.to_ascii_lowercase())
    }

    fn is(&self, found: &str) -> bool {
        found.eq_ignore_ascii_case(self.checksum)
    }
}

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let source = item.required("source");
    let written = item.required("destination");
    let mut path = step.absolute(written.trim_end_matches(['/', '\\']));
    if written.ends_with(['/', '\\']) {
        let name = fetch::file_name(source)
            .ok_or_else(|| StepError::failed(format!("{source} does not end with a file name")))?;
        path = format!("{}/{name}", path.trim_end_matches('/'));
    }
    let kind = item.text("algorithm").and_then(|kind| Some((kind, algorithm(kind)?)));
    let digest = item.text("checksum").zip(kind);
    let digest = digest.map(|(checksum, (kind, algorithm))| Digest { kind, algorithm, checksum });
    match step.stat(&path, true).await? {
        Some(entry) if entry.kind == EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} is a folder; write {path}/ to download into it")));
        }
        Some(_) if !item.flag("overwrite", true) => {
            return Err(StepError::failed(format!("{path} exists, and overwrite is false")));
        }
        Some(_) => {
            if let Some(digest) = &digest
                && digest.is(&hash(step, &path, digest.algorithm).await?)
            {
                step.say(&format!("{path} is there already, with the digest asked for"));
                return Ok(destination(path));
            }
        }
        None => {}
    }
    let bytes = match &digest {
        Some(digest) => verified(step, item, &path, digest).await?,
        None => {
            let kept = download(step, item).await?;
            let delivery = Delivery::begin(step, kept, &path).await?;
            let bytes = delivery.bytes;
            delivery.finish(step).await?;
            bytes
        }
    };
    step.say(&format!("{path}: {bytes} bytes from {source}"));
    Ok(destination(path))
}

async fn download(step: &mut Context<'_>, item: &Item) -> Result<Kept, StepError> {
    let ignore_certificate_errors = item.flag("ignoreCertificateErrors", false);
    step.download(Wanted::Web { source: item.required("source").into(), ignore_certificate_errors }).await
}

/// From the host's store where it has been fetched before, otherwise from the network; held to its
/// digest in the guest either way. Bytes written.
async fn verified(
    step: &mut Context<'_>,
    item: &Item,
    path: &str,
    digest: &Digest<'_>,
) -> Result<u64, StepError> {
    let store = &step.fetching()?.store;
    let name = digest.name();
    loop {
        let known = store.find(&name);
        let from_store = known.is_some();
        let kept = match known {
            Some(kept) => kept,
            None => download(step, item).await?,
        };
        let sum = kept.stored.then(|| kept.digest.clone());
        let delivery = Delivery::begin(step, kept, path).await?;
        let found = delivery.hash(step, digest.algorithm).await?;
        if digest.is(&found) {
            let bytes = delivery.bytes;
            delivery.finish(step).await?;
            if from_store {
                step.say("it has been fetched before");
            } else if let Some(sum) = sum {
                // Without the note it is fetched again, no more.
                let _ = store.note(&name, &sum, None);
            }
            return Ok(bytes);
        }
        delivery.give_up(step).await?;
        if !from_store {
            let (source, kind, checksum) = (item.required("source"), digest.kind, digest.checksum);
            return Err(StepError::failed(format!("{source} has the {kind} digest {found}, not {checksum}")));
        }
        // The store's file has been damaged: fetch it anew.
        store.forget(&name);
    }
}

fn destination(path: String) -> Outputs {
    vec![("destination".into(), Output::bounded(path))]
}

fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "MD5" => Algorithm::Md5,
        "SHA1" => Algorithm::Sha1,
        "SHA256" => Algorithm::Sha256,
        "SHA512" => Algorithm::Sha512,
        _ => return None,
    })
}

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    if let Some(text) = input.literal("source")
        && !["http://", "https://"].iter().any(|s| text.len() > s.len() && text.starts_with(s))
    {
        let message = format!("`source` of {owner} is `{text}`, which is no http or https address");
        findings.warning(input.span_of("source"), "web-address", message);
    }
    let (checksum, algorithm) = (input.get("checksum").is_some(), input.get("algorithm").is_some());
    if checksum != algorithm {
        let (one, other) = if checksum { ("checksum", "algorithm") } else { ("algorithm", "checksum") };
        let message = format!("{owner} has `{one}` without `{other}`, so the download is not verified");
        findings.warning(input.span_of(one), "unverified", message).help = Some(format!("add `{other}`"));
    }
    if let (Some(sum), Some(algorithm)) = (input.literal("checksum"), input.literal("algorithm")) {
        let digits = match algorithm {
            "MD5" => 32,
            "SHA1" => 40,
            "SHA256" => 64,
            "SHA512" => 128,
            // The table has told that it is none.
            _ => return,
        };
        if sum.len() != digits || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!(
                "`checksum` of {owner} is no {algorithm} digest: those are {digits} hexadecimal digits"
            );
            findings.warning(input.span_of("checksum"), "checksum", message);
        }
    }
}
