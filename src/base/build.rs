//! A base image from Debian's packages, without loop devices, mounts of the image or grub-install.

use super::bootloader::{self, Bootloader, ROOT_LABEL};
use super::definition::{Definition, Packages};
use super::layout::{Layout, unique_id_text};
use super::mirror::{self, AptSource};
use super::store::{BaseImage, DISK, Origin, PACKAGES, Store};
use super::work::{Work, enter, probe};
use super::{BaseError, Doing, Progress, error::MissingTool, tree};
use crate::disk::{self, DiskError, Format};
use crate::model::Architecture;
use crate::support::clock;
use crate::support::command::{CommandError, Tool};
use crate::support::files;
use crate::support::wait::Patience;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Runs commands ($2) in a tree ($1); the mounts end with the namespace.
const INSIDE: &str =
    "mount --rbind /dev \"$1/dev\"; mount -t proc proc \"$1/proc\"; exec chroot \"$1\" /bin/sh -ec \"$2\"";
/// For the tree, the disk made of it, and the image: bytes of a Debian with some hundred packages.
const NEEDED_SPACE: u64 = 2 << 30;
/// Counts up when the same definition gives another disk.
const BUILDER: u32 = 1;

/// Builds the base image, or returns the newest one that was built from the same inputs.
pub async fn build(
    store: &Store,
    definition: &Definition,
    packages: &Packages,
    rebuild: bool,
    progress: &mut Progress<'_>,
    patience: &Patience,
) -> Result<BaseImage, BaseError> {
    if definition.architecture != Architecture::HOST {
        let (name, wanted) = (definition.name.clone(), definition.architecture);
        return Err(BaseError::Architecture { name, wanted });
    }
    let missing = missing_tools(definition.architecture);
    if !missing.is_empty() {
        return Err(BaseError::MissingTools(missing));
    }
    let host = Host::ask(&definition.name, patience).await?;
    let sources = mirror::sources(&host.targets, &host.codename, &packages.suite, &packages.components)?;
    let inputs = inputs(definition, &sources);
    if !rebuild {
        let same = |b: &BaseImage| matches!(&b.origin, Origin::Packages { inputs: i, .. } if *i == inputs);
        if let Some(found) = store.list()?.into_iter().find(|b| b.name == definition.name && same(b)) {
            progress(Doing::Step(&format!("{} is there already, from the same inputs", definition.name)));
            return Ok(found);
        }
    }
    check_space(store.home())?;
    probe(patience).await?;
    let work = Work::create(store.home()).await?;
    let job =
        Job { definition, packages, sources, inputs, host, work: &work.path, tree: work.tree(), patience };
    let result = job.run(store, progress).await;
    work.remove().await;
    result
}

/// What the host's apt says.
struct Host {
    targets: String,
    codename: String,
    /// Options of apt that say how to reach the mirrors.
    options: Vec<String>,
}

impl Host {
    async fn ask(base: &str, patience: &Patience) -> Result<Host, BaseError> {
        let error = |source| BaseError::Tool { base: base.into(), doing: "asking the host's apt", source };
        let targets = Tool::new("apt-get").arg("indextargets").run(patience).await.map_err(error)?.text();
        let dump = Tool::new("apt-config").args(["dump", "Acquire"]).run(patience).await.map_err(error)?;
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
        let ways = |l: &&str| {
            let name = l.split(' ').next().unwrap_or_default();
            ["http", "https"].iter().any(|s| name.starts_with(&format!("Acquire::{s}::"))) && l.ends_with(';')
        };
        Ok(Host {
            targets,
            codename: codename.trim_matches('"').to_owned(),
            options: dump.text().lines().filter(ways).map(str::to_owned).collect(),
        })
    }
}

/// What cannot end well is not begun.
fn check_space(home: &Path) -> Result<(), BaseError> {
    // That the home folder is not there yet is no matter: its disk is.
    let folder = home.ancestors().find(|f| f.is_dir()).unwrap_or(home);
    let free = files::free_space(folder);
    let free =
        free.map_err(|source| BaseError::Store { doing: "reading", path: folder.to_owned(), source })?;
    if free < NEEDED_SPACE {
        return Err(BaseError::Disk(DiskError::NoSpace {
            path: folder.to_owned(),
            needed: NEEDED_SPACE,
            free,
        }));
    }
    Ok(())
}

