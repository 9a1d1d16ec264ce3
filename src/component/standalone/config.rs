//! The settings file (`--config`) and `--parameters`.

use super::{Given, Sources};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What a settings file says, as far as it has an effect here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub documents: Vec<Given>,
    pub document_owner: Option<String>,
    pub parameters: Vec<(String, String)>,
    pub phases: Vec<String>,
    pub execution_id: Option<String>,
    pub log_directory: Option<PathBuf>,
    pub state_directory: Option<PathBuf>,
    pub trace: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot fetch the settings file {path}: {reason}")]
    Fetch { path: PathBuf, reason: String },
    #[error("the settings file {path} is wrong: {reason}")]
    Form { path: PathBuf, reason: String },
    #[error("`{0}` has no effect: kiln sends no logs to S3 or CloudWatch; the log folder has them all")]
    NoEffect(String),
    #[error("the parameter `{0}` must be NAME=VALUE, with a value")]
    Parameter(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    documents: Vec<DocumentEntry>,
    #[serde(default)]
    parameters: Vec<NameValue>,
    phases: Option<String>,
    execution_id: Option<String>,
    log_directory: Option<PathBuf>,
    state_directory: Option<PathBuf>,
    #[serde(default)]
    trace: bool,
    document_s3_bucket_owner: Option<String>,
    log_s3_bucket_name: Option<String>,
    log_s3_bucket_owner: Option<String>,
    log_s3_key_prefix: Option<String>,
    cw_log_group: Option<String>,
    cw_log_region: Option<String>,
    cw_log_stream: Option<String>,
    cw_ignore_failures: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentEntry {
    path: PathBuf,
    #[serde(default)]
    parameters: Vec<NameValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameValue {
    name: String,
    value: String,
}

impl Config {
    /// From a path, or an `s3://` address.
    pub async fn load(path: &Path, sources: &Sources<'_>) -> Result<Config, ConfigError> {
        let text = match sources.text_elsewhere(&path.display().to_string()).await {
            Some(fetched) => {
                fetched.map_err(|reason| ConfigError::Fetch { path: path.to_owned(), reason })?
            }
            None => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
        };
        Config::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let file: File = serde_json::from_str(text)
            .map_err(|e| ConfigError::Form { path: path.to_owned(), reason: e.to_string() })?;
        let without_effect = [
            ("logS3BucketName", file.log_s3_bucket_name.is_some()),
            ("logS3BucketOwner", file.log_s3_bucket_owner.is_some()),
            ("logS3KeyPrefix", file.log_s3_key_prefix.is_some()),
            ("cwLogGroup", file.cw_log_group.is_some()),
            ("cwLogRegion", file.cw_log_region.is_some()),
            ("cwLogStream", file.cw_log_stream.is_some()),
            ("cwIgnoreFailures", file.cw_ignore_failures == Some(true)),
        ];
        if let Some((name, _)) = without_effect.iter().find(|(_, given)| *given) {
            return Err(ConfigError::NoEffect((*name).to_owned()));
        }
        let pairs = |list: Vec<NameValue>| list.into_iter().map(|p| (p.name, p.value)).collect();
        Ok(Config {
            documents: file
                .documents
                .into_iter()
                .map(|d| Given { path: d.path, parameters: pairs(d.parameters) })
                .collect(),
            document_owner: file.document_s3_bucket_owner,
            parameters: pairs(file.parameters),
            phases: file.phases.as_deref().map(split).unwrap_or_default(),
            execution_id: file.execution_id,
            log_directory: file.log_directory,
            state_directory: file.state_directory,
            trace: file.trace,
        })
    }
}

/// `build,validate`.
pub fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// `NAME=VALUE,NAME=VALUE`; a value cannot hold a comma.
pub fn parse_parameters(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    text.split(',')
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok((name.to_owned(), value.to_owned()))
            }
            _ => Err(ConfigError::Parameter(pair.to_owned())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_files_are_read_and_refused() {
        let parse = |text: &str| Config::parse(text, Path::new("c.json"));
        let config = parse(
            r#"{"documents": [{"path": "a.yml", "parameters": [{"name": "N", "value": "v"}]}],
                "phases": "build, validate", "trace": true, "cwIgnoreFailures": false}"#,
        )
        .unwrap();
        assert_eq!(config.documents[0].parameters, [("N".to_owned(), "v".to_owned())]);
        assert_eq!(config.phases, ["build", "validate"]);
        for (text, part) in [
            (r#"{"documents": [], "cwLogGroup": "g"}"#, "cwLogGroup"),
            (r#"{"documents": [], "executonId": "x"}"#, "executonId"),
            (r#"{}"#, "documents"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn parameters_have_names_and_values() {
        assert_eq!(
            parse_parameters("a=1,b=x=y").unwrap(),
            [("a".into(), "1".into()), ("b".into(), "x=y".into())]
        );
        for bad in ["a=", "=1", "a", "a=1,"] {
            assert!(parse_parameters(bad).is_err(), "{bad}");
        }
    }
}
