//! What a base image is made of: the files of `base-images/`, as data.

use crate::model::{Architecture, DiskFormat, Firmware};
use crate::support::diagnostic::Findings;
use crate::support::source::Source;
use crate::support::yaml::{self, Fields, Node};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One base image as described in a definition file.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Lower-case letters, digits and dashes.
    pub name: String,
    pub description: String,
    pub architecture: Architecture,
    /// What can boot the disk.
    pub firmware: Vec<Firmware>,
    pub content: Content,
    /// The definition as written; part of what identifies a built base.
    pub text: String,
}

#[derive(Clone, Debug)]
pub enum Content {
    Packages(Packages),
    Download(Download),
}

/// A disk put together from Debian's packages.
#[derive(Clone, Debug)]
pub struct Packages {
    /// The release's code name: `bookworm`.
    pub suite: String,
    pub components: Vec<String>,
    /// Which packages come unasked, in mmdebstrap's words.
    pub variant: &'static str,
    /// Packages beside those.
    pub include: Vec<String>,
    pub files: Vec<File>,
    /// Run by `sh -e` inside the finished tree, with /dev and /proc.
    pub commands: Option<String>,
    pub kernel_arguments: Vec<String>,
    /// Size of the disk in bytes.
    pub disk_size: u64,
}

/// Essential packages and apt; those of priority "important", too; those of "standard", too.
const VARIANTS: &[&str] = &["minbase", "important", "standard"];

/// A file that the packages do not bring.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub mode: u32,
    pub content: String,
}

/// A disk that a vendor publishes, to be downloaded and imported.
#[derive(Clone, Debug)]
pub struct Download {
    /// The disk. `{version}` in an address stands for one of the vendor's versions.
    pub address: String,
    /// What the file is; None: what its name says.
    pub format: Option<DiskFormat>,
    /// Which versions there are; None where the address is the same for ever.
    pub versions: Option<Versions>,
    /// The vendor's list of digests.
    pub checksums: String,
    pub signature: Option<Signature>,
    /// Nobody has yet checked this definition against the vendor's server.
    pub unverified: bool,
}

/// Where a vendor's versions can be read.
#[derive(Clone, Debug)]
pub struct Versions {
    /// A page or list that names them.
    pub page: String,
    /// How it names one: text with `{version}` in it.
    pub link: String,
}

/// How the list of digests is signed.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The address of a signature beside the list; None: it is in the list.
    pub address: Option<String>,
    /// The file that holds the vendor's keys on hosts that have it.
    pub key: Option<PathBuf>,
    /// The package that brings that file.
    pub package: Option<String>,
}

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../base-images/", $name, ".yaml")))),*]
    };
}

/// Definitions by file name without `.yaml`: those that kiln builds,
const BUILT: &[(&str, &str)] = bundled!["debian-12", "debian-12-minimal", "debian-13", "debian-13-minimal"];
/// and those of disks that their vendors publish.
const PUBLISHED: &[(&str, &str)] =
    bundled!["amazon-linux-2023", "debian-12-generic", "debian-13-generic", "fedora-42", "ubuntu-24.04",];

/// Names of the base images that kiln can build.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT.iter().map(|(name, _)| *name)
}

/// Names of the vendors' disks that kiln has a definition of.
pub fn published() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().map(|(name, _)| *name)
}

/// A definition that kiln brings.
pub fn find(name: &str) -> Option<Definition> {
    let (name, text) = BUILT.iter().chain(PUBLISHED).find(|(n, _)| *n == name)?;
    let source = Source::new(format!("base-images/{name}.yaml"), *text);
    Some(parse(&source).unwrap_or_else(|f| panic!("a test reads every definition: {f:?}")))
}

/// Reads a definition; on failure everything that is wrong with it.
pub fn parse(source: &Arc<Source>) -> Result<Definition, Findings> {
    let mut findings = Findings::new(source);
    let definition = yaml::parse(source, yaml::Limits::default(), &mut findings)
        .and_then(|root| decode(&root, source, &mut findings));
    match definition {
        Some(definition) if !findings.has_errors() => Ok(definition),
        _ => Err(findings),
    }
}

