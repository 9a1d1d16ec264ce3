//! The kernels in /boot, and what the boot loader tells them.

use std::cmp::Ordering;

use super::Look;
use crate::appliance::ApplianceError;
use crate::appliance::facts::{InitrdKind, Kernel, Volume};
use crate::appliance::tree::Tree;
use crate::guest::GuestFiles;
use crate::support::text::printable;

const CONFIG_LIMIT: u64 = 256 << 10;

impl Look<'_> {
    /// The kernels, the one that starts by default first, and its command line.
    pub(in crate::appliance) async fn kernels(
        &self,
        root: &Volume,
        tree: &Tree,
    ) -> Result<(Vec<Kernel>, String), ApplianceError> {
        let entries = self.list("/boot").await?;
        let names: Vec<&str> = entries.iter().filter_map(|e| e.path.rsplit('/').next()).collect();
        let mut kernels = paired(&names, self.initrd_kind().await?);
        // Debian keeps links to the newest installed kernel, and kiln's bases start by them.
        let mut preferred = None;
        for link in ["/vmlinuz", "/boot/vmlinuz"] {
            let entry = self.guest.stat(link, false, self.patience).await;
            let target = self.optional(link, entry)?.flatten().and_then(|e| e.target);
            preferred = preferred.or(target.and_then(|t| version_of(t.rsplit('/').next()?).map(shown)));
        }
        kernels.sort_by(|a, b| compare(&b.version, &a.version));
        if let Some(at) = kernels.iter().position(|k| Some(&k.version) == preferred.as_ref()) {
            kernels[..=at].rotate_right(1);
        }
        let line = self.command_line(kernels.first()).await?;
        Ok((kernels, with_root(line, root, tree)))
    }

    async fn initrd_kind(&self) -> Result<InitrdKind, ApplianceError> {
        if self.exists("/usr/share/initramfs-tools/init").await? {
            return Ok(InitrdKind::InitramfsTools);
        }
        let dracut = self.exists("/usr/lib/dracut/dracut-functions.sh").await?;
        Ok(if dracut { InitrdKind::Dracut } else { InitrdKind::Unknown })
    }

    /// From the loader's configuration: boot loader entries, GRUB's, or the kernel packages' own.
    async fn command_line(&self, kernel: Option<&Kernel>) -> Result<String, ApplianceError> {
        let version = kernel.map_or("", |k| k.version.as_str());
        for name in self.names("/boot/loader/entries", "", ".conf").await? {
            let entry = self.text(&format!("/boot/loader/entries/{name}"), CONFIG_LIMIT).await?;
            let options = entry.lines().find_map(|l| l.strip_prefix("options "));
            if let Some(options) = options.filter(|_| entry.contains(version)) {
                return Ok(options.to_owned());
            }
        }
        for path in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
            if let Some(line) = from_grub(&self.text(path, CONFIG_LIMIT).await?, version) {
                return Ok(line);
            }
        }
        self.text("/etc/kernel/cmdline", CONFIG_LIMIT).await
    }
}

/// Kernels among the names in /boot, each with its initramfs.
fn paired(names: &[&str], kind: InitrdKind) -> Vec<Kernel> {
    let initrd = |version: &str| {
        let ways = [
            format!("initrd.img-{version}"),
            format!("initramfs-{version}.img"),
            format!("initrd-{version}"),
        ];
        let found = ways.into_iter().find(|way| names.contains(&way.as_str()));
        found.map(|name| format!("/boot/{name}"))
    };
    let kernel = |name: &&str| {
        let version = version_of(name)?;
        Some(Kernel {
            version: shown(version),
            image: format!("/boot/{name}"),
            initrd: initrd(version),
            initrd_kind: kind,
        })
    };
    names.iter().filter_map(kernel).collect()
}

fn version_of(name: &str) -> Option<&str> {
    let version = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"))?;
    // Rescue kernels are for people.
    (!version.contains("rescue")).then_some(version)
}

/// As people count: runs of digits are numbers.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let bounds = text.split_inclusive(|c: char| !c.is_ascii_digit());
        bounds
            .map(|part| {
                let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
                (digits.parse().unwrap_or(0), part[digits.len()..].to_owned())
            })
            .collect()
    };
    parts(a).cmp(&parts(b))
}

