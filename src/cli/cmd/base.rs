//! `kiln base`: where recipes start.

use crate::appliance::DiskFacts;
use crate::appliance::facts::{PartitionTable, Volume};
use crate::base::{self, BaseImage, Content, Definition, Doing, Origin, Store};
use crate::cli::Settings;
use crate::cli::render::{Format, Work};
use crate::machine::accelerator;
use crate::model::{Architecture, Failure, FailureKind, Firmware, Inventory};
use crate::service;
use crate::support::clock;
use crate::support::source::Source;
use crate::support::wait::Patience;
use serde_json::json;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Base images: where recipes start
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Build a base image from Debian's packages; an unchanged one is returned as it is
    Build {
        /// Name of a definition (see `kiln base list`), or a definition file
        definition: String,
        /// Build also when a base from the same inputs is there
        #[arg(long)]
        rebuild: bool,
    },
    /// Pull a disk that its vendor publishes, and import it
    ///
    /// The newest version is looked up, its digest taken from the vendor's list, and the list's signature
    /// checked with gpgv where there are keys. What nobody could check is marked as unverified. A download
    /// that breaks is gone on with, also by the same command later.
    #[command(disable_version_flag = true)]
    Pull(Pull),
    /// Import a disk that somebody else made: qcow2, raw, VMDK, VHD, VHDX, or the disk of an OVA
    ///
    /// The file is written anew and never opened by a guest. What it is must be said by its name
    /// or by --disk-format, because a raw disk may hold anything. Disks that name other files
    /// are refused.
    Import(Import),
    /// List base images, and the definitions that have none yet
    List,
    /// Show one base image
    Show {
        /// Name, or the start of its digest
        base: String,
    },
    /// Look into the disk of a base image: system, partitions, kernels, ways to start
    Inspect {
        /// Name, or the start of its digest
        base: String,
    },
    /// Remove one base image that no image was made from
    Remove {
        /// Name (the newest of it), or the start of a digest; of a damaged one what `kiln base list` calls it
        base: String,
    },
}