fn decode(root: &Node, source: &Arc<Source>, findings: &mut Findings) -> Option<Definition> {
    let mut fields = Fields::of(root, "the base image", findings)?;
    let name = fields.required("name", findings);
    let description = fields.required("description", findings);
    let architecture = fields.required("architecture", findings);
    let firmware = fields.required("firmware", findings);
    let packages = fields.optional("packages");
    let download = fields.optional("download");
    let span = fields.span();
    fields.finish(findings);

    let content = match (packages, download) {
        (Some(node), None) => decode_packages(node, findings).map(Content::Packages),
        (None, Some(node)) => decode_download(node, source, findings).map(Content::Download),
        _ => {
            findings.error(span, "bad-source", "a base image has either `packages` or `download`");
            None
        }
    };
    // Everything is looked at before anything is missed, so that all findings come at once.
    let name = name.and_then(|n| decode_name(n, findings));
    let description = description.and_then(|n| findings.text(n, "the description"));
    let architecture = architecture.and_then(|n| parsed(n, "the architecture", findings));
    let firmware = firmware.and_then(|n| {
        let items = findings.items(n, "the firmware")?;
        Some(items.iter().filter_map(|n| parsed(n, "a firmware", findings)).collect())
    });
    Some(Definition {
        name: name?,
        description: description?.to_owned(),
        architecture: architecture?,
        firmware: firmware?,
        content: content?,
        text: source.text().to_owned(),
    })
}

fn decode_name(node: &Node, findings: &mut Findings) -> Option<String> {
    let name = findings.text(node, "the name")?;
    if is_name(name) {
        return Some(name.to_owned());
    }
    findings.error(node.span, "bad-name", format!("`{name}` is no name for a base image: {NAME_RULE}"));
    None
}

pub const NAME_RULE: &str =
    "1 to 64 lower-case letters, digits, dots and dashes, the first a letter or digit";

/// Names become parts of file names.
pub fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=64).contains(&name.len())
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c == '-' || c == '.')
}

fn decode_packages(node: &Node, findings: &mut Findings) -> Option<Packages> {
    let mut fields = Fields::of(node, "`packages`", findings)?;
    let suite = fields.required("suite", findings);
    let components = fields.required("components", findings);
    let variant = fields.optional("variant");
    let include = fields.required("include", findings);
    let files = fields.optional("files");
    let commands = fields.optional("commands");
    let arguments = fields.optional("kernelArguments");
    let size = fields.required("diskSize", findings);
    fields.finish(findings);

    let files = match files {
        Some(node) => {
            findings.items(node, "`files`")?.iter().filter_map(|n| decode_file(n, findings)).collect()
        }
        None => Vec::new(),
    };
    let commands = match commands {
        Some(node) => Some(findings.text(node, "`commands`")?.to_owned()),
        None => None,
    };
    let kernel_arguments = match arguments {
        Some(node) => texts(node, "`kernelArguments`", findings)?,
        None => Vec::new(),
    };
    let suite = suite.and_then(|n| findings.text(n, "the suite"));
    let components = components.and_then(|n| texts(n, "`components`", findings));
    let variant = match variant {
        Some(node) => findings.choice(node, "the variant", VARIANTS),
        None => VARIANTS.first().copied(),
    };
    let include = include.and_then(|n| texts(n, "`include`", findings));
    let disk_size = size.and_then(|n| decode_size(n, findings));
    Some(Packages {
        suite: suite?.to_owned(),
        components: components?,
        variant: variant?,
        include: include?,
        files,
        commands,
        kernel_arguments,
        disk_size: disk_size?,
    })
}

fn decode_file(node: &Node, findings: &mut Findings) -> Option<File> {
    let mut fields = Fields::of(node, "a file", findings)?;
    let path = fields.required("path", findings);
    let mode = fields.optional("mode");
    let content = fields.required("content", findings);
    fields.finish(findings);
    let path = findings.text(path?, "the path").map(|p| (p, path))?;
    let (text, at) = (path.0.to_owned(), path.1?.span);
    if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
        findings.error(at, "bad-path", format!("`{text}` must be an absolute path without `..`"));
        return None;
    }
    let mode = match mode {
        None => 0o644,
        Some(node) => {
            let digits = findings.text(node, "the mode")?;
            let Some(mode) = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777) else {
                findings.error(node.span, "bad-mode", format!("`{digits}` is no file mode, write '0644'"));
                return None;
            };
            mode
        }
    };
    let content = findings.text(content?, "the content")?.to_owned();
    Some(File { path: text, mode, content })
}

fn decode_download(node: &Node, source: &Source, findings: &mut Findings) -> Option<Download> {
    let mut fields = Fields::of(node, "`download`", findings)?;
    let address = fields.required("address", findings);
    let format = fields.optional("format");
    let versions = fields.optional("versions");
    let checksums = fields.required("checksums", findings);
    let signature = fields.optional("signature");
    let unverified = fields.optional("unverified");
    fields.finish(findings);
    let versions = versions.and_then(|n| decode_versions(n, findings));
    let mut web = |node: Option<&Node>, what| decode_address(node?, what, versions.is_some(), findings);
    let (address, checksums) = (web(address, "the address"), web(checksums, "`checksums`"));
    let versioned = versions.is_some();
    Some(Download {
        address: address?,
        format: format.and_then(|n| parsed(n, "the format", findings)),
        versions,
        checksums: checksums?,
        signature: signature.and_then(|n| decode_signature(n, versioned, source, findings)),
        unverified: unverified.is_some_and(|n| findings.boolean(n, "`unverified`") == Some(true)),
    })
}