/// What building a base from packages uses and this host does not have.
pub fn missing_tools(architecture: Architecture) -> Vec<MissingTool> {
    let program = |what: &'static str, package| (what, package, files::on_path(what));
    let file = |what: &'static str, package| (what, package, Path::new(what).exists());
    let mut all = vec![
        program("apt-get", "apt"),
        program("mmdebstrap", "mmdebstrap"),
        program("mke2fs", "e2fsprogs"),
        program("qemu-img", "qemu-utils"),
        program("grub-mkimage", "grub-common"),
        program("unshare", "util-linux"),
        program("mount", "mount"),
        file(KEYRING, "debian-archive-keyring"),
    ];
    all.extend(bootloader::needed(architecture).iter().map(|(path, package)| file(path, package)));
    if !rustix::process::geteuid().is_root() {
        all.push(program("newuidmap", "uidmap"));
    }
    let absent = all.into_iter().filter(|(_, _, there)| !there);
    absent.map(|(what, package, _)| MissingTool { what, package }).collect()
}

/// Digest of what goes in, apart from the archive's state of the day.
fn inputs(definition: &Definition, sources: &[AptSource]) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("builder {BUILDER}\0{}\0", definition.text));
    sources.iter().for_each(|s| digest.update(format!("{s}\0")));
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

struct Job<'a> {
    definition: &'a Definition,
    packages: &'a Packages,
    sources: Vec<AptSource>,
    inputs: String,
    host: Host,
    work: &'a Path,
    tree: PathBuf,
    patience: &'a Patience,
}

