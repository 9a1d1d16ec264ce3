//! What the agent sees of its system.

use std::fs;
use std::path::Path;

use kiln_protocol::message::Facts;

const TEXT_LIMIT: usize = 4096;

pub fn facts() -> Facts {
    let uname = rustix::system::uname();
    let (memory_total, memory_available) = memory();
    Facts {
        os_release: os_release(),
        kernel: uname.release().to_string_lossy().into_owned(),
        architecture: std::env::consts::ARCH.into(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        boot_id: boot_id(),
        kernel_command_line: text("/proc/cmdline"),
        processors: processors(),
        memory_total,
        memory_available,
        uptime_ms: uptime_ms(),
        init: init(),
        cloud_init: ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join("cloud-init").exists()),
    }
}

/// Different at every boot.
pub fn boot_id() -> String {
    text("/proc/sys/kernel/random/boot_id")
}

/// The name of process 1.
pub fn init() -> String {
    text("/proc/1/comm")
}

/// Total and available bytes.
pub fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}

fn processors() -> u32 {
    // SAFETY: sysconf(3) touches no memory of ours.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

fn uptime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn os_release() -> Vec<(String, String)> {
    let text = ["/etc/os-release", "/usr/lib/os-release"].into_iter().map(text).find(|t| !t.is_empty());
    pairs(&text.unwrap_or_default())
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.trim().split_once('=')?;
        (!name.starts_with('#')).then(|| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// A small text file without the white space at its end, cut at the limit; empty when it cannot be read.
fn text(path: &str) -> String {
    let mut text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let end = (0..=TEXT_LIMIT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.truncate(end);
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn os_release_is_pairs_without_quotes() {
        let text = "NAME=\"Debian GNU/Linux\"\n# NOT=this\n\nID=debian\nX='a=b'\nnonsense\n";
        let expected = [("NAME", "Debian GNU/Linux"), ("ID", "debian"), ("X", "a=b")];
        assert_eq!(super::pairs(text), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