/// What stands for the version in addresses.
pub const VERSION: &str = "{version}";

fn decode_address(node: &Node, what: &str, versioned: bool, findings: &mut Findings) -> Option<String> {
    let text = findings.text(node, what)?;
    if !text.starts_with("https://") && !text.starts_with("http://") {
        findings.error(node.span, "bad-address", format!("`{text}` is no http or https address"));
    }
    if text.contains(VERSION) && !versioned {
        let message = format!("{what} has {VERSION} in it, and no `versions` say which there are");
        findings.error(node.span, "bad-address", message);
    }
    Some(text.to_owned())
}

fn decode_versions(node: &Node, findings: &mut Findings) -> Option<Versions> {
    let mut fields = Fields::of(node, "`versions`", findings)?;
    let page = fields.required("page", findings);
    let link = fields.required("link", findings);
    fields.finish(findings);
    let page = page.and_then(|n| decode_address(n, "the page", false, findings));
    let link = link.and_then(|n| {
        let text = findings.text(n, "the link")?;
        // With nothing around it any number on the page would do.
        if super::pull::sides(text).is_none() {
            let message = format!("`{text}` must have {VERSION} in it, once, and text before and after it");
            findings.error(n.span, "bad-link", message);
        }
        Some(text.to_owned())
    });
    Some(Versions { page: page?, link: link? })
}

fn decode_signature(
    node: &Node,
    versioned: bool,
    source: &Source,
    findings: &mut Findings,
) -> Option<Signature> {
    let mut fields = Fields::of(node, "`signature`", findings)?;
    let address = fields.optional("address");
    let key = fields.optional("key");
    let package = fields.optional("package");
    fields.finish(findings);
    // A key beside the definition is named from there.
    let folder = Path::new(&source.name).parent().unwrap_or(Path::new("")).to_owned();
    Some(Signature {
        address: match address {
            Some(node) => Some(decode_address(node, "the signature's address", versioned, findings)?),
            None => None,
        },
        key: key.and_then(|n| findings.text(n, "`key`")).map(|text| folder.join(text)),
        package: package.and_then(|n| findings.text(n, "`package`")).map(str::to_owned),
    })
}

fn texts(node: &Node, what: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let items = findings.items(node, what)?;
    Some(items.iter().filter_map(|n| findings.text(n, what).map(str::to_owned)).collect())
}

fn parsed<T: std::str::FromStr<Err = String>>(node: &Node, what: &str, findings: &mut Findings) -> Option<T> {
    let text = findings.text(node, what)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(message) => {
            findings.error(node.span, "bad-value", message);
            None
        }
    }
}

/// "4 GiB": a whole number of GiB or MiB.
fn decode_size(node: &Node, findings: &mut Findings) -> Option<u64> {
    let text = findings.text(node, "the size")?;
    let size = text.split_once(' ').and_then(|(number, unit)| {
        let unit: u64 = match unit {
            "GiB" => 1 << 30,
            "MiB" => 1 << 20,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(unit)
    });
    match size {
        Some(size) if (512 << 20..=64 << 40).contains(&size) => Some(size),
        _ => {
            let message = format!("`{text}` is no size for a disk: write `4 GiB`, at least `512 MiB`");
            findings.error(node.span, "bad-size", message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_known_and_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/base-images");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut known: Vec<String> = built_in().chain(published()).map(|n| format!("{n}.yaml")).collect();
        known.sort();
        assert_eq!(files, known);
        for name in built_in().chain(published()) {
            let definition = find(name).unwrap();
            let built = matches!(definition.content, Content::Packages(_));
            assert_eq!(built, built_in().any(|n| n == name), "{name}");
            assert_eq!(definition.name, name);
            assert!(!definition.firmware.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        let text = "name: Debian\ndescription: d\narchitecture: mips\nfirmware: [bios]\npackages:\n  suit: x\n  components: [main]\n  include: []\n  diskSize: 4 GB\n";
        let findings = parse(&Source::new("mine.yaml", text)).unwrap_err();
        let rendered: String = findings.list.iter().map(|d| d.render()).collect();
        for wanted in ["no name for a base image", "`suit`", "no size for a disk"] {
            assert!(rendered.contains(wanted), "{wanted} in:\n{rendered}");
        }
    }

    #[test]
    fn names_are_safe_as_file_names() {
        assert!(is_name("debian-12") && is_name("al2023.5"));
        assert!(!is_name("") && !is_name("../x") && !is_name(".x") && !is_name("A") && !is_name("a/b"));
    }
}
