//! S3: objects of AWS or of any store that speaks as it does.

mod answer;
mod checksum;
mod sign;
mod upload;

pub use answer::Listed;
pub use sign::Keys;
pub use upload::{Source, UploadError, upload};

use super::gate::Gate;
use super::http::{Call, Client, GoOn, Received, header, text};
use super::store::{Part, digest_of};
use super::{FetchError, Limits, Received as Fetched};
use crate::component::action::matches;
use crate::support::clock;
use answer::Listing;
use sign::Unsigned;
use std::fmt;
use std::fs::File;
use ureq::{Body, http};

/// How documents may use S3. What is in here is never seen by a document.
#[derive(Clone, Debug)]
pub struct S3 {
    /// `https://minio.example:9000`; None: AWS.
    pub endpoint: Option<String>,
    pub region: String,
    /// The bucket in the path of addresses, not in the name of the server.
    pub path_style: bool,
    pub credentials: Credentials,
    pub buckets: Buckets,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    Keys(Keys),
    /// Requests are not signed: for public buckets.
    Anonymous,
    /// There are none, and why.
    Missing(String),
}

/// The buckets that documents may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buckets {
    All,
    /// `*` stands for any characters.
    Named(Vec<String>),
}

/// `s3://bucket/key`; the key may be empty, and is a prefix then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub bucket: String,
    pub key: String,
}

/// Where a request goes: an object or a prefix, and who must own the bucket.
#[derive(Clone, Debug)]
pub struct Target {
    pub object: Object,
    pub owner: Option<String>,
}

/// Objects that one S3Download by prefix takes.
pub const LISTED: usize = 1000;

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl std::str::FromStr for Object {
    type Err = String;

    fn from_str(address: &str) -> Result<Object, String> {
        let rest = address.strip_prefix("s3://").ok_or_else(|| format!("`{address}` is no s3:// address"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let sound = (3..=255).contains(&bucket.len())
            && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && !bucket.contains("..");
        match sound {
            true => Ok(Object { bucket: bucket.into(), key: key.into() }),
            false => Err(format!("`{address}` names no bucket: write s3://BUCKET/KEY")),
        }
    }
}

impl Buckets {
    fn allow(&self, bucket: &str) -> bool {
        match self {
            Buckets::All => true,
            Buckets::Named(patterns) => patterns.iter().any(|p| matches(p, bucket)),
        }
    }
}

impl S3 {
    /// # Errors
    /// The settings do not let documents at this bucket, or there is nothing to sign with.
    pub fn check(&self, object: &Object) -> Result<(), FetchError> {
        if !self.buckets.allow(&object.bucket) {
            return Err(FetchError::Address(format!(
                "the settings do not let documents use the bucket `{0}`: add `{0}` to documents.s3.buckets in settings.yaml in kiln's home folder",
                object.bucket
            )));
        }
        match &self.credentials {
            Credentials::Missing(why) => Err(FetchError::Address(why.clone())),
            _ => Ok(()),
        }
    }

    /// Scheme, server and path of an object.
    fn place(&self, object: &Object, region: &str) -> (String, String, String) {
        let aws;
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/'),
            None => {
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                aws = format!("https://s3.{region}.amazonaws.com{china}");
                &aws
            }
        };
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        let (server, base) = rest.split_once('/').map_or((rest, ""), |(s, b)| (s, b));
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        // A certificate for `*.server` does not cover a name with one more dot.
        match self.path_style || object.bucket.contains(['.', '_']) {
            true => (scheme.into(), server.into(), format!("{base}/{}/{}", object.bucket, object.key)),
            false => (scheme.into(), format!("{}.{server}", object.bucket), format!("{base}/{}", object.key)),
        }
    }
}

/// A conversation with the store about one target.
struct Talk<'a> {
    s3: &'a S3,
    target: &'a Target,
    client: Client<'a>,
    region: String,
}

/// What a request says beyond its target.
#[derive(Default)]
struct Ask<'a> {
    method: &'static str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
}

