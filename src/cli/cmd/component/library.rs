//! `kiln component list|show|remove`.

use crate::cli::Settings;
use crate::cli::cmd::planning;
use crate::cli::render::{Format, printable};
use crate::model::Failure;
use crate::service::component::{self, Shown};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// List the components that recipes can use by name: registered ones, and those that come with kiln
#[derive(clap::Args)]
pub struct ListArguments {}

/// Print a component's document
#[derive(clap::Args)]
pub struct ShowArguments {
    /// name, name/1.0.x, name/1.0.0 or name/1.0.0/2
    name: String,
}

/// Remove registered components that no image was made with
#[derive(clap::Args)]
pub struct RemoveArguments {
    /// name, name/1.0.x, name/1.0.0 or name/1.0.0/2: one build each
    #[arg(required = true, value_name = "COMPONENT")]
    components: Vec<String>,
}

pub fn list(_: ListArguments, settings: &Settings, cancel: &CancellationToken) -> Result<u8, Failure> {
    let all = component::all(&planning::open(settings, cancel)?)?;
    match settings.format {
        Format::Human => {
            let titles: Vec<String> = all.iter().map(Shown::title).collect();
            let width = titles.iter().map(String::len).max().unwrap_or(0);
            for (shown, title) in all.iter().zip(&titles) {
                let origin = if shown.build.is_none() { "(comes with kiln) " } else { "" };
                let description = shown.document().and_then(|d| d.description).unwrap_or_default();
                println!("{}", printable(format!("{title:<width$}  {origin}{description}").trim_end()));
            }
        }
        Format::Json => println!("{}", Value::from_iter(all.iter().map(record))),
    }
    Ok(0)
}

pub fn show(
    arguments: ShowArguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let shown = component::show(&planning::open(settings, cancel)?, &arguments.name)?;
    match settings.format {
        Format::Human => print!("{}", shown.text),
        Format::Json => {
            let mut record = record(&shown);
            record["data"] = shown.text.into();
            println!("{record}");
        }
    }
    Ok(0)
}

pub fn remove(
    arguments: RemoveArguments,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<u8, Failure> {
    let service = planning::open(settings, cancel)?;
    // A name that means nothing is told before anything is gone.
    let found = arguments.components.iter().map(|name| component::find(&service, name));
    let mut found = found.collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(|c| c.id);
    found.dedup_by_key(|c| c.id);
    for component in found {
        component::remove(&service, &component)?;
        match settings.format {
            Format::Human => println!("removed {component}"),
            Format::Json => println!("{}", json!({"removed": component.to_string()})),
        }
    }
    Ok(0)
}

fn record(shown: &Shown) -> Value {
    let document = shown.document();
    let document = document.as_ref();
    json!({
        "name": shown.name,
        "version": shown.version.to_string(),
        "build": shown.build,
        "builtIn": shown.build.is_none(),
        "digest": format!("sha256:{}", shown.digest),
        "description": document.and_then(|d| d.description.as_deref()),
        "parameters": document.map(|d| d.parameters.iter().map(|p| &p.name).collect::<Vec<_>>()),
        "phases": document.map(|d| d.phases.iter().map(|p| &p.name).collect::<Vec<_>>()),
    })
}
