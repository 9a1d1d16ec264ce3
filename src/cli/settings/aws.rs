//! Keys for S3 where programs for AWS look for them: the environment, then a profile's files.

use crate::component::fetch::s3::{Credentials, Keys};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the environment and the profile say.
pub struct Outside {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub credentials: Credentials,
}

impl Outside {
    /// With a profile that kiln's settings name, keys of the environment are passed over.
    pub fn read(profile: Option<&str>) -> Outside {
        let files = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"].map(variable);
        let [credentials, config] = files;
        let home = variable("HOME").map(PathBuf::from);
        let file = |set: Option<String>, name: &str| {
            let path = set.map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".aws").join(name)));
            path.and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default()
        };
        let texts = [file(credentials, "credentials"), file(config, "config")];
        Outside::find(profile, variable, &texts)
    }

    fn find(
        profile: Option<&str>,
        variable: impl Fn(&'static str) -> Option<String>,
        [credentials, config]: &[String; 2],
    ) -> Outside {
        let name = profile.map(str::to_owned).or_else(|| variable("AWS_PROFILE"));
        let name = name.unwrap_or_else(|| "default".into());
        let mut values = section(config, &[&format!("profile {name}"), &name]);
        let known = !values.is_empty();
        values.extend(section(credentials, &[&name]));
        let value = |key: &str| values.get(key).cloned();
        let own = keys(
            variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"),
            variable("AWS_SESSION_TOKEN"),
        );
        let of_profile =
            || keys(value("aws_access_key_id"), value("aws_secret_access_key"), value("aws_session_token"));
        let found = own.filter(|_| profile.is_none()).or_else(of_profile);
        Outside {
            endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
            region: variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .or_else(|| value("region")),
            credentials: match found {
                Some(keys) => Credentials::Keys(keys),
                None => Credentials::Missing(missing(&name, known || !values.is_empty())),
            },
        }
    }
}

fn missing(profile: &str, known: bool) -> String {
    let export = "eval \"$(aws configure export-credentials --format env)\" takes over those of a log-in";
    match known {
        true => format!("the profile `{profile}` holds no keys for S3 itself: {export}"),
        false => format!(
            "there are no keys for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write the profile `{profile}` in ~/.aws/credentials; {export}; for public buckets say documents: {{s3: {{anonymous: true}}}} in settings.yaml"
        ),
    }
}

fn variable(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn keys(id: Option<String>, secret: Option<String>, token: Option<String>) -> Option<Keys> {
    Some(Keys { id: id?, secret: secret?, token })
}

/// The lines below the first of these headings that is there.
fn section(text: &str, names: &[&str]) -> BTreeMap<String, String> {
    let mut sections: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            current = Some(name.trim());
        } else if let (Some(current), Some((key, value))) = (current, line.split_once('='))
            && !line.starts_with(['#', ';'])
        {
            let value = value.trim().to_owned();
            sections.entry(current).or_default().insert(key.trim().to_ascii_lowercase(), value);
        }
    }
    names.iter().find_map(|n| sections.remove(n)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "[default]\naws_access_key_id = D\naws_secret_access_key=d=1\n\n[ci]\n# aws_access_key_id = X\naws_access_key_id=C\naws_secret_access_key=c\naws_session_token=t\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile sso]\nsso_session = x\nregion=r\n";

    fn find(profile: Option<&str>, environment: &[(&str, &str)]) -> Outside {
        let variable =
            |name: &'static str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Outside::find(profile, variable, &[CREDENTIALS.into(), CONFIG.into()])
    }

    fn pair(outside: &Outside) -> (String, String) {
        match &outside.credentials {
            Credentials::Keys(keys) => (keys.id.clone(), keys.secret.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_found_in_their_order() {
        let of_environment =
            [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "e"), ("AWS_REGION", "x")];
        let found = find(None, &of_environment);
        assert_eq!((pair(&found), found.region.as_deref()), (("E".into(), "e".into()), Some("x")));
        let found = find(None, &[]);
        assert_eq!((pair(&found), found.region.as_deref()), (("D".into(), "d=1".into()), Some("eu-west-1")));
        assert_eq!(pair(&find(Some("ci"), &of_environment)), ("C".into(), "c".into()));
        assert_eq!(pair(&find(None, &[("AWS_PROFILE", "ci")])), ("C".into(), "c".into()));
        let endpoints = [("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://b")];
        assert_eq!(find(None, &endpoints).endpoint.as_deref(), Some("http://b"));
    }

    #[test]
    fn what_is_missing_is_told() {
        for (profile, part) in [("sso", "holds no keys"), ("none", "there are no keys")] {
            match find(Some(profile), &[]).credentials {
                Credentials::Missing(why) => assert!(why.contains(part) && why.contains(profile), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
