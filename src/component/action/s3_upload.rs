//! S3Upload: read from the guest, sent by the host.

use super::s3_download::{address, bucket_owner};
use super::{Action, Field, Input, Kind, Platforms, Shape, Verb};
use crate::support::diagnostic::Findings;

pub static ACTION: Action = Action {
    verb: Verb::S3Upload,
    name: "S3Upload",
    summary: "Copies files of the guest to S3",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("source", Kind::Pattern, "File, folder, or files by a name with `*`"),
        Field::required(
            "destination",
            Kind::Text,
            "s3:// address: of the object for one file, a prefix for many",
        ),
        Field::optional("recurse", Kind::BooleanText, "true: also what lies in folders below").or("false"),
        Field::optional("expectedBucketOwner", Kind::Text, "Account (12 digits) that must own the bucket"),
    ],
    outputs: &[],
    check: Some(check),
};

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    address(input, "destination", findings, owner);
    bucket_owner(input, findings, owner);
}
