//! `kiln component run`, with the flags of awstoe.

use crate::cli::Settings;
use crate::cli::cmd::planning::values;
use crate::cli::exit;
use crate::cli::settings::Runner;
use crate::component::standalone::{
    self, Config, ConfigError, Given, Request, Sources, StandaloneError, parse_parameters,
};
use crate::guest::link::local::LocalGuest;
use crate::model::{Failure, FailureKind};
use crate::support::wait::Patience;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Run documents on this machine, as awstoe would; exit code 194 asks for a reboot and the same command again
#[derive(clap::Args)]
pub struct Arguments {
    /// Documents, with commas between them: paths or s3:// addresses
    #[arg(long, short, value_delimiter = ',', value_name = "FILE,...", required_unless_present = "config")]
    documents: Vec<PathBuf>,
    /// Account (12 digits) that must own the buckets that documents come from
    #[arg(long, value_name = "ACCOUNT")]
    document_s3_bucket_owner: Option<String>,
    /// Settings file (JSON; a path or an s3:// address), instead of --documents and --parameters
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["documents", "parameters"])]
    config: Option<PathBuf>,
    /// Parameters of the documents: NAME=VALUE,NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE,...")]
    parameters: Option<String>,
    /// Phases to run [default: all]
    #[arg(long, short, value_delimiter = ',', value_name = "PHASE,...")]
    phases: Vec<String>,
    /// Actions that may not be used
    #[arg(long, value_delimiter = ',', value_name = "ACTION,...")]
    blocked_action_modules: Vec<String>,
    /// Id of the run [default: a new one]
    #[arg(long, short = 'i', value_name = "ID")]
    execution_id: Option<String>,
    /// Where an interrupted run is kept, and taken up [default: in kiln's home]
    #[arg(long, short, value_name = "DIR")]
    state_directory: Option<PathBuf>,
    /// In which the log folder TOE_... is made
    #[arg(long, short, value_name = "DIR")]
    log_directory: Option<PathBuf>,
    /// Where scripts run and relative paths count from
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    working_directory: PathBuf,
    /// Values of {{ aws:ssm:... }}, {{ aws:imds:... }}, {{ context:accountId }}, {{ context:region }} (YAML or JSON)
    #[arg(long, value_name = "FILE", env = "KILN_VALUES")]
    values: Option<PathBuf>,
    /// Also tell on stderr what goes to console.log
    #[arg(long, short)]
    trace: bool,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Flags of awstoe for logs in AWS: there is nothing here that they could do.
#[derive(clap::Args)]
struct Elsewhere {
    #[arg(long, short = 'b', hide = true)]
    log_s3_bucket_name: Option<String>,
    #[arg(long, hide = true)]
    log_s3_bucket_owner: Option<String>,
    #[arg(long, short = 'k', hide = true)]
    log_s3_key_prefix: Option<String>,
    #[arg(long, hide = true)]
    cw_log_group: Option<String>,
    #[arg(long, hide = true)]
    cw_log_stream: Option<String>,
    #[arg(long, hide = true)]
    cw_log_region: Option<String>,
    #[arg(long, hide = true)]
    cw_ignore_failures: bool,
}

impl Elsewhere {
    fn given(&self) -> Option<&'static str> {
        let all = [
            ("--log-s3-bucket-name", self.log_s3_bucket_name.is_some()),
            ("--log-s3-bucket-owner", self.log_s3_bucket_owner.is_some()),
            ("--log-s3-key-prefix", self.log_s3_key_prefix.is_some()),
            ("--cw-log-group", self.cw_log_group.is_some()),
            ("--cw-log-stream", self.cw_log_stream.is_some()),
            ("--cw-log-region", self.cw_log_region.is_some()),
            ("--cw-ignore-failures", self.cw_ignore_failures),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let input = |e: ConfigError| Failure::from_error(FailureKind::Input, &e);
    let provider = values(arguments.values.as_deref())?;
    let fetching = settings.fetching(Runner::Machine)?;
    let patience = Patience::unlimited(cancel);
    let owner = arguments.document_s3_bucket_owner.clone();
    let sources = Sources {
        fetching: Some(&fetching),
        owner: owner.as_deref(),
        provider: &provider,
        patience: &patience,
    };
    let request = request(arguments, settings, &sources).await.map_err(input)?;
    let request = Request { fetching: Some(fetching.clone()), ..request };
    let start = Patience::new(Duration::from_secs(60), cancel);
    let guest =
        LocalGuest::start(&start).await.map_err(|e| Failure::from_error(FailureKind::Environment, &e))?;
    let outcome = match standalone::run(&request, &provider, &guest, &patience).await {
        Ok(outcome) => outcome,
        Err(error) => {
            if let StandaloneError::Invalid(findings) = &error {
                findings.iter().for_each(|d| tell!("{}", d.render()));
            }
            return Err(error.into());
        }
    };
    let text = serde_json::to_string_pretty(&outcome.summary)
        .map_err(|e| Failure::from_error(FailureKind::Internal, &e))?;
    println!("{text}");
    Ok(match &outcome.report.failure {
        Some(failure) if failure.kind == FailureKind::Cancelled => exit::code(failure.kind),
        _ => outcome.exit_code(),
    })
}

async fn request(
    arguments: Arguments,
    settings: &Settings,
    sources: &Sources<'_>,
) -> Result<Request, ConfigError> {
    if let Some(name) = arguments.elsewhere.given() {
        return Err(ConfigError::NoEffect(name.to_owned()));
    }
    let config = match &arguments.config {
        Some(path) => Config::load(path, sources).await?,
        None => Config::default(),
    };
    let given = |path: PathBuf| Given { path, parameters: Vec::new() };
    let or = |flag: Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag };
    let home = || settings.home.join("component-runs");
    Ok(Request {
        documents: config.documents.into_iter().chain(arguments.documents.into_iter().map(given)).collect(),
        document_owner: arguments.document_s3_bucket_owner.or(config.document_owner),
        parameters: match &arguments.parameters {
            Some(text) => parse_parameters(text)?,
            None => config.parameters,
        },
        phases: or(arguments.phases, config.phases),
        blocked: arguments.blocked_action_modules,
        execution_id: arguments.execution_id.or(config.execution_id),
        state_directory: arguments.state_directory.or(config.state_directory).unwrap_or_else(home),
        log_directory: arguments.log_directory.or(config.log_directory).unwrap_or_else(|| ".".into()),
        working_directory: arguments.working_directory,
        fetching: None,
        trace: arguments.trace || config.trace,
    })
}
