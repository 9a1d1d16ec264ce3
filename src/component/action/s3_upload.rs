//! S3Upload: read from the guest, sent by the host.

use super::s3_download::{address, bucket_owner, target};
use super::{Action, Context, Field, Input, Item, Kind, Outputs, Platforms, Shape, StepError, Verb};
use crate::support::diagnostic::Findings;
use kiln_protocol::message::EntryKind;

pub static ACTION: Action = Action {
    verb: Verb::S3Upload,
    name: "S3Upload",
    summary: "Copies files of the guest to S3",
    platforms: Platforms::ALL,
    shape: Shape::List,
    fields: &[
        Field::required("source", Kind::Pattern, "File, folder, or files by a name with `*`"),
        Field::required(
            "destination",
            Kind::Text,
            "s3:// address: of the object for one file, a prefix for many",
        ),
        Field::optional("recurse", Kind::BooleanText, "true: also what lies in folders below").or("false"),
        Field::optional("expectedBucketOwner", Kind::Text, "Account (12 digits) that must own the bucket"),
    ],
    outputs: &[],
    check: Some(check),
};

/// A file to an object; a folder, or what a pattern matches, to objects below a prefix.
pub async fn run(step: &mut Context<'_>, item: &Item) -> Result<Outputs, StepError> {
    let recurse = item.flag("recurse", false);
    let source = step.absolute(item.required("source").trim_end_matches(['/', '\\']));
    let target = target(item, "destination")?;
    let mut files = Files::default();
    let mut single = false;
    if source.contains('*') {
        let matching = step.matching(&source, |_| true).await?;
        if matching.is_empty() {
            return Err(StepError::failed(format!("nothing matches {source}")));
        }
        for path in matching {
            match step.stat(&path, true).await? {
                // As with a shell's copy: folders are passed over unless they are asked for.
                Some(entry) if entry.kind == EntryKind::Folder && recurse => {
                    files.add_folder(step, &path, name_of(&path)).await?;
                }
                Some(entry) if entry.kind == EntryKind::File => {
                    files.0.push((path.clone(), name_of(&path).into(), entry.size));
                }
                _ => {}
            }
        }
    } else {
        match step.stat(&source, true).await? {
            None => return Err(StepError::failed(format!("there is no file {source}"))),
            Some(entry) if entry.kind == EntryKind::Folder => {
                if !recurse {
                    return Err(StepError::failed(format!("{source} is a folder: it needs recurse: true")));
                }
                files.add_folder(step, &source, "").await?;
            }
            Some(entry) if entry.kind != EntryKind::File => {
                return Err(StepError::failed(format!("{source} is no file")));
            }
            Some(entry) => {
                single = true;
                files.0.push((source.clone(), name_of(&source).into(), entry.size));
            }
        }
    }
    if files.0.is_empty() {
        step.say(&format!("there is no file to send in {source}"));
    }
    for (path, name, bytes) in files.0 {
        let mut own = target.clone();
        let key = &mut own.object.key;
        if !single && !key.is_empty() && !key.ends_with('/') {
            key.push('/');
        }
        if !single || key.is_empty() || key.ends_with('/') {
            key.push_str(&name);
        }
        let object = own.object.to_string();
        step.upload(&path, bytes, own).await?;
        step.say(&format!("{object}: {bytes} bytes from {path}"));
    }
    Ok(Outputs::new())
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or("")
}

/// Path, name below the prefix, and bytes of each file.
#[derive(Default)]
struct Files(Vec<(String, String, u64)>);

impl Files {
    /// All files below a folder. Links to files are followed, those to folders are not.
    async fn add_folder(&mut self, step: &Context<'_>, folder: &str, name: &str) -> Result<(), StepError> {
        let mut links = Vec::new();
        let mut found = Vec::new();
        step.each_entry(folder, true, |entry| {
            let below = entry.path.strip_prefix(folder).unwrap_or(&entry.path).trim_start_matches('/');
            let name = if name.is_empty() { below.to_owned() } else { format!("{name}/{below}") };
            match entry.kind {
                EntryKind::File => found.push((entry.path, name, entry.size)),
                EntryKind::Symlink => links.push((entry.path, name)),
                EntryKind::Folder | EntryKind::Other => {}
            }
        })
        .await?;
        for (path, name) in links {
            if let Some(entry) = step.stat(&path, true).await?
                && entry.kind == EntryKind::File
            {
                found.push((path, name, entry.size));
            }
        }
        self.0.extend(found);
        Ok(())
    }
}

fn check(input: &Input, findings: &mut Findings, owner: &str) {
    address(input, "destination", findings, owner);
    bucket_owner(input, findings, owner);
}
