//! `kiln run IMAGE`.

use super::planning;
use crate::boot::{Waiting, Watch};
use crate::cli::Settings;
use crate::cli::render::{Format, Progress, Seldom};
use crate::machine::{Exit, Forward, Identity, Network};
use crate::model::{Failure, FailureKind, Firmware};
use crate::service::run::{self, Options, Running};
use crate::support::size;
use crate::support::wait::Patience;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// Boot an image on a throw-away disk and keep it running until Ctrl-C
#[derive(clap::Args)]
pub struct Arguments {
    /// name, name/1.0.x or name/1.0.0: the newest AVAILABLE one; name/1.0.0/3: that one, also where its build
    /// failed after its disk was captured
    image: String,
    /// Lead a TCP port of this host to one of the guest; may be given more than once
    #[arg(long, value_name = "[ADDRESS:]HOST:GUEST", value_parser = forward)]
    publish: Vec<Forward>,
    /// File with user data for cloud-init
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// What the guest reaches of the network; published ports work with the last two
    #[arg(long, value_enum, default_value = "user")]
    network: NetworkKind,
    /// Firmware [default: bios where the image can]
    #[arg(long, value_name = "bios|uefi")]
    firmware: Option<Firmware>,
    /// MiB, or with a unit: 512M, 1G, 1GiB [default: as it was built with]
    #[arg(long, value_name = "SIZE", value_parser = size::memory)]
    memory: Option<u64>,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,
    /// Keep what the guest has written
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    None,
    User,
    UserRestricted,
}

/// More user data than this is a mistake.
const USER_DATA_LIMIT: u64 = 1 << 20;

fn forward(text: &str) -> Result<Forward, String> {
    let wrong = || format!("`{text}` is not [ADDRESS:]HOST:GUEST, such as 8080:80");
    let (rest, guest) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => {
            (address.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| wrong())?, host)
        }
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
    };
    let port = |p: &str| p.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong);
    Ok(Forward { host: address, host_port: port(host)?, guest_port: port(guest)? })
}

/// Tells on stderr how the boot goes.
pub struct Teller {
    silent: bool,
    waits: Mutex<Seldom>,
}

impl Teller {
    pub fn new(settings: &Settings) -> Teller {
        let silent = matches!(settings.progress, Progress::None | Progress::Json);
        Teller { silent, waits: Mutex::default() }
    }
}

impl Watch for Teller {
    fn machine(&self, _: Identity, _: &Path) {}

    fn note(&self, text: &str) {
        if !self.silent {
            tell!("{text}");
        }
    }

    fn waiting(&self, waiting: Waiting) {
        let since_ms = waiting.since.as_millis() as u64;
        let worth = self.waits.lock().is_ok_and(|mut w| w.worth_a_line(since_ms));
        if !self.silent && worth {
            tell!("waiting for {}, {} s", waiting.what, waiting.since.as_secs());
        }
    }
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let user_data = arguments.user_data.as_deref().map(read_user_data).transpose()?;
    let network = network(&arguments)?;
    let service = planning::open(settings, cancel)?;
    let patience = Patience::unlimited(cancel);
    let options = Options {
        choice: settings.accel.into(),
        firmware: arguments.firmware,
        memory: arguments.memory,
        vcpus: arguments.vcpus,
        network,
        user_data,
        keep: arguments.keep,
    };
    let watch = Arc::new(Teller::new(settings));
    let running = run::start(&service, &arguments.image, options, watch, &patience).await?;
    print_up(&running, &arguments.publish, settings);
    let exit = running.ended(&patience).await;
    let stopped = running.stop().await;
    if let Ok(Some(kept)) = &stopped {
        tell!("what the guest has written is kept in {}", kept.display());
    }
    let exit = exit?;
    stopped?;
    match exit {
        None | Some(Exit::GuestShutdown) => Ok(0),
        Some(other) => {
            Err(Failure::new(FailureKind::Build, format!("the guest did not end in order: {other}")))
        }
    }
}

fn network(arguments: &Arguments) -> Result<Network, Failure> {
    let forwards = arguments.publish.clone();
    match arguments.network {
        NetworkKind::None if !forwards.is_empty() => Err(Failure::new(
            FailureKind::Input,
            "--publish needs a network: user or user-restricted, not none",
        )),
        NetworkKind::None => Ok(Network::None),
        NetworkKind::User => Ok(Network::User { restricted: false, forwards }),
        NetworkKind::UserRestricted => Ok(Network::User { restricted: true, forwards }),
    }
}

fn read_user_data(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong =
        |why: String| Failure::new(FailureKind::Input, format!("--user-data {}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if length > USER_DATA_LIMIT {
        return Err(wrong(format!("{length} bytes; {USER_DATA_LIMIT} are the limit")));
    }
    std::fs::read(path).map_err(|e| wrong(e.to_string()))
}

fn print_up(running: &Running, publish: &[Forward], settings: &Settings) {
    match settings.format {
        Format::Json => {
            let ports: Vec<_> = publish
                .iter()
                .map(|f| json!({"host": f.host.to_string(), "hostPort": f.host_port, "guestPort": f.guest_port}))
                .collect();
            println!(
                "{}",
                json!({"image": running.image.to_string(), "status": running.image.status.as_str(), "state": "up", "folder": running.folder,
                       "published": ports, "failedUnits": running.failed_units()})
            );
        }
        Format::Human => {
            println!("{} is up", running.image);
            for f in publish {
                println!("  {}:{} leads to port {} of the guest", f.host, f.host_port, f.guest_port);
            }
            let failed = running.failed_units();
            if !failed.is_empty() {
                println!("  these units failed: {}", failed.join(", "));
            }
            println!("  console: {}", running.folder.join("machine/console.log").display());
            println!("  Ctrl-C powers it off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_on_this_host_only_unless_an_address_is_given() {
        let f = forward("8080:80").unwrap();
        assert_eq!((f.host.to_string().as_str(), f.host_port, f.guest_port), ("127.0.0.1", 8080, 80));
        assert_eq!(forward("0.0.0.0:1:2").unwrap().host.to_string(), "0.0.0.0");
        assert_eq!(forward("[::1]:1:2").unwrap().host.to_string(), "::1");
        for bad in ["80", "a:80", "0:80", "80:0", "70000:80", "x:1:2", ""] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }
}
