//! `documents` in settings.yaml: what component documents may ask of this host.

use super::aws;
use crate::component::fetch::s3::{Buckets, S3};
use crate::component::fetch::{Fetching, Network, Store};
use crate::support::diagnostic::Findings;
use crate::support::yaml::{Fields, Node};
use std::path::Path;
use std::sync::Arc;

/// GiB of downloads that are kept, unless the settings say otherwise.
const KEPT: u64 = 10;

/// What the section says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Documents {
    networks: Vec<Network>,
    kept: Option<u64>,
    s3: Section,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Section {
    buckets: Option<Vec<String>>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    pub profile: Option<String>,
    pub anonymous: bool,
}

/// Who runs the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// A guest, which is not to reach through the host what it could not reach itself.
    Guest,
    /// This machine: there a document acts as the machine itself, and may what it may.
    Machine,
}

impl Documents {
    /// Reads the section of the settings file.
    pub fn decode(node: &Node, findings: &mut Findings) -> Documents {
        let mut documents = Documents::default();
        let Some(mut inner) = Fields::of(node, "`documents`", findings) else { return documents };
        for node in
            inner.optional("networks").and_then(|n| findings.items(n, "`networks`")).unwrap_or_default()
        {
            match findings.text(node, "a network").map(str::parse::<Network>) {
                Some(Ok(network)) => documents.networks.push(network),
                Some(Err(e)) => drop(findings.error(node.span, "bad-value", e.to_string())),
                None => {}
            }
        }
        documents.kept = inner.optional("keepDownloads").and_then(|node| gibibytes(node, findings));
        if let Some(node) = inner.optional("s3") {
            documents.s3 = section(node, findings);
        }
        inner.finish(findings);
        documents
    }

    /// `folder` is where downloads are kept.
    pub fn fetching(self, runner: Runner, folder: &Path) -> Fetching {
        let buckets = match (self.s3.buckets.clone(), runner) {
            (Some(named), _) => Some(Buckets::Named(named)),
            (None, Runner::Machine) => Some(Buckets::All),
            (None, Runner::Guest) => None,
        };
        let s3 = buckets.map(|buckets| {
            let outside = aws::Outside::read(self.s3.profile.as_deref());
            let endpoint = self.s3.endpoint.clone().or(outside.endpoint);
            Arc::new(S3 {
                // Stores other than AWS mostly have no name of their own for each bucket.
                path_style: self.s3.path_style.unwrap_or(endpoint.is_some()),
                endpoint,
                region: self.s3.region.clone().or(outside.region).unwrap_or_else(|| "us-east-1".into()),
                credentials: match self.s3.anonymous {
                    true => crate::component::fetch::s3::Credentials::Anonymous,
                    false => outside.credentials,
                },
                buckets,
            })
        });
        Fetching {
            store: Store::new(folder, self.kept.unwrap_or(KEPT) << 30),
            networks: match runner {
                Runner::Guest => self.networks,
                Runner::Machine => Network::ALL.to_vec(),
            },
            s3,
        }
    }
}

fn gibibytes(node: &Node, findings: &mut Findings) -> Option<u64> {
    let number = findings.integer(node, "`keepDownloads` (GiB)")?;
    let found = u64::try_from(number).ok().filter(|n| *n <= 1 << 20);
    if found.is_none() {
        findings.error(node.span, "out-of-range", format!("`keepDownloads` is {number}; GiB from 0 on"));
    }
    found
}

fn section(node: &Node, findings: &mut Findings) -> Section {
    let mut section = Section::default();
    let Some(mut fields) = Fields::of(node, "`s3`", findings) else { return section };
    if let Some(node) = fields.required("buckets", findings) {
        let items = findings.items(node, "`buckets`").unwrap_or_default();
        section.buckets =
            Some(items.iter().filter_map(|n| findings.text(n, "a bucket").map(str::to_owned)).collect());
    }
    for (name, slot) in [
        ("region", &mut section.region),
        ("profile", &mut section.profile),
        ("endpoint", &mut section.endpoint),
    ] {
        if let Some(node) = fields.optional(name) {
            *slot = findings.text(node, &format!("`{name}`")).map(str::to_owned);
            if name == "endpoint"
                && slot.as_ref().is_some_and(|e| !e.starts_with("http://") && !e.starts_with("https://"))
            {
                findings.error(node.span, "bad-value", "`endpoint` is no http or https address");
            }
        }
    }
    section.path_style = fields.optional("pathStyle").and_then(|n| findings.boolean(n, "`pathStyle`"));
    let anonymous = fields.optional("anonymous").and_then(|n| findings.boolean(n, "`anonymous`"));
    section.anonymous = anonymous.unwrap_or(false);
    fields.finish(findings);
    section
}

#[cfg(test)]
mod tests {
    use super::super::file::File;
    use super::*;

    fn load(text: &str) -> Result<Documents, String> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("settings.yaml"), text).unwrap();
        File::load(home.path()).map(|f| f.documents).map_err(|f| format!("{f:?}"))
    }

    #[test]
    fn all_settings_are_read() {
        let documents = load(
            "documents:
  networks: [10.0.0.0/8]
  keepDownloads: 3
  s3: {buckets: [a-*, b.c], endpoint: 'http://h:9000', region: x, profile: p, pathStyle: false, anonymous: true}
",
        )
        .unwrap();
        let fetching = documents.fetching(Runner::Guest, "/none".as_ref());
        assert_eq!(fetching.networks, ["10.0.0.0/8".parse().unwrap()]);
        let s3 = fetching.s3.unwrap();
        assert_eq!(s3.buckets, Buckets::Named(vec!["a-*".into(), "b.c".into()]));
        assert_eq!((s3.endpoint.as_deref(), s3.region.as_str()), (Some("http://h:9000"), "x"));
        assert_eq!(s3.credentials, crate::component::fetch::s3::Credentials::Anonymous);
        assert!(!s3.path_style);
    }

    #[test]
    fn without_settings_a_guest_may_nothing_and_this_machine_what_it_can() {
        for text in ["", "# nothing\n", "documents:\n"] {
            let guest = load(text).unwrap().fetching(Runner::Guest, "/none".as_ref());
            assert!(guest.s3.is_none() && guest.networks.is_empty());
        }
        let none = tempfile::tempdir().unwrap();
        let documents = File::load(none.path()).unwrap().documents;
        let machine = documents.fetching(Runner::Machine, "/none".as_ref());
        assert_eq!(machine.s3.unwrap().buckets, Buckets::All);
        assert_eq!(machine.networks, Network::ALL);
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let told = load(
            "documents: {networks: [lan], keepDownloads: -1, s3: {endpoint: minio, bucket: x}}\ndocument: {}\n",
        )
        .unwrap_err();
        for part in [
            "`lan` is no network",
            "GiB from 0 on",
            "no http or https",
            "no field `bucket`",
            "did you mean `documents`",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
