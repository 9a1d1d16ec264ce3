//! S3Download: fetched by the host, handed to the guest.

use super::{Action, Field, Input, Kind, Platforms, Shape, Verb};
use crate::support::diagnostic::Findings;

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
    if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
        let message =
            format!("`expectedBucketOwner` of {owner} is `{text}`, which is no account number of 12 digits");
        findings.warning(input.span_of("expectedBucketOwner"), "bucket-owner", message);
    }
}
