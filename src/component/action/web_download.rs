//! WebDownload: fetched by the host, handed to the guest.

use super::super::fetch::{self, Wanted};
use super::{Action, Context, Field, Input, Item, Kind, Output, Outputs, Platforms, Shape, StepError, Verb};
use crate::support::diagnostic::Findings;
use kiln_protocol::message::{Algorithm, EntryKind, Operation, Put, Reply};

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

/// The file lies beside its place until it is verified, and is then moved there.
pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let source = item.required("source").to_owned();
    let written = item.required("destination");
    let mut path = step.absolute(written.trim_end_matches(['/', '\\']));
    if written.ends_with(['/', '\\']) {
        let name = fetch::file_name(&source)
            .ok_or_else(|| StepError::failed(format!("{source} does not end with a file name")))?;
        path = format!("{}/{name}", path.trim_end_matches('/'));
    }
    let digest = item.text("checksum").zip(item.text("algorithm").and_then(algorithm));
    match step.stat(&path, true).await? {
        Some(entry) if entry.kind == EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} is a folder; write {path}/ to download into it")));
        }
        Some(_) if !item.flag("overwrite", true) => {
            return Err(StepError::failed(format!("{path} exists, and overwrite is false")));
        }
        Some(_) => {
            if let Some((checksum, algorithm)) = digest
                && hash(step, &path, algorithm).await?.eq_ignore_ascii_case(checksum)
            {
                step.say(&format!("{path} is there already, with the digest asked for"));
                return Ok(destination(path));
            }
        }
        None => {}
    }
    let ignore_certificate_errors = item.flag("ignoreCertificateErrors", false);
    let file = step.download(Wanted { source: source.clone(), ignore_certificate_errors }).await?;
    let part = format!("{path}.kiln-{}", step.random_name()?);
    let target =
        Put { path: part.clone(), mode: 0o644, owner: None, group: None, overwrite: false, parents: true };
    let bytes = step.put_file(target, file).await?;
    if let Some((checksum, algorithm)) = digest {
        let found = hash(step, &part, algorithm).await?;
        if !found.eq_ignore_ascii_case(checksum) {
            step.remove_quietly(&part).await?;
            return Err(StepError::failed(format!(
                "{source} has the {} digest {found}, not {checksum}",
                item.required("algorithm")
            )));
        }
    }
    step.call(Operation::Rename { source: part, target: path.clone(), overwrite: true }).await?;
    step.say(&format!("{path}: {bytes} bytes from {source}"));
    Ok(destination(path))
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

async fn hash(step: &Context<'_>, path: &str, algorithm: Algorithm) -> Result<String, StepError> {
    match step.call(Operation::Hash { path: path.to_owned(), algorithm }).await? {
        Reply::Hash(digest) => Ok(digest),
        other => Err(StepError::failed(format!("Hash was answered with {other:?}"))),
    }
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