impl<'a> Talk<'a> {
    fn new(s3: &'a S3, target: &'a Target, limits: &'a Limits) -> Result<Talk<'a>, FetchError> {
        s3.check(&target.object)?;
        // The settings say where the store is: wherever that is may be asked.
        let client = Client::new(Gate::open(), 0, false, limits);
        Ok(Talk { s3, target, client, region: s3.region.clone() })
    }

    /// `body` is the SHA-256 of what is sent.
    fn call(&self, ask: &Ask, key: &str, body: &str) -> Call {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let object = Object { bucket: self.target.object.bucket.clone(), key: key.into() };
        let (scheme, host, path) = self.s3.place(&object, &self.region);
        let mut headers: Vec<(String, String)> = ask.headers.iter().map(own).collect();
        headers.extend(self.target.owner.iter().map(|o| ("x-amz-expected-bucket-owner".into(), o.clone())));
        let query = ask.query.iter().map(own).collect();
        let unsigned = Unsigned { method: ask.method, scheme, host, path, query, headers, body: body.into() };
        let keys = match &self.s3.credentials {
            Credentials::Keys(keys) => Some(keys),
            _ => None,
        };
        unsigned.sign(keys, &self.region, "s3", clock::now_ms())
    }

    /// Asks about the target's own key; any answer but success is an error.
    fn ask(
        &mut self,
        ask: &Ask,
        body: Option<(&File, u64, &str)>,
    ) -> Result<http::Response<Body>, FetchError> {
        loop {
            let digest = body.map_or_else(|| digest_of(b""), |(_, _, d)| d.to_owned());
            // A list is asked of the bucket, not of the prefix.
            let key =
                if ask.query.iter().any(|(n, _)| *n == "list-type") { "" } else { &self.target.object.key };
            let call = self.call(ask, key, &digest);
            let mut response = self.client.send(&call, body.map(|(file, bytes, _)| (file, bytes)))?;
            if response.status().is_success() {
                return Ok(response);
            }
            if !self.follow(&response) {
                return Err(refusal(&mut response));
            }
        }
    }

    /// Whether the answer names another region, to be asked from now on.
    fn follow(&mut self, response: &http::Response<Body>) -> bool {
        match header(response, "x-amz-bucket-region") {
            Some(region) if region != self.region && self.region == self.s3.region => {
                self.region = region;
                true
            }
            _ => false,
        }
    }
}

/// Receives an object, or what the part lacks of it.
pub(super) fn receive(
    s3: &S3,
    target: &Target,
    tag: Option<&str>,
    part: &mut Part,
    limits: &Limits,
) -> Result<Fetched, FetchError> {
    let mut talk = Talk::new(s3, target, limits)?;
    let ask = Ask { method: "GET", headers: &[("x-amz-checksum-mode", "ENABLED")], ..Ask::default() };
    loop {
        let call = talk.call(&ask, &target.object.key, &digest_of(b""));
        match talk.client.receive(call, GoOn::IfMatch, tag, part)? {
            Received::Unchanged => return Ok(Fetched::Unchanged),
            Received::Complete => {
                if let Err(what) = checksum::verify(&part.file, &part.told)? {
                    part.begin(None, Vec::new())?;
                    return Err(FetchError::Connection(what));
                }
                return Ok(Fetched::Complete);
            }
            Received::Other(response) if talk.follow(&response) => {}
            Received::Other(mut response) => return Err(refusal(&mut response)),
        }
    }
}

/// The objects whose keys begin with the target's.
///
/// # Errors
/// Also when there are more than [`LISTED`].
pub fn list(s3: &S3, target: &Target, limits: &Limits) -> Result<Vec<Listed>, FetchError> {
    let mut talk = Talk::new(s3, target, limits)?;
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let prefix = &target.object.key;
        let mut query = vec![("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix.as_str())];
        if let Some(token) = &token {
            query.insert(0, ("continuation-token", token));
        }
        let mut response = talk.ask(&Ask { method: "GET", query: &query, headers: &[] }, None)?;
        let Listing { objects, next } =
            answer::listing(&text(&mut response)?).map_err(FetchError::Nonsense)?;
        found.extend(objects);
        if found.len() > LISTED || (found.len() == LISTED && next.is_some()) {
            let message = format!(
                "there are more than {LISTED} objects below {}, which is what one step takes",
                target.object
            );
            return Err(FetchError::Address(message));
        }
        match next {
            Some(next) if token.as_ref() != Some(&next) => token = Some(next),
            Some(_) => return Err(FetchError::Nonsense("a list that does not go on".into())),
            None => return Ok(found),
        }
    }
}

/// Why the store said no, in its words.
fn refusal(response: &mut http::Response<Body>) -> FetchError {
    let status = response.status().as_u16();
    let (code, message) = text(response).ok().and_then(|t| answer::error(&t)).unwrap_or_default();
    FetchError::Store { status, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_bucket_and_perhaps_a_key() {
        let good = |text: &str| text.parse::<Object>().map(|o| (o.bucket, o.key)).ok();
        for (text, bucket, key) in [
            ("s3://bucket/a/b c", "bucket", "a/b c"),
            ("s3://my.bucket_1/", "my.bucket_1", ""),
            ("s3://bucket", "bucket", ""),
            ("s3://bucket//a//", "bucket", "/a//"),
        ] {
            assert_eq!(good(text), Some((bucket.into(), key.into())), "{text}");
        }
        for text in [
            "",
            "s3:/bucket/a",
            "https://bucket/a",
            "s3://",
            "s3:///a",
            "s3://a b/c",
            "s3://a@b/c",
            "s3://../a",
        ] {
            assert_eq!(good(text), None, "{text}");
        }
    }

    #[test]
    fn objects_have_their_place() {
        let s3 = |endpoint: Option<&str>, path_style| S3 {
            endpoint: endpoint.map(str::to_owned),
            region: "eu-west-1".into(),
            path_style,
            credentials: Credentials::Anonymous,
            buckets: Buckets::All,
        };
        let place = |s3: S3, region: &str, address: &str| {
            let (scheme, host, path) = s3.place(&address.parse().unwrap(), region);
            format!("{scheme}://{host}{path}")
        };
        for (s3, region, address, want) in [
            (s3(None, false), "eu-west-1", "s3://buck/a/b", "https://buck.s3.eu-west-1.amazonaws.com/a/b"),
            (s3(None, false), "cn-north-1", "s3://buck/a", "https://buck.s3.cn-north-1.amazonaws.com.cn/a"),
            (s3(None, false), "us-east-1", "s3://b.c.d/a", "https://s3.us-east-1.amazonaws.com/b.c.d/a"),
            (s3(Some("http://[::1]:9000/"), true), "x", "s3://buck/a", "http://[::1]:9000/buck/a"),
            (s3(Some("https://h/base"), true), "x", "s3://buck", "https://h/base/buck/"),
            (s3(Some("https://h"), false), "x", "s3://buck/a", "https://buck.h/a"),
        ] {
            assert_eq!(place(s3, region, address), want);
        }
    }

    #[test]
    fn only_named_buckets_are_used() {
        let named = Buckets::Named(vec!["team-*".into(), "one".into()]);
        assert!(named.allow("team-a") && named.allow("one") && Buckets::All.allow("any"));
        assert!(!named.allow("steam-a") && !named.allow("one-more") && !Buckets::Named(vec![]).allow("one"));
    }
}
