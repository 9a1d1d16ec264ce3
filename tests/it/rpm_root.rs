//! A root that the distribution's own rpm has installed packages into.

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct RpmRoot {
    /// Where packages are made.
    pub work: PathBuf,
    pub root: PathBuf,
}

impl RpmRoot {
    /// `work` is a folder for the rest; both are made where they are missing.
    pub fn new(work: &Path, root: &Path) -> RpmRoot {
        for folder in [work, root] {
            std::fs::create_dir_all(folder).unwrap();
        }
        RpmRoot { work: work.into(), root: root.into() }
    }

    /// Makes a package of some files (paths and contents) with rpmbuild and installs it, or an upgrade of it.
    pub fn install(&self, name: &str, version: &str, epoch: Option<u32>, files: &[(&str, &str)]) {
        let epoch = epoch.map(|epoch| format!("Epoch: {epoch}\n")).unwrap_or_default();
        let mut text = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\n{epoch}Summary: nothing\nLicense: none\n\
             BuildArch: noarch\n%description\nnothing\n%install\n"
        );
        for (path, content) in files {
            text += &format!(
                "mkdir -p \"$(dirname %{{buildroot}}{path})\"\necho '{content}' > %{{buildroot}}{path}\n"
            );
        }
        text += "%files\n";
        files.iter().for_each(|(path, _)| text += &format!("{path}\n"));
        std::fs::write(self.work.join("spec"), text).unwrap();
        let (top, output) =
            (format!("_topdir {}", self.work.display()), format!("_rpmdir {}", self.work.display()));
        self.run("rpmbuild", &["-bb", "--quiet", "--define", &top, "--define", &output, "spec"]);
        let package = self.work.join(format!("noarch/{name}-{version}-1.noarch.rpm"));
        self.rpm(&["--nodeps", "-U", package.to_str().unwrap()]);
    }

    /// What rpm says.
    pub fn rpm(&self, arguments: &[&str]) -> String {
        let root = format!("--root={}", self.root.display());
        let own = [&[root.as_str(), "--dbpath=/var/lib/rpm"], arguments].concat();
        // It changes its root, which in a namespace of its own everybody may.
        match rustix::process::geteuid().is_root() {
            true => self.run("rpm", &own),
            false => self.run("unshare", &[&["--map-root-user", "rpm"], &own[..]].concat()),
        }
    }

    /// Runs a tool in `work`.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).current_dir(&self.work).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e} (cargo xtask install)"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