#[derive(clap::Args)]
struct Pull {
    /// Name of a definition (see `kiln base list`), or a definition file
    definition: String,
    /// The vendor's version, or how it begins: a date, mostly [default: the newest]
    #[arg(long, value_name = "DATE")]
    version: Option<String>,
    /// File with the vendor's keys; without a good signature by one of them nothing is pulled
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// SHA-256 or SHA-512 that the vendor's file must have
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Name of the base image [default: the definition's]
    #[arg(long)]
    name: Option<String>,
}

#[derive(clap::Args)]
struct Import {
    file: PathBuf,
    /// What the file is: qcow2, raw, vmdk, vhd, vhdx or ova [default: what its name says]
    #[arg(long, value_name = "FORMAT")]
    disk_format: Option<base::Form>,
    /// Name of the base image [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// SHA-256 that the file must have
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Architecture of the system on the disk [default: this machine's]
    #[arg(long)]
    architecture: Option<Architecture>,
    /// What boots the disk: bios, uefi or both [default: what its partitions say]
    #[arg(long, value_delimiter = ',')]
    firmware: Vec<Firmware>,
    /// Follow backing files that lie in the disk's folder
    #[arg(long)]
    flatten: bool,
}

pub async fn run(
    arguments: Arguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let store = Store::new(&settings.home);
    let patience = Patience::unlimited(cancel);
    match arguments.verb {
        Verb::Build { definition, rebuild } => {
            let definition = definition_named(&definition)?;
            let packages = match &definition.content {
                Content::Packages(packages) => packages,
                Content::Download(_) => return Err(not_built(&definition.name)),
            };
            let mut work = Work::new(settings.progress);
            let mut progress = |doing: Doing<'_>| work.tell(doing);
            let image = base::build(&store, &definition, packages, rebuild, &mut progress, &patience).await;
            work.end();
            print(settings.format, &image?);
        }
        Verb::Pull(pull) => {
            let definition = definition_named(&pull.definition)?;
            let Content::Download(download) = &definition.content else {
                return Err(not_published(&definition.name));
            };
            let Pull { version, key, digest, name, .. } = pull;
            let request = base::Pull { definition: &definition, download, name, version, key, digest };
            let mut work = Work::new(settings.progress);
            let mut progress = |doing: Doing<'_>| work.tell(doing);
            let image = base::pull(&store, &request, &mut progress, &patience).await;
            work.end();
            print(settings.format, &image?);
        }
        Verb::Import(import) => {
            let request = base::Import {
                file: import.file,
                form: import.disk_format,
                name: import.name,
                description: import.description,
                architecture: import.architecture,
                firmware: import.firmware,
                digest: import.digest,
                flatten: import.flatten,
            };
            let mut work = Work::new(settings.progress);
            let mut progress = |doing: Doing<'_>| work.tell(doing);
            let image = base::import(&store, &request, &mut progress, &patience).await;
            work.end();
            print(settings.format, &image?);
        }
        Verb::List => list(&store, settings.format)?,
        Verb::Show { base } => print(settings.format, &store.get(&base)?),
        Verb::Inspect { base } => {
            let image = store.get(&base)?;
            let accelerator =
                accelerator::resolve(settings.accel.into(), image.architecture, &settings.home, &patience)
                    .await?;
            let found = base::inspect(&store, &image, accelerator, &settings.warm()?, &patience).await?;
            inspected(settings.format, &image, &found.0, &found.1);
        }
        Verb::Remove { base } => {
            if let Some(damaged) = store.damaged(&base)? {
                service::base::remove_damaged(&super::planning::open(settings, cancel)?, &damaged)?;
                match settings.format {
                    Format::Human => println!("removed {}, which was damaged", damaged.title()),
                    Format::Json => println!("{}", json!({"removedDamaged": damaged.title()})),
                }
                return Ok(0);
            }
            let image = store.get(&base)?;
            service::base::remove(&super::planning::open(settings, cancel)?, &image)?;
            match settings.format {
                Format::Human => println!("removed {} ({})", image.name, short(&image)),
                Format::Json => println!("{}", json!({"removed": record(&image)})),
            }
        }
    }
    Ok(0)
}

fn not_built(name: &str) -> Failure {
    let text = format!("`{name}` is published by its vendor: kiln does not build it");
    Failure::new(FailureKind::Input, text).hint(format!("Pull it: kiln base pull {name}"))
}

fn not_published(name: &str) -> Failure {
    let text = format!("`{name}` is built from packages: nobody publishes its disk");
    Failure::new(FailureKind::Input, text).hint(format!("Build it: kiln base build {name}"))
}

fn definition_named(wanted: &str) -> Result<Definition, Failure> {
    if let Some(definition) = base::find(wanted) {
        return Ok(definition);
    }
    let path = PathBuf::from(wanted);
    if !wanted.contains('/') && !wanted.ends_with(".yaml") && !wanted.ends_with(".yml") {
        let known: Vec<&str> = base::built_in().chain(base::published()).collect();
        let failure = Failure::new(FailureKind::NotFound, format!("kiln brings no base image `{wanted}`"));
        return Err(failure.hint(format!("It brings {}; or give a definition file.", known.join(", "))));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Failure::new(FailureKind::NotFound, format!("cannot read {}: {e}", path.display())))?;
    base::parse(&Source::new(wanted, text)).map_err(|findings| {
        let mut failure =
            Failure::new(FailureKind::Input, format!("{wanted} is no definition of a base image"));
        failure.causes = findings.into_sorted().iter().map(|d| d.render()).collect();
        failure
    })
}

fn list(store: &Store, format: Format) -> Result<(), Failure> {
    let (images, damaged) = store.survey()?;
    let missing = |name: &&str| !images.iter().any(|i| i.name == *name);
    let absent: Vec<&str> = base::built_in().filter(missing).collect();
    let published: Vec<&str> = base::published().filter(missing).collect();
    match format {
        Format::Json => {
            let records: Vec<_> = images.iter().map(record).collect();
            let damaged: Vec<_> = damaged
                .iter()
                .map(|d| json!({"base": d.title(), "problem": d.problem.to_string()}))
                .collect();
            println!(
                "{}",
                json!({"bases": records, "damaged": damaged, "buildable": absent, "published": published})
            );
        }
        Format::Human => {
            for (at, image) in images.iter().enumerate() {
                // Newest first: the name alone means that one.
                let older = images[..at].iter().any(|i| i.name == image.name);
                println!(
                    "{:<22} {:<8} {:>5} MiB  {}  {}{}{}",
                    image.name,
                    image.architecture.as_str(),
                    image.file_size >> 20,
                    short(image),
                    if older { "(older) " } else { "" },
                    image.description,
                    pulled(image)
                );
            }
            for base in damaged {
                let title = base.title();
                println!("{title:<22} damaged, kiln base remove {title} removes it: {}", base.problem);
            }
            for name in absent {
                println!("{name:<22} not here yet: kiln base build {name}");
            }
            for name in published {
                println!("{name:<22} from its vendor: kiln base pull {name}");
            }
        }
    }
    Ok(())
}

/// Of a vendor's disk: its version, and whether nobody could tell that it is the vendor's.
fn pulled(image: &BaseImage) -> String {
    let Origin::Pull { version, unverified, .. } = &image.origin else { return String::new() };
    let version = version.iter().map(|v| format!(", {v}"));
    version.chain(unverified.iter().map(|_| ", unverified".to_owned())).collect()
}

fn print(format: Format, image: &BaseImage) {
    if format == Format::Json {
        println!("{}", record(image));
        return;
    }
    println!("name          {}", image.name);
    println!("description   {}", image.description);
    println!("architecture  {}", image.architecture);
    println!("firmware      {}", firmware(image).join(", "));
    println!("digest        {}", image.digest);
    println!("disk          {}", image.disk.display());
    println!("size          {} MiB, {} MiB on disk", image.virtual_size >> 20, image.file_size >> 20);
    println!("created       {}", clock::rfc3339(image.created));
    print_origin(image);
}

fn print_origin(image: &BaseImage) {
    println!("origin        {}", origin(image));
    if let Origin::Pull { version, listed, signed_by, unverified, .. } = &image.origin {
        if let Some(version) = version {
            println!("version       {version}");
        }
        println!("listed as     {listed}");
        match (signed_by, unverified) {
            (Some(by), _) => println!("signed by     {by}"),
            (None, why) => println!("unverified    true: {}", why.as_deref().unwrap_or("nobody looked")),
        }
    }
}

fn inspected(format: Format, image: &BaseImage, facts: &DiskFacts, packages: &Inventory) {
    let firmware: Vec<&str> = facts.firmware.iter().map(|f| f.as_str()).collect();
    let mib = |bytes: u64| bytes >> 20;
    let volume = |v: &Volume| v.filesystem.as_ref().map(|f| f.kind.as_str());
    let label = |v: &Volume| v.filesystem.as_ref().and_then(|f| f.label.clone());
    let uuid = |v: &Volume| v.filesystem.as_ref().and_then(|f| f.uuid.clone());
    match format {
        Format::Json => println!(
            "{}",
            json!({
                "name": image.name,
                "digest": image.digest,
                "os": {"id": facts.os.id, "version": facts.os.version, "name": facts.os.name},
                "architecture": facts.architecture.map(|a| a.as_str()),
                "firmware": firmware,
                "size": facts.size,
                "partitionTable": match facts.table {
                    PartitionTable::Gpt => Some("gpt"),
                    PartitionTable::Mbr => Some("mbr"),
                    PartitionTable::None => None,
                },
                "needsRecovery": facts.needs_recovery,
                "root": {"partition": facts.root.partition, "filesystem": facts.root.filesystem.as_str(), "total": facts.root.total, "free": facts.root.free},
                "volumes": facts.volumes.iter().map(|v| json!({"number": v.number, "offset": v.offset, "size": v.size, "kind": v.kind, "filesystem": volume(v), "label": label(v), "uuid": uuid(v)})).collect::<Vec<_>>(),
                "systemd": facts.systemd,
                "cloudInit": facts.cloud_init.is_some(),
                "guestAgent": facts.guest_agent,
                "kernels": facts.kernels.iter().map(|k| &k.version).collect::<Vec<_>>(),
                "commandLine": facts.command_line,
                "packages": packages.packages().map(<[_]>::len),
                "packagesMissing": packages.missing(),
                "packageList": packages.packages().map(|all| all.iter().map(super::packages::record).collect::<Vec<_>>()),
            })
        ),
        Format::Human => {
            let no = |there: bool| if there { "yes" } else { "no" };
            let number = |n: Option<u32>| n.map_or("none".to_owned(), |n| n.to_string());
            println!("system        {}", facts.os.name);
            println!("architecture  {}", facts.architecture.map_or("unknown", |a| a.as_str()));
            println!("starts by     {}", firmware.join(", "));
            println!("disk          {} MiB", mib(facts.size));
            for v in &facts.volumes {
                let filesystem = volume(v).unwrap_or("no file system that kiln knows");
                println!(
                    "partition     {} at {} MiB, {} MiB, {filesystem}",
                    number(v.number),
                    mib(v.offset),
                    mib(v.size)
                );
            }
            let (free, total) = (mib(facts.root.free), mib(facts.root.total));
            println!("root          partition {}, {free} of {total} MiB free", number(facts.root.partition));
            println!("systemd       {}", number(facts.systemd));
            println!("cloud-init    {}", no(facts.cloud_init.is_some()));
            println!("guest agent   {}", no(facts.guest_agent));
            for kernel in &facts.kernels {
                println!("kernel        {}", kernel.version);
            }
            println!("command line  {}", facts.command_line);
            let count = packages.packages().map(|all| all.len().to_string());
            println!("packages      {}", count.or(packages.missing()).unwrap_or_default());
        }
    }
}

fn origin(image: &BaseImage) -> String {
    match &image.origin {
        Origin::Packages { suite, package_count, .. } => {
            let list = image.packages().display().to_string();
            format!("built from {package_count} packages of {suite}, listed in {list}")
        }
        Origin::Import { file, format, digest } => format!("{format} file {file}, sha256:{digest}"),
        Origin::Pull { address, format, digest, .. } => {
            format!("{format} file {address}, sha256:{digest}")
        }
    }
}

fn firmware(image: &BaseImage) -> Vec<&'static str> {
    image.firmware.iter().map(|f| f.as_str()).collect()
}

fn short(image: &BaseImage) -> &str {
    &image.digest[.."sha256:".len() + 12]
}

fn record(image: &BaseImage) -> serde_json::Value {
    let (version, unverified) = match &image.origin {
        Origin::Pull { version, unverified, .. } => (version.as_deref(), Some(unverified.is_some())),
        _ => (None, None),
    };
    json!({
        "name": image.name,
        "description": image.description,
        "architecture": image.architecture.as_str(),
        "firmware": firmware(image),
        "digest": image.digest,
        "disk": image.disk,
        "virtualSize": image.virtual_size,
        "fileSize": image.file_size,
        "created": clock::rfc3339(image.created),
        "version": version,
        "unverified": unverified,
        "origin": image.origin,
    })
}
