//! What seal takes out of an image, and why.
//!
//! Image Builder's documented clean-up, with its groups and the marker files that
//! keep a group; and what else a machine leaves behind that must not be in two.

/// A group that a marker file in the working directory keeps: `skip_cleanup_<name>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    CloudInit,
    Instance,
    Ssh,
    Logs,
    Toe,
    Ssm,
    /// No marker keeps it.
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Remove,
    /// A copy of something; a link to where it belongs may stay.
    RemoveCopy,
    /// First overwrite the files: what is free on a disk can still be read.
    Shred,
    /// Leave the file, with nothing in it.
    Empty,
    /// As `Empty`, and make it where it is missing.
    Ensure,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub group: Group,
    pub act: Act,
    /// An absolute path; in its parts `*` stands for any characters, `{}` for the working directory.
    pub pattern: &'static str,
}

impl Group {
    pub const WITH_MARKER: [Group; 6] =
        [Group::CloudInit, Group::Instance, Group::Ssh, Group::Logs, Group::Toe, Group::Ssm];

    /// As in the name of its marker file.
    pub fn as_str(self) -> &'static str {
        match self {
            Group::CloudInit => "cloudinit_files",
            Group::Instance => "instance_files",
            Group::Ssh => "ssh_files",
            Group::Logs => "instance_log_files",
            Group::Toe => "toe_files",
            Group::Ssm => "ssm_log_files",
            Group::Always => "always",
        }
    }

    pub fn marker(self) -> String {
        format!("skip_cleanup_{}", self.as_str())
    }
}

const fn rules<const N: usize>(group: Group, act: Act, patterns: [&'static str; N]) -> [Rule; N] {
    let mut all = [Rule { group, act, pattern: "" }; N];
    let mut i = 0;
    while i < N {
        all[i].pattern = patterns[i];
        i += 1;
    }
    all
}

/// The names and addresses that cloud-init gave this machine go with its state: it makes them anew.
const CLOUD_INIT: [Rule; 10] = rules(
    Group::CloudInit,
    Act::Shred,
    [
        "/etc/sudoers.d/90-cloud-init-users",
        "/etc/locale.conf",
        "/var/log/cloud-init*.log",
        "/var/lib/cloud/*",
        "/etc/network/interfaces.d/50-cloud-init*",
        "/etc/netplan/50-cloud-init.yaml",
        "/etc/systemd/network/10-cloud-init*",
        "/etc/NetworkManager/system-connections/cloud-init-*",
        "/etc/NetworkManager/conf.d/*-cloud-init*",
        "/etc/udev/rules.d/70-persistent-net.rules",
    ],
);

const INSTANCE: [Rule; 8] = rules(
    Group::Instance,
    Act::Remove,
    [
        "/etc/.updated",
        "/etc/aliases.db",
        "/etc/hostname",
        "/var/.updated",
        "/var/lib/misc/postfix.aliasesdb-stamp",
        "/var/lib/postfix/master.lock",
        "/var/spool/postfix/pid/master.pid",
        "/var/cache/yum/*/*/.gpgkeyschecked.yum",
    ],
);

const SSH: [Rule; 3] = rules(
    Group::Ssh,
    Act::Shred,
    ["/etc/ssh/ssh_host_*_key*", "/root/.ssh/authorized_keys", "/home/*/.ssh/authorized_keys"],
);

const LOGS: [Rule; 17] = rules(
    Group::Logs,
    Act::Remove,
    [
        "/var/log/audit/*",
        "/var/log/boot.log*",
        "/var/log/dmesg*",
        "/var/log/cron*",
        "/var/log/syslog*",
        "/var/log/messages*",
        "/var/log/kern.log*",
        "/var/log/auth.log*",
        "/var/log/secure*",
        "/var/log/daemon.log*",
        "/var/log/user.log*",
        "/var/log/debug*",
        "/var/log/mail.*",
        "/var/log/maillog*",
        "/var/log/journal/*",
        "/var/log/sa/sa*",
        "/var/log/private/*",
    ],
);

/// Who was logged in when. The files must be there, with their owners.
const LOG_INS: [Rule; 5] = rules(
    Group::Logs,
    Act::Empty,
    ["/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/log/faillog", "/var/log/tallylog"],
);

const TOE: [Rule; 1] = rules(Group::Toe, Act::Remove, ["{}/TOE_*"]);

const SSM: [Rule; 1] = rules(Group::Ssm, Act::Remove, ["/var/log/amazon/ssm/*"]);

const SECRETS: [Rule; 11] = rules(
    Group::Always,
    Act::Shred,
    [
        "/var/lib/systemd/random-seed",
        "/var/lib/systemd/credential.secret",
        "/var/lib/NetworkManager/secret_key",
        "/root/.*_history",
        "/home/*/.*_history",
        "/root/.history",
        "/home/*/.history",
        "/root/.viminfo",
        "/home/*/.viminfo",
        "/root/.lesshst",
        "/home/*/.lesshst",
    ],
);

const TRACES: [Rule; 14] = rules(
    Group::Always,
    Act::Remove,
    [
        "/var/tmp/*",
        "/tmp/*",
        "/var/lib/dhclient/*lease*",
        "/var/lib/dhcp/*lease*",
        "/var/lib/dhcpcd/*lease*",
        "/var/lib/NetworkManager/*lease*",
        "/var/lib/NetworkManager/timestamps",
        "/var/lib/NetworkManager/seen-bssids",
        "/var/lib/rsyslog/imjournal.state",
        "/var/lib/systemd/timers/stamp-*",
        "/var/lib/systemd/timesync/clock",
        "/var/lib/systemd/coredump/*",
        "/var/crash/*",
        "{}/perform_cleanup",
    ],
);

/// In some systems a second file, in others a link to the first.
const COPIES: [Rule; 1] = rules(Group::Always, Act::RemoveCopy, ["/var/lib/dbus/machine-id"]);

/// Empty says: make one at the next boot. Missing would say so too, but not on a root mounted read-only.
const IDENTITY: [Rule; 1] = rules(Group::Always, Act::Ensure, ["/etc/machine-id"]);

/// The markers themselves go last.
const MARKERS: [Rule; 1] = rules(Group::Always, Act::Remove, ["{}/skip_cleanup_*"]);

pub(super) fn all() -> impl Iterator<Item = Rule> {
    let groups: [&[Rule]; 12] = [
        &CLOUD_INIT,
        &INSTANCE,
        &SSH,
        &LOGS,
        &LOG_INS,
        &TOE,
        &SSM,
        &SECRETS,
        &TRACES,
        &COPIES,
        &IDENTITY,
        &MARKERS,
    ];
    groups.into_iter().flatten().copied()
}

/// Whether a name fits one part of a pattern.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(begin) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("*", ".x"),
            ("ssh_host_*_key*", "ssh_host_rsa_key"),
            ("ssh_host_*_key*", "ssh_host_ed25519_key.pub"),
            (".*_history", ".bash_history"),
            ("*lease*", "dhclient.eth0.leases"),
            ("a", "a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("ssh_host_*_key*", "ssh_config"), ("a*a", "a"), ("a", "ab"), ("*b*c", "cb")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_table_is_well_formed() {
        for rule in all() {
            assert!(rule.pattern.starts_with('/') || rule.pattern.starts_with("{}/"), "{}", rule.pattern);
        }
        assert_eq!(Group::Logs.marker(), "skip_cleanup_instance_log_files");
    }
}
