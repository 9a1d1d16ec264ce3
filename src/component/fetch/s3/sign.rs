//! Signature Version 4 of AWS.

use super::super::http::Call;
use super::super::store::{digest_of, hexadecimal};
use crate::support::clock;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt::Write as _;

/// A key pair.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    /// Of temporary keys.
    pub token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.id)
    }
}

/// A request before it is signed.
#[derive(Clone, Debug)]
pub struct Unsigned {
    pub method: &'static str,
    /// `https` or `http`.
    pub scheme: String,
    /// With the port, unless it is the scheme's own.
    pub host: String,
    /// Decoded, with `/` at its beginning.
    pub path: String,
    /// Decoded, in the order of their names.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    /// SHA-256 of the body.
    pub body: String,
}

impl Unsigned {
    /// The call as it is sent. `now` in ms.
    pub fn sign(self, keys: Option<&Keys>, region: &str, service: &str, now: i64) -> Call {
        let path = encoded(&self.path, true);
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
            .collect();
        let query = pairs.join("&");
        let mut headers = self.headers;
        if let Some(keys) = keys {
            let time: String = clock::rfc3339(now).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            headers.push(("host".into(), self.host.clone()));
            headers.push(("x-amz-content-sha256".into(), self.body.clone()));
            headers.push(("x-amz-date".into(), time.clone()));
            headers.extend(keys.token.iter().map(|t| ("x-amz-security-token".into(), t.clone())));
            headers.sort();
            let names: Vec<&str> = headers.iter().map(|(n, _)| n.as_str()).collect();
            let names = names.join(";");
            let mut canonical = format!("{}\n{path}\n{query}\n", self.method);
            for (name, value) in &headers {
                let _ = writeln!(canonical, "{name}:{}", value.trim());
            }
            let _ = write!(canonical, "\n{names}\n{}", self.body);
            let scope = format!("{}/{region}/{service}/aws4_request", &time[..8]);
            let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest_of(canonical.as_bytes()));
            let mut key = mac(format!("AWS4{}", keys.secret).as_bytes(), &time[..8]);
            for part in [region, service, "aws4_request"] {
                key = mac(&key, part);
            }
            let signature = hexadecimal(&mac(&key, &text));
            let value = format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
                keys.id
            );
            headers.push(("authorization".into(), value));
            // The client writes it, from the address.
            headers.retain(|(name, _)| name != "host");
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}://{}{path}{mark}{query}", self.scheme, self.host);
        Call { method: self.method, url, headers }
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encoded as the signature wants it: all but letters, digits and `-._~`.
fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (byte == b'/' && keep_slashes) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the S3 API reference, with the keys and the time that it gives.
    #[test]
    fn published_examples_get_their_signatures() {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let sign = |method, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)], body: &[u8]| {
            let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
                pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
            };
            let unsigned = Unsigned {
                method,
                scheme: "https".into(),
                host: "examplebucket.s3.amazonaws.com".into(),
                path: path.into(),
                query: own(query),
                headers: own(headers),
                body: digest_of(body),
            };
            unsigned.sign(Some(&keys), "us-east-1", "s3", 1_369_353_600_000)
        };
        let date = ("date", "Fri, 24 May 2013 00:00:00 GMT");
        let class = ("x-amz-storage-class", "REDUCED_REDUNDANCY");
        let calls = [
            (
                sign("GET", "/test.txt", &[], &[("range", "bytes=0-9")], b""),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                sign("PUT", "/test$file.text", &[], &[date, class], b"Welcome to Amazon S3."),
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                sign("GET", "/", &[("lifecycle", "")], &[], b""),
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                sign("GET", "/", &[("max-keys", "2"), ("prefix", "J")], &[], b""),
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ];
        for (call, want) in calls {
            let (_, authorization) = call.headers.iter().find(|(n, _)| n == "authorization").unwrap();
            assert!(authorization.ends_with(&format!("Signature={want}")), "{}: {authorization}", call.url);
        }
        let call = sign("GET", "/a b/+ü", &[], &[], b"");
        assert_eq!(call.url, "https://examplebucket.s3.amazonaws.com/a%20b/%2B%C3%BC");
    }

    #[test]
    fn keys_do_not_show_their_secret() {
        let keys = Keys { id: "id".into(), secret: "hush".into(), token: Some("hush".into()) };
        assert_eq!(format!("{keys:?}"), "Keys(id)");
    }
}
