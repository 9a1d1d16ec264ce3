//! The operating system: what it is, and which of its programs matter for booting it.

use kiln_protocol::message::Operation;

use super::Look;

use crate::appliance::ApplianceError;
use crate::appliance::facts::{CloudInit, OsRelease};
use crate::guest::Guest;
use crate::model::Architecture;
use crate::support::text::printable;

const SMALL: u64 = 256 << 10;

pub(super) struct System {
    pub os: OsRelease,
    pub architecture: Option<Architecture>,
    pub systemd: Option<u32>,
    pub machine_id: bool,
    pub cloud_init: Option<CloudInit>,
    pub own_network: bool,
    pub guest_agent: bool,
}

/// Empty, and `uninitialized`, are for the first boot to replace.
fn is_machine_id(text: &str) -> bool {
    let text = text.trim();
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Look<'_> {
    pub(super) async fn system(&self) -> Result<System, ApplianceError> {
        let os = os_release(&self.text("/etc/os-release", SMALL).await?);
        Ok(System {
            os,
            architecture: self.architecture().await?,
            systemd: self.systemd().await?,
            machine_id: is_machine_id(&self.text("/etc/machine-id", SMALL).await?),
            cloud_init: self.cloud_init().await?,
            own_network: self.own_network().await?,
            guest_agent: self.exists("/usr/sbin/qemu-ga").await? || self.exists("/usr/bin/qemu-ga").await?,
        })
    }

    async fn architecture(&self) -> Result<Option<Architecture>, ApplianceError> {
        let get = Operation::Get { path: "/bin/sh".into(), offset: 0, length: Some(20) };
        let mut bytes = Vec::new();
        let got = self.guest.get(get, 20, &mut bytes, self.patience).await;
        Ok(self.optional("/bin/sh", got)?.and_then(|_| elf_machine(&bytes)))
    }

    /// By the name of its library: that is the same in every package format.
    async fn systemd(&self) -> Result<Option<u32>, ApplianceError> {
        let folders = [
            "/usr/lib/systemd",
            "/lib/systemd",
            "/usr/lib64/systemd",
            "/usr/lib/x86_64-linux-gnu/systemd",
            "/usr/lib/aarch64-linux-gnu/systemd",
        ];
        for folder in folders {
            let names = self.names(folder, "libsystemd-shared-", ".so").await?;
            if let Some(version) =
                names.iter().find_map(|name| leading_number(&name["libsystemd-shared-".len()..]))
            {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    async fn cloud_init(&self) -> Result<Option<CloudInit>, ApplianceError> {
        if !self.exists("/usr/bin/cloud-init").await? {
            return Ok(None);
        }
        if self.exists("/etc/cloud/cloud-init.disabled").await? {
            return Ok(Some(CloudInit { takes_seed: false }));
        }
        let mut config = self.text("/etc/cloud/cloud.cfg", SMALL).await?;
        for name in self.names("/etc/cloud/cloud.cfg.d", "", ".cfg").await? {
            config.push('\n');
            config += &self.text(&format!("/etc/cloud/cloud.cfg.d/{name}"), SMALL).await?;
        }
        Ok(Some(CloudInit { takes_seed: lists_no_cloud(&config) }))
    }

    async fn own_network(&self) -> Result<bool, ApplianceError> {
        // What cloud-init wrote would be there also without it, but is made for another machine.
        let own = |names: Vec<String>| names.iter().any(|n| !n.contains("cloud-init"));
        if self.exists("/usr/sbin/NetworkManager").await?
            || own(self.names("/etc/systemd/network", "", ".network").await?)
            || own(self.names("/etc/netplan", "", ".yaml").await?)
        {
            return Ok(true);
        }
        let mut interfaces = self.text("/etc/network/interfaces", SMALL).await?;
        for name in self.names("/etc/network/interfaces.d", "", "").await? {
            if !name.contains("cloud-init") {
                interfaces += &self.text(&format!("/etc/network/interfaces.d/{name}"), SMALL).await?;
            }
        }
        Ok(interfaces.lines().any(|l| l.trim_start().starts_with("iface ") && !l.contains(" lo ")))
    }
}

fn os_release(text: &str) -> OsRelease {
    let field = |name: &str| {
        let value = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix('='));
        let value = value.unwrap_or_default().trim_matches(['"', '\'']);
        printable(value, 200)
    };
    OsRelease { id: field("ID"), version: field("VERSION_ID"), name: field("PRETTY_NAME") }
}

fn elf_machine(header: &[u8]) -> Option<Architecture> {
    match (header.get(..4)?, header.get(18..20)?) {
        (b"\x7fELF", [62, 0]) => Some(Architecture::X86_64),
        (b"\x7fELF", [183, 0]) => Some(Architecture::Aarch64),
        _ => None,
    }
}

fn leading_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether the last `datasource_list` has NoCloud in it. Without one cloud-init tries them all.
fn lists_no_cloud(config: &str) -> bool {
    let mut verdict = true;
    let mut lines = config.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(value) = line.strip_prefix("datasource_list:") else { continue };
        let mut list = value.to_owned();
        // The list may go on below, in brackets or as a block.
        while let Some(more) = lines.next_if(|l| l.starts_with([' ', '\t', '-', ']'])) {
            list.push_str(more);
            list.push(',');
        }
        let names = list.split(|c: char| !c.is_ascii_alphanumeric());
        verdict = names.into_iter().any(|name| name == "NoCloud");
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_understood() {
        let os = os_release("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n");
        assert_eq!((os.id.as_str(), os.version.as_str()), ("debian", "12"));
        assert_eq!(os.name, "Debian GNU/Linux 12 (bookworm)");
        let mut header = b"\x7fELF".to_vec();
        header.resize(18, 0);
        header.extend_from_slice(&[62, 0]);
        assert_eq!(elf_machine(&header), Some(Architecture::X86_64));
        assert_eq!(elf_machine(b"#!/bin/bash"), None);
        assert_eq!(leading_number("252.39-1.fc38.so"), Some(252));
    }

    /// The name goes to the user's terminal.
    #[test]
    fn a_name_has_no_control_characters() {
        let os =
            os_release("PRETTY_NAME=\"Evil\x1b]0;owned\x07 \u{9b}2J\tOS\"\nID=a\x1b[31m\nVERSION_ID=\x7f1\n");
        assert_eq!(os.name, "Evil]0;owned 2JOS");
        assert_eq!((os.id.as_str(), os.version.as_str()), ("a[31m", "1"));
    }

    #[test]
    fn where_cloud_init_looks() {
        assert!(lists_no_cloud("users: []\n"));
        assert!(lists_no_cloud("datasource_list: [ NoCloud, None ]\n"));
        assert!(lists_no_cloud("datasource_list:\n  - NoCloud\n  - None\nother: 1\n"));
        assert!(!lists_no_cloud("datasource_list: [ NoCloud ]\ndatasource_list: [Ec2,\n  None]\n"));
        assert!(!lists_no_cloud("datasource_list: [ Ec2 ]\n- NoCloudy\n"));
    }
}
