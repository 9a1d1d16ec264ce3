//! `kiln shell IMAGE`.

use super::planning;
use super::run::{NetworkKind, Teller};
use crate::cli::{Settings, terminal};
use crate::machine::Network;
use crate::model::Failure;
use crate::service::shell::{self, Moment, Options};
use crate::support::size;
use crate::support::wait::Patience;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Look around in an image, a base image or the disk of a failed build: a root shell in a throw-away copy
///
/// The guest is booted the fastest way and entered through kiln's agent: no password, no key and no
/// network are needed. A build's disk is there after `kiln build --on-error keep`.
///
/// The first time the guest is kept with its memory as it is after its boot, and later shells wake a copy of
/// it, within a second or two (`store: {warm: ...}` in the settings says how much may be kept).
#[derive(clap::Args)]
#[command(after_help = "The exit code is that of the shell or command.")]
pub struct Arguments {
    /// name, name/1.0.0, name/1.0.0/3, or a base image; where none is AVAILABLE, the newest that is there
    image: String,
    /// As the image was before one of its components ran
    #[arg(long, value_name = "COMPONENT", conflicts_with = "after")]
    before: Option<String>,
    /// As the image was after one of its components had run
    #[arg(long, value_name = "COMPONENT")]
    after: Option<String>,
    /// Run this instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// What the guest reaches of the network
    #[arg(long, value_enum, default_value = "user")]
    network: NetworkKind,
    /// MiB, or with a unit: 512M, 1G, 1GiB [default: as it was built with]
    #[arg(long, value_name = "SIZE", value_parser = size::memory)]
    memory: Option<u64>,
    /// Keep what is written there, in a disk of its own; the image stays as it is
    #[arg(long)]
    keep: bool,
    /// Boot it and kiln's own appliance, whatever is kept warm, and keep nothing warm; with --keep the guest
    /// boots, too
    #[arg(long)]
    no_warm: bool,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    let patience = Patience::unlimited(cancel);
    let network = match arguments.network {
        NetworkKind::None => Network::None,
        NetworkKind::User => Network::User { restricted: false, forwards: Vec::new() },
        NetworkKind::UserRestricted => Network::User { restricted: true, forwards: Vec::new() },
    };
    let moment = arguments.before.map(Moment::Before).or(arguments.after.map(Moment::After));
    let warm = if arguments.no_warm { None } else { Some(settings.warm()?) };
    let (choice, memory, keep) = (settings.accel.into(), arguments.memory, arguments.keep);
    let options = Options { choice, memory, network, keep, moment, warm };
    let watch = Arc::new(Teller::new(settings));
    let shell = shell::open(&service, &arguments.image, options, watch, &patience).await?;
    if arguments.command.is_empty() && terminal::is_interactive() {
        let fate = if arguments.keep {
            "what you change is kept in a copy"
        } else {
            "what you change is thrown away"
        };
        tell!("a shell in {}, as root; {fate}; leave it with exit", shell.title);
    }
    let exited = terminal::attach(&shell.guest, terminal::command(&arguments.command), &patience).await;
    let closed = shell.close().await;
    if let Ok(Some(kept)) = &closed {
        tell!("what was written is kept in {}", kept.display());
    }
    let exited = exited.map_err(|e| e.failure())?;
    closed?;
    Ok(terminal::exit_code(&exited))
}
