//! WebDownload: fetched by the host, handed to the guest.

use super::{Action, Field, Input, Kind, Platforms, Shape, Verb};
use crate::support::diagnostic::Findings;

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
