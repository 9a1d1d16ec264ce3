//! UpdateOS: brings packages up to date with the guest's own package manager.

use super::{Action, Context, Done, Field, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};

pub static ACTION: Action = Action {
    verb: Verb::UpdateOS,
    name: "UpdateOS",
    summary: "Installs available updates",
    platforms: Platforms::SERVERS,
    shape: Shape::Map,
    fields: &[
        Field::optional(
            "include",
            Kind::Texts,
            "Only these packages; on Windows KB numbers or names with `*`",
        ),
        Field::optional("exclude", Kind::Texts, "Not these packages"),
    ],
    outputs: &[],
    check: None,
};

pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Done, StepError> {
    let (include, exclude) = (item.texts("include"), item.texts("exclude"));
    if let Some(odd) = include.iter().chain(exclude).find(|n| !is_package_name(n)) {
        return Err(StepError::failed(format!("`{odd}` is no package name")));
    }
    for manager in [Manager::Dnf, Manager::Yum, Manager::Apt] {
        if step.binary_exists(manager.program()).await? {
            return match manager {
                Manager::Apt => apt(step, include, exclude).await,
                Manager::Dnf | Manager::Yum => rpm(step, manager, include, exclude).await,
            };
        }
    }
    Err(StepError::failed("the guest has neither dnf, yum nor apt-get"))
}

#[derive(Clone, Copy, PartialEq)]
enum Manager {
    Dnf,
    Yum,
    Apt,
}

impl Manager {
    fn program(self) -> &'static str {
        match self {
            Manager::Dnf => "dnf",
            Manager::Yum => "yum",
            Manager::Apt => "apt-get",
        }
    }
}

/// Names begin with a letter or digit, so that none is taken for an option.
fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:_*~".contains(c))
}

async fn succeed(step: &mut Context<'_>, argv: &[&str]) -> Result<Outputs, StepError> {
    let (exited, outputs) = step.exec(argv.iter().map(|a| (*a).to_owned()).collect()).await?;
    super::execute_binary::ended(exited, outputs.clone()).map(|_| outputs)
}

/// A package as it may be spelled for dnf, `name-version-release`: the whole, and what may be its name.
fn without_version(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned()];
    let mut rest = name;
    while let Some((shorter, version)) = rest.rsplit_once('-') {
        rest = shorter;
        if version.starts_with(|c: char| c.is_ascii_digit()) {
            all.push(shorter.to_owned());
        }
    }
    all
}

/// Of the packages to update those that are installed. The lists of a step only filter, so one that is
/// not there is no failure, as it is one to apt-get and, alone, to dnf.
async fn wanted(
    step: &mut Context<'_>,
    manager: Manager,
    include: &[String],
    exclude: &[String],
) -> Result<Vec<String>, StepError> {
    let names: Vec<&String> = include.iter().filter(|i| !exclude.contains(i)).collect();
    if names.is_empty() {
        step.say("every package to update is excluded");
        return Ok(Vec::new());
    }
    let queried = names.iter().flat_map(|name| match manager {
        Manager::Apt => vec![(*name).clone()],
        Manager::Dnf | Manager::Yum => without_version(name),
    });
    let query: &[&str] = match manager {
        Manager::Apt => &["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${binary:Package} ${Package}\n"],
        Manager::Dnf | Manager::Yum => &["rpm", "-qa", "--qf", "ii %{NAME} %{NAME}.%{ARCH}\n"],
    };
    let argv = query.iter().map(|q| (*q).to_owned()).chain(queried).collect();
    let (exited, outputs) = step.exec(argv).await?;
    // dpkg-query ends with 1 when it does not know all of them.
    if manager != Manager::Apt || exited.code != Some(1) {
        super::execute_binary::ended(exited, outputs.clone())?;
    }
    let text = outputs.iter().map(|(_, o)| o.text.as_str()).collect::<String>();
    let installed: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(status, _)| status.ends_with('i'))
        .filter_map(|(_, names)| names.trim().split_once(' '))
        .collect();
    let is_there = |name: &String| {
        let spellings = without_version(name);
        installed.iter().any(|(a, b)| spellings.iter().any(|s| s == a || s == b))
    };
    let (exact, globs): (Vec<&String>, Vec<&String>) = names.into_iter().partition(|n| !n.contains('*'));
    let (there, missing): (Vec<&String>, Vec<&String>) = exact.into_iter().partition(|n| is_there(n));
    // As the step spells them: a version or an architecture is part of what it wants.
    let mut found: Vec<String> = there.into_iter().cloned().collect();
    if !globs.is_empty() {
        let others = installed.iter().map(|(name, _)| (*name).to_owned());
        found.extend(others.filter(|name| !exclude.contains(name)));
    }
    found.sort();
    found.dedup();
    let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
    if !missing.is_empty() {
        step.say(&format!("not installed, so there is nothing to update: {}", missing.join(", ")));
    }
    Ok(found)
}

async fn rpm(
    step: &mut Context<'_>,
    manager: Manager,
    include: &[String],
    exclude: &[String],
) -> Result<Done, StepError> {
    let excludes: Vec<String> = exclude.iter().map(|e| format!("--exclude={e}")).collect();
    let mut argv = vec![manager.program(), "-y", "update"];
    argv.extend(excludes.iter().map(String::as_str));
    let wanted = match include {
        [] => Vec::new(),
        _ => wanted(step, manager, include, exclude).await?,
    };
    if wanted.is_empty() && !include.is_empty() {
        return Ok(Done::default());
    }
    argv.extend(wanted.iter().map(String::as_str));
    succeed(step, &argv).await?;
    Ok(Done::default())
}

/// Options that keep dpkg and apt from asking.
const APT: [&str; 6] =
    ["apt-get", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"];

/// Excluded packages are held back for the time of the upgrade, unless they were held before.
async fn apt(step: &mut Context<'_>, include: &[String], exclude: &[String]) -> Result<Done, StepError> {
    step.set_environment("DEBIAN_FRONTEND", "noninteractive");
    succeed(step, &["apt-get", "update"]).await?;
    let mut argv = APT.to_vec();
    if !include.is_empty() {
        let wanted = wanted(step, Manager::Apt, include, exclude).await?;
        if wanted.is_empty() {
            return Ok(Done::default());
        }
        argv.extend(["install", "--only-upgrade"]);
        argv.extend(wanted.iter().map(String::as_str));
        succeed(step, &argv).await?;
        return Ok(Done::default());
    }
    argv.push("upgrade");
    if exclude.is_empty() {
        succeed(step, &argv).await?;
        return Ok(Done::default());
    }
    let held = words(&succeed(step, &["apt-mark", "showhold"]).await?);
    let hold: Vec<&str> =
        exclude.iter().map(String::as_str).filter(|e| !held.iter().any(|h| h == e)).collect();
    let marked = |verb| [vec!["apt-mark", verb], hold.clone()].concat();
    if hold.is_empty() {
        succeed(step, &argv).await?;
        return Ok(Done::default());
    }
    succeed(step, &marked("hold")).await?;
    let result = succeed(step, &argv).await;
    succeed(step, &marked("unhold")).await?;
    result.map(|_| Done::default())
}

fn words(outputs: &Outputs) -> Vec<String> {
    outputs.iter().flat_map(|(_, o)| o.text.split_whitespace()).map(str::to_owned).collect()
}