impl Job<'_> {
    async fn run(&self, store: &Store, progress: &mut Progress<'_>) -> Result<BaseImage, BaseError> {
        progress(Doing::Step(&format!("fetching and installing packages of {}", self.packages.suite)));
        self.install(progress).await?;
        progress(Doing::Step("finishing the tree"));
        tree::finish(&self.tree, self.packages, self.definition.architecture, &self.sources)
            .map_err(|e| self.file("writing", e))?;
        if let Some(commands) = &self.packages.commands {
            let shell = enter().args(["/bin/sh", "-ec", INSIDE, "sh"]).arg(&self.tree).arg(commands);
            shell.run(self.patience).await.map_err(self.tool("running its commands"))?;
        }
        let inventory = tree::inventory(&self.tree).map_err(|e| self.file("reading", e))?;
        self.check_boot_files()?;

        progress(Doing::Step("writing the disk"));
        let layout = Layout::new(self.packages.disk_size);
        let architecture = self.definition.architecture;
        let loader =
            bootloader::make(&self.definition.name, architecture, &layout, self.work, self.patience).await?;
        let raw = self.work.join("disk.raw");
        self.assemble(&raw, &layout, &loader).map_err(|e| self.file("writing", (raw.clone(), e)))?;
        self.file_system(&raw, &layout).await?;

        let folder = self.work.join("out");
        fs::create_dir(&folder).map_err(|e| self.file("making", (folder.clone(), e)))?;
        let disk = folder.join(DISK);
        progress(Doing::Step("converting the disk to qcow2"));
        disk::convert(&raw, Format::Raw, &disk, Format::Qcow2, None, &mut |_| (), self.patience).await?;
        let list = folder.join(PACKAGES);
        let lines: String = inventory.iter().map(|(n, v, a)| format!("{n} {v} {a}\n")).collect();
        fs::write(&list, lines).map_err(|e| self.file("writing", (list, e)))?;
        let digest = disk::sha256(&disk, self.patience).await?;
        let file_size = fs::metadata(&disk).map_err(|e| self.file("reading", (disk.clone(), e)))?.len();
        store.add(&BaseImage {
            name: self.definition.name.clone(),
            description: self.definition.description.clone(),
            architecture,
            firmware: self.definition.firmware.clone(),
            digest: format!("sha256:{digest}"),
            disk,
            virtual_size: layout.size,
            file_size,
            created: clock::now_ms(),
            origin: Origin::Packages {
                suite: self.packages.suite.clone(),
                sources: self.sources.iter().map(AptSource::to_string).collect(),
                inputs: self.inputs.clone(),
                package_count: inventory.len(),
            },
            folder,
        })
    }

    fn tool(&self, doing: &'static str) -> impl FnOnce(CommandError) -> BaseError {
        let base = self.definition.name.clone();
        move |source| BaseError::Tool { base, doing, source }
    }

    fn file(&self, doing: &'static str, (path, source): (PathBuf, io::Error)) -> BaseError {
        BaseError::File { base: self.definition.name.clone(), doing, path, source }
    }

    async fn install(&self, progress: &mut Progress<'_>) -> Result<(), BaseError> {
        let mut tool = enter()
            .args(["mmdebstrap", "--mode=root", "--format=directory"])
            .arg(format!("--variant={}", self.packages.variant))
            // The tree is thrown away unless everything works: no need to wait for the disk.
            .args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"])
            .arg(format!("--include={}", self.packages.include.join(",")))
            .env("TMPDIR", self.work);
        for option in &self.host.options {
            tool = tool.arg(format!("--aptopt={option}"));
        }
        tool = tool.arg(&self.packages.suite).arg(&self.tree);
        for source in &self.sources {
            tool = tool.arg(source.signed_by(KEYRING));
        }
        let mut line = |l: &str| {
            if let Some(step) = l.strip_prefix("I: ") {
                progress(Doing::Step(&format!("mmdebstrap: {}", step.trim_end_matches("..."))));
            }
        };
        tool.run_watched(self.patience, &mut line).await.map(drop).map_err(|e| {
            if speaks_of_the_network(&e) {
                return BaseError::Unreachable { base: self.definition.name.clone(), source: e };
            }
            self.tool("installing packages")(e)
        })
    }

    /// Boots hang on two links of the kernel packages; better to know now.
    fn check_boot_files(&self) -> Result<(), BaseError> {
        for link in ["vmlinuz", "initrd.img"] {
            let target = fs::read_link(self.tree.join(link)).unwrap_or_default();
            let target = self.tree.join(target.strip_prefix("/").unwrap_or(&target));
            if !target.is_file() {
                let what = format!(
                    "after installing its packages there is no /{link}; `include` needs a kernel and initramfs-tools"
                );
                return Err(BaseError::Content { base: self.definition.name.clone(), what });
            }
        }
        Ok(())
    }

    /// Everything of the disk but the root file system.
    fn assemble(&self, raw: &Path, layout: &Layout, loader: &Bootloader) -> io::Result<()> {
        let mut disk = fs::File::options().write(true).create_new(true).open(raw)?;
        disk.set_len(layout.size)?;
        let (head, tail) = layout.gpt(self.definition.architecture, &self.inputs);
        disk.write_all(&head)?;
        disk.seek(SeekFrom::Start(layout.size - tail.len() as u64))?;
        disk.write_all(&tail)?;
        disk.seek(SeekFrom::Start(0))?;
        disk.write_all(&loader.boot_code)?;
        disk.seek(SeekFrom::Start(layout.bios_boot.start))?;
        disk.write_all(&loader.core)?;
        disk.seek(SeekFrom::Start(layout.esp.start))?;
        io::copy(&mut fs::File::open(&loader.esp)?, &mut disk)?;
        Ok(())
    }

    async fn file_system(&self, raw: &Path, layout: &Layout) -> Result<(), BaseError> {
        let id = unique_id_text(&self.inputs, "file system");
        // Tables are zeroed now, where it costs nothing: left for later, every guest would write
        // them into its overlay. The two features are unknown to GRUB and to older kernels.
        let options =
            format!("offset={},hash_seed={id},lazy_itable_init=0,lazy_journal_init=0", layout.root.start);
        enter()
            .args(["mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-U", &id, "-E", &options])
            .args(["-O", "^metadata_csum_seed,^orphan_file", "-d"])
            .arg(&self.tree)
            .arg(raw)
            .arg(format!("{}k", layout.root.length >> 10))
            .run(self.patience)
            .await
            .map(drop)
            .map_err(self.tool("making the root file system"))
    }
}

/// In apt's words.
fn speaks_of_the_network(error: &CommandError) -> bool {
    let words = [
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Connection failed",
        "connection timed out",
    ];
    let CommandError::Failed { last_lines, .. } = error else { return false };
    last_lines.iter().any(|line| words.iter().any(|w| line.contains(w)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_definition_and_sources() {
        let mut definition = super::super::find("debian-12").unwrap();
        let source = |uri: &str| AptSource { uri: uri.into(), suite: "s".into(), components: vec![] };
        let first = inputs(&definition, &[source("a")]);
        assert_eq!(first, inputs(&definition, &[source("a")]));
        assert_ne!(first, inputs(&definition, &[source("b")]));
        definition.text.push('#');
        assert_ne!(first, inputs(&definition, &[source("a")]));
    }
}
