//! S3Download: fetched by the host, handed to the guest.

use super::super::fetch::Wanted;
use super::super::fetch::s3::{Object, Target};
use super::deliver::Delivery;
use super::{Action, Context, Field, Input, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use crate::support::diagnostic::Findings;
use kiln_protocol::message::{EntryKind, Operation};

pub static ACTION: Action = Action {
    verb: Verb::S3Download,
    name: "S3Download",
    summary: "Copies an object, or all objects below a prefix, from S3 to the guest",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required(
            "source",
            Kind::Text,
            "s3://bucket/key, or s3://bucket/prefix/* for everything below",
        ),
        Field::required("destination", Kind::Path, "File for one object, folder for a prefix"),
        Field::optional("expectedBucketOwner", Kind::Text, "Account (12 digits) that must own the bucket"),
        Field::optional("overwrite", Kind::Boolean, "false: fail when the file exists").or("true"),
    ],
    outputs: &[],
    check: Some(check),
};

/// One object to a file, or with `/*` at the end all below a prefix into a folder.
pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let written = item.required("destination");
    let destination = step.absolute(written.trim_end_matches(['/', '\\']));
    let mut target = target(item, "source")?;
    let Some(prefix) = target.object.key.strip_suffix('*').filter(|p| p.is_empty() || p.ends_with('/'))
    else {
        if target.object.key.is_empty() {
            return Err(StepError::failed(format!("{} names no object", target.object)));
        }
        if written.ends_with(['/', '\\']) {
            return Err(StepError::failed(format!(
                "the destination of one object is a file: write {written}NAME"
            )));
        }
        one(step, item, target, &destination).await?;
        return Ok(Outputs::new());
    };
    target.object.key = prefix.to_owned();
    let listed = step.list_objects(target.clone()).await?;
    if listed.is_empty() {
        return Err(StepError::failed(format!("there is no object below {}", target.object)));
    }
    // All names first: nothing is written where one of them cannot be.
    let mut wanted = Vec::new();
    for found in listed {
        let name = found.key.strip_prefix(&target.object.key).unwrap_or(&found.key);
        let plain = name.strip_suffix('/').unwrap_or(name);
        if plain.split('/').any(|part| matches!(part, "" | "." | "..")) && !name.is_empty() {
            return Err(StepError::failed(format!("the object `{}` cannot be a file's name", found.key)));
        }
        wanted.push((name.to_owned(), found.key));
    }
    make_folder(step, &destination).await?;
    for (name, key) in wanted {
        let path = format!("{}/{name}", destination.trim_end_matches('/'));
        // Consoles mark a folder by an object with a slash at its end.
        if name.is_empty() || name.ends_with('/') {
            make_folder(step, path.trim_end_matches('/')).await?;
            continue;
        }
        let object = Object { bucket: target.object.bucket.clone(), key };
        one(step, item, Target { object, owner: target.owner.clone() }, &path).await?;
    }
    Ok(Outputs::new())
}

async fn make_folder(step: &Context<'_>, path: &str) -> Result<(), StepError> {
    let path = path.to_owned();
    step.call(Operation::MakeFolder { path, mode: 0o755, parents: true, owner: None, group: None }).await?;
    Ok(())
}

async fn one(step: &mut Context<'_>, item: &Item, target: Target, path: &str) -> Result<(), StepError> {
    match step.stat(path, true).await? {
        Some(entry) if entry.kind == EntryKind::Folder => {
            return Err(StepError::failed(format!("{path} is a folder; write the name of the file")));
        }
        Some(_) if !item.flag("overwrite", true) => {
            return Err(StepError::failed(format!("{path} exists, and overwrite is false")));
        }
        _ => {}
    }
    let source = target.object.to_string();
    let kept = step.download(Wanted::Object(target)).await?;
    let delivery = Delivery::begin(step, kept, path).await?;
    let bytes = delivery.bytes;
    delivery.finish(step).await?;
    step.say(&format!("{path}: {bytes} bytes from {source}"));
    Ok(())
}

/// The address in a field, with the account that must own its bucket.
pub fn target(item: &Item, field: &str) -> Result<Target, StepError> {
    target_of(item.required(field), item.text("expectedBucketOwner"))
}

/// What an address and an account number say.
pub fn target_of(address: &str, owner: Option<&str>) -> Result<Target, StepError> {
    let object = address.parse().map_err(StepError::failed)?;
    match owner {
        Some(owner) if !is_account(owner) => Err(StepError::failed(format!(
            "the owner of the bucket is `{owner}`, which is no account number"
        ))),
        _ => Ok(Target { object, owner: owner.map(str::to_owned) }),
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    address(input, "source", findings, owner);
    bucket_owner(input, findings, owner);
}

/// An address that is written out should be one; only the run knows better (templates, other stores).
pub fn address(input: &Input, field: &str, findings: &mut Findings, owner: &str) {
    let Some(text) = input.literal(field) else { return };
    let (bucket, key) = text.strip_prefix("s3://").and_then(|r| r.split_once('/')).unwrap_or(("", ""));
    if bucket.is_empty() || (field == "source" && key.is_empty()) {
        findings
            .warning(
                input.span_of(field),
                "s3-address",
                format!("`{field}` of {owner} is `{text}`, which is no S3 address"),
            )
            .help = Some("write s3://bucket/key".into());
    }
}

pub fn bucket_owner(input: &Input, findings: &mut Findings, owner: &str) {
    let Some(text) = input.literal("expectedBucketOwner") else { return };
    if !is_account(text) {
        let message =
            format!("`expectedBucketOwner` of {owner} is `{text}`, which is no account number of 12 digits");
        findings.warning(input.span_of("expectedBucketOwner"), "bucket-owner", message);
    }
}
