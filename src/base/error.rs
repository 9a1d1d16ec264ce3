//! What can go wrong with base images.

use super::mirror::MirrorError;
use super::ova::OvaError;
use super::pull::{DISK, PullError};
use crate::appliance::{ApplianceError, KitError};
use crate::component::fetch::FetchError;
use crate::disk::{DiskError, ForeignError};
use crate::model::{Architecture, Failure, FailureKind};
use crate::support::command::CommandError;
use crate::support::wait::Impatience;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("building a base image needs tools that are missing here: {}", .0.iter().map(|m| m.what).collect::<Vec<_>>().join(", "))]
    MissingTools(Vec<MissingTool>),
    #[error("`{name}` is for {wanted}; this machine is {} and builds only its own", Architecture::HOST)]
    Architecture { name: String, wanted: Architecture },
    #[error("this machine lets kiln make no namespace to build in")]
    Namespace(#[source] CommandError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("base image `{base}`: {doing} failed")]
    Tool { base: String, doing: &'static str, source: CommandError },
    #[error("base image `{base}`: a package mirror does not answer")]
    Unreachable { base: String, source: CommandError },
    #[error("base image `{base}`: {doing} {} failed", path.display())]
    File { base: String, doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("base image `{base}`: {what}")]
    Content { base: String, what: String },
    #[error("{} cannot be imported: {what}", path.display())]
    Import { path: PathBuf, what: String },
    #[error("{} cannot be imported", path.display())]
    Ova { path: PathBuf, source: OvaError },
    #[error("{} has the SHA-256 {found}, not {wanted}", path.display())]
    Digest { path: PathBuf, wanted: String, found: String },
    #[error("`{name}` cannot be pulled")]
    Pull { name: String, source: Box<PullError> },
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error(transparent)]
    Appliance(#[from] ApplianceError),
    #[error("the store of base images: {doing} {} failed", path.display())]
    Store { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is no record of a base image: {what}", path.display())]
    Record { path: PathBuf, what: String },
    #[error("base image `{name}` is there already from the same disk, but as something else: {what}")]
    Differs { name: String, digits: String, what: String },
    #[error("there is no base image `{name}`")]
    NotFound { name: String },
}

/// A tool of the host and the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingTool {
    pub what: &'static str,
    pub package: &'static str,
}

impl From<BaseError> for Failure {
    fn from(error: BaseError) -> Failure {
        if let BaseError::Appliance(error) = &error {
            return error.failure();
        }
        let failure = Failure::from_error(kind(&error), &error);
        match &error {
            BaseError::MissingTools(missing) => {
                let mut packages: Vec<&str> = missing.iter().map(|m| m.package).collect();
                packages.sort_unstable();
                packages.dedup();
                let packages = packages.join(" ");
                failure.hint(format!("On Debian: apt-get install --no-install-recommends {packages}"))
            }
            BaseError::Namespace(CommandError::Failed { last_lines, .. })
                if last_lines.iter().any(|l| l.contains("cannot change root filesystem propagation")) =>
            {
                failure.hint("The root folder here is no mount point, as in a plain chroot. Before entering it: mount --bind FOLDER FOLDER")
            }
            BaseError::Namespace(_) => failure
                .hint("As an ordinary user this needs the package uidmap, a line for you in /etc/subuid and /etc/subgid, and user namespaces allowed by the kernel (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns).")
                .hint("Or run the same command as root."),
            BaseError::Mirror(_) => failure.hint(
                "Building from packages takes Debian's mirror from the host's apt, so it needs a Debian host; elsewhere import a disk: kiln base import FILE.",
            ),
            BaseError::Unreachable { .. } => failure
                .hint("The mirrors are those of this host's apt: does `apt-get update` work? Behind a proxy, say so to apt (Acquire::http::Proxy).")
                .hint("Without a network: build the base on a host that has one, and bring its disk here: kiln base import FILE"),
            BaseError::Record { path, .. } => {
                let title = path.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy();
                failure.hint(format!("Remove what is left of it: kiln base remove {title}"))
            }
            BaseError::NotFound { .. } => failure.hint("See what there is: kiln base list"),
            BaseError::Differs { digits, .. } => failure
                .hint(format!("Remove it first: kiln base remove {digits}"))
                .hint("Or import the disk under another name: --name NAME"),
            BaseError::Pull { name, source } => hint_of_pull(name, source, failure),
            BaseError::Foreign(ForeignError::Missing { .. }) => {
                failure.hint("Give the path of the disk's file, from the current folder or from the root.")
            }
            BaseError::Foreign(ForeignError::Disk(DiskError::Locked { .. })) => {
                failure.hint("End the machine that uses the disk, or import a copy of it.")
            }
            BaseError::Disk(DiskError::NoSpace { .. })
            | BaseError::Foreign(ForeignError::Disk(DiskError::NoSpace { .. }))
            | BaseError::Ova { source: OvaError::Write(_) | OvaError::NoSpace { .. }, .. } => {
                failure.hint("Make room, or choose a folder on another disk with --home DIR or KILN_HOME.")
            }
            BaseError::Foreign(ForeignError::Refers { .. }) => failure.hint(
                "If the other files are yours and lie beside the disk: --flatten follows backing files there.",
            ),
            _ => failure,
        }
    }
}

fn of_wait(impatience: &Impatience) -> FailureKind {
    match impatience {
        Impatience::TimedOut { .. } => FailureKind::TimedOut,
        Impatience::Cancelled { .. } => FailureKind::Cancelled,
    }
}

fn kind(error: &BaseError) -> FailureKind {
    match error {
        BaseError::MissingTools(_)
        | BaseError::Architecture { .. }
        | BaseError::Namespace(_)
        | BaseError::Mirror(_)
        | BaseError::File { .. }
        | BaseError::Store { .. }
        | BaseError::Record { .. } => FailureKind::Environment,
        BaseError::Unreachable { .. } => FailureKind::Transport,
        BaseError::Tool { source: CommandError::Stopped { source, .. }, .. } => of_wait(source),
        BaseError::Pull { source, .. } => kind_of_pull(source),
        BaseError::Foreign(error) => of_foreign(error),
        BaseError::Disk(error) => error.kind(),
        BaseError::Ova { source: OvaError::Impatience(source), .. } => of_wait(source),
        BaseError::Ova { source: OvaError::Write(_) | OvaError::NoSpace { .. }, .. } => {
            FailureKind::Environment
        }
        BaseError::Import { .. } | BaseError::Ova { .. } | BaseError::Digest { .. } => FailureKind::Input,
        BaseError::Kit(error) => error.kind(),
        BaseError::Appliance(error) => error.kind(),
        BaseError::Tool { .. } | BaseError::Content { .. } => FailureKind::Build,
        BaseError::Differs { .. } => FailureKind::Conflict,
        BaseError::NotFound { .. } => FailureKind::NotFound,
    }
}

/// What is wrong with the file is the user's to mend, what is wrong with this host is not.
fn of_foreign(error: &ForeignError) -> FailureKind {
    match error {
        ForeignError::Missing { .. } => FailureKind::NotFound,
        ForeignError::Disk(DiskError::Tool {
            source: CommandError::Missing { .. } | CommandError::Start { .. },
            ..
        }) => FailureKind::Environment,
        // A tool that ran and did not like it.
        ForeignError::Disk(DiskError::Tool { .. } | DiskError::Corrupt { .. } | DiskError::Answer { .. }) => {
            FailureKind::Input
        }
        ForeignError::Disk(error) => error.kind(),
        _ => FailureKind::Input,
    }
}

fn kind_of_pull(error: &PullError) -> FailureKind {
    match error {
        PullError::Impatience(source)
        | PullError::Fetch { source: FetchError::Impatience(source), .. }
        | PullError::Tool(CommandError::Stopped { source, .. }) => of_wait(source),
        PullError::Fetch { source: FetchError::Disk(_), .. }
        | PullError::Tool(_)
        | PullError::File { .. }
        | PullError::NoCheck(_) => FailureKind::Environment,
        PullError::Fetch { source: FetchError::Busy, .. } => FailureKind::Conflict,
        PullError::Fetch { .. }
        | PullError::Wrong { .. }
        | PullError::NoVersion { .. }
        | PullError::List { .. } => FailureKind::Transport,
        PullError::Unknown { .. } => FailureKind::NotFound,
        PullError::Asked { .. } => FailureKind::Input,
        PullError::Signature { .. } | PullError::Digest { .. } => FailureKind::Policy,
    }
}

fn hint_of_pull(name: &str, error: &PullError, failure: Failure) -> Failure {
    let by_hand = format!(
        "Without a network: get the disk where there is one, and bring it here: kiln base import FILE --name {name} --digest SHA256"
    );
    match error {
        PullError::Fetch { source: FetchError::Impatience(_), .. } | PullError::Impatience(_) => {
            failure.hint("What has come is kept: the same command goes on from there.")
        }
        PullError::Fetch { source: FetchError::Busy, .. } => failure.hint("Wait for the other one."),
        PullError::Fetch { source: FetchError::Disk(_), .. } => {
            failure.hint("Make room; what has come is kept, and the same command goes on from there.")
        }
        PullError::Wrong { .. } => failure
            .hint("Nothing of it was kept. Something on the way may change what comes: a proxy, a captive portal."),
        PullError::Fetch { what: DISK, .. } => failure
            .hint("What has come is kept: the same command goes on from there. kiln uses no proxy.")
            .hint(by_hand),
        PullError::Fetch { .. } => failure
            .hint("Does this machine reach that address? kiln uses no proxy.")
            .hint(by_hand),
        PullError::NoVersion { .. } | PullError::List { .. } => failure
            .hint("The vendor may have changed its pages, or something on the way answers for it.")
            .hint("A definition of your own can name others: see docs/base-images.md.")
            .hint(by_hand),
        PullError::Unknown { .. } => failure.hint("Without --version the newest is pulled."),
        PullError::Signature { .. } => failure
            .hint("Nothing was downloaded. If the vendor has a new key, get it from a source that you trust: --key FILE"),
        PullError::Digest { .. } => failure.hint("Without --version the newest is pulled; its digest is another one each time."),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_here_is_not_the_file_s_fault() {
        let path = || PathBuf::from("a");
        let foreign = |e: DiskError| Failure::from(BaseError::Foreign(e.into())).kind;
        assert_eq!(
            foreign(DiskError::NoSpace { path: path(), needed: 2, free: 1 }),
            FailureKind::Environment
        );
        assert_eq!(foreign(DiskError::Locked { path: path() }), FailureKind::Conflict);
        let damaged = CommandError::TooMuch { argv: "qemu-img".into() };
        assert_eq!(foreign(DiskError::Corrupt { path: path(), source: damaged }), FailureKind::Input);
        let ova = |source| Failure::from(BaseError::Ova { path: path(), source });
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let write = ova(OvaError::Write(full()));
        assert_eq!(write.kind, FailureKind::Environment);
        assert!(!format!("{write:?}").contains("cannot be read"), "{write:?}");
        assert_eq!(ova(OvaError::NoSpace { needed: 2, free: 1 }).kind, FailureKind::Environment);
        assert_eq!(ova(OvaError::Read(full())).kind, FailureKind::Input);
    }
}