/// What follows the kernel's path in the first `linux` command for this version, or in the first at all.
fn from_grub(config: &str, version: &str) -> Option<String> {
    let commands = || {
        config.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let command = words.next()?;
            let image = matches!(command, "linux" | "linux16" | "linuxefi").then(|| words.next())??;
            // GRUB's own variables mean nothing here.
            let rest: Vec<&str> = words.filter(|w| !w.contains('$')).collect();
            Some((image, rest.join(" ")))
        })
    };
    let exact = commands().find(|(image, _)| !version.is_empty() && image.ends_with(version));
    exact.or_else(|| commands().next()).map(|(_, line)| line)
}

fn shown(text: &str) -> String {
    printable(text, usize::MAX)
}

/// The words of a command line, as they may be shown and given on.
fn said(line: &str) -> Vec<String> {
    line.split_whitespace().map(shown).collect()
}

/// Adds where the root is, if the line does not say it.
fn with_root(line: String, root: &Volume, tree: &Tree) -> String {
    let mut words = said(&line);
    if !words.iter().any(|w| w.starts_with("root=")) {
        let uuid = root.filesystem.as_ref().and_then(|f| f.uuid.as_ref());
        words.extend(uuid.map(|uuid| format!("root=UUID={uuid}")));
        words.extend(tree.subvolume.iter().map(|name| format!("rootflags=subvol={name}")));
        words.push("ro".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_their_initramfs() {
        let names = ["vmlinuz-6.1.0-9-cloud", "vmlinuz-6.1.0-56-cloud", "initrd.img-6.1.0-56-cloud", "grub"];
        let mut kernels = paired(&names, InitrdKind::InitramfsTools);
        kernels.sort_by(|a, b| compare(&b.version, &a.version));
        assert_eq!(kernels[0].initrd.as_deref(), Some("/boot/initrd.img-6.1.0-56-cloud"));
        assert_eq!((kernels[1].version.as_str(), &kernels[1].initrd), ("6.1.0-9-cloud", &None));
        let fedora =
            ["vmlinuz-6.8.5-301.fc40.x86_64", "initramfs-6.8.5-301.fc40.x86_64.img", "vmlinuz-0-rescue-1"];
        let kernels = paired(&fedora, InitrdKind::Dracut);
        assert_eq!(kernels.len(), 1);
        assert_eq!(kernels[0].initrd.as_deref(), Some("/boot/initramfs-6.8.5-301.fc40.x86_64.img"));
        assert_eq!(compare("6.10.1", "6.9.30"), Ordering::Greater);
    }

    /// They go to the user's terminal; the file is still found by its own name.
    #[test]
    fn versions_and_command_lines_have_no_control_characters() {
        let kernels = paired(&["vmlinuz-6\x1b[2J", "initrd.img-6\x1b[2J"], InitrdKind::Unknown);
        assert_eq!(
            (kernels[0].version.as_str(), kernels[0].image.as_str()),
            ("6[2J", "/boot/vmlinuz-6\x1b[2J")
        );
        assert_eq!(kernels[0].initrd.as_deref(), Some("/boot/initrd.img-6\x1b[2J"));
        let line = said("root=/dev/vda1\tro \x1b]0;x\x07quiet\u{9b}1\n");
        assert_eq!(line, ["root=/dev/vda1", "ro", "]0;xquiet1"]);
    }

    #[test]
    fn the_command_line_of_grub() {
        let config = "set root=x\n\tlinux /boot/vmlinuz-6.1.0-9 root=UUID=a ro quiet $vt_handoff\n\
            \tlinux\t/boot/vmlinuz-6.1.0-56 root=UUID=b ro\n";
        assert_eq!(from_grub(config, "6.1.0-56").as_deref(), Some("root=UUID=b ro"));
        assert_eq!(from_grub(config, "7.0").as_deref(), Some("root=UUID=a ro quiet"));
        assert_eq!(from_grub("nothing\n", ""), None);
    }
}
