//! `kiln image packages`.

use crate::cli::Settings;
use crate::cli::render::{Format, printable};
use crate::model::{Failure, Package};
use crate::service::Service;
use crate::service::diff;
use crate::support::wait::Patience;
use serde_json::json;

pub async fn run(
    service: &Service,
    name: &str,
    settings: &Settings,
    patience: &Patience,
) -> Result<u8, Failure> {
    let (title, inventory) = diff::packages_of(service, name, &settings.looks()?, patience).await?;
    let packages = inventory.packages();
    match settings.format {
        Format::Json => {
            let packages = packages.map(|all| all.iter().map(record).collect::<Vec<_>>());
            println!(
                "{}",
                json!({"image": title, "manager": inventory.manager(), "packages": packages, "missing": inventory.missing()})
            );
        }
        Format::Human => {
            let packages = packages.unwrap_or_default();
            let width =
                |of: fn(&Package) -> &str| packages.iter().map(|p| of(p).chars().count()).max().unwrap_or(0);
            let (names, versions) = (width(|p| &p.name), width(|p| &p.version));
            for p in packages {
                let line = format!("{:<names$}  {:<versions$}  {}", p.name, p.version, p.architecture);
                println!("{}", printable(line.trim_end()));
            }
            inventory.missing().iter().for_each(|why| println!("{title}: {why}"));
        }
    }
    Ok(0)
}

/// A package as `--format json` shows it everywhere.
pub fn record(package: &Package) -> serde_json::Value {
    json!({"name": package.name, "version": package.version, "architecture": package.architecture})
}
