//! CPU time of what kiln started: the machines above all.

use std::path::Path;

/// CPU ms, user and system, of kiln's child processes: those that ended and those that run.
pub fn children_cpu_ms() -> u64 {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let own = std::process::id();
    let ended = stat(Path::new("/proc/self/stat")).map_or(0, |s| s.children);
    let running: u64 = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|e| stat(&e.path().join("stat")))
        .filter(|s| s.parent == own)
        .map(|s| s.own + s.children)
        .sum();
    (ended + running) * 1000 / ticks
}

struct Stat {
    parent: u32,
    /// Ticks of the process.
    own: u64,
    /// Ticks of its children that it waited for.
    children: u64,
}

/// proc(5): pid (comm) state ppid ...; 14 to 17 are utime, stime, cutime, cstime.
fn stat(path: &Path) -> Option<Stat> {
    let text = std::fs::read_to_string(path).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(1)? as u32,
        own: number(11)? + number(12)?,
        children: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_a_running_child_counts_before_and_after_its_end() {
        let before = super::children_cpu_ms();
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let begun = std::time::Instant::now();
        while super::children_cpu_ms() < before + 100 {
            assert!(begun.elapsed().as_secs() < 60);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(super::children_cpu_ms() >= before + 100);
    }
}
