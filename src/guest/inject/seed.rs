//! cloud-init's NoCloud seed: a small vfat disk labelled CIDATA.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use serde_json::json;

use super::launcher::{SCRIPT_PATH, UNIT, UNIT_PATH, script, unit};

/// Bytes of the image beyond its content: tables, folder, slack.
const ROOM: usize = 256 << 10;

/// Most bytes of user-data, as on EC2 times four; a seed is not for payloads.
pub const USER_DATA_LIMIT: usize = 64 << 10;

/// What the seed asks of cloud-init, beside starting the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A build: the network, and nothing that a build did not ask for (no
    /// users, keys, package sources, host name, growing, scripts).
    Build,
    /// An ordinary first boot, with the user-data that the user gave.
    FirstBoot { hostname: &'a str, user_data: Option<&'a [u8]> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed<'a> {
    /// New for each machine, the same for each boot of it.
    pub instance_id: &'a str,
    /// Start the agent; no, if it comes by another route.
    pub launch: bool,
    pub purpose: Purpose<'a>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeedError {
    #[error("the user-data has {0} bytes; at most {USER_DATA_LIMIT} are allowed")]
    TooLarge(usize),
    #[error(
        "this user-data cannot be combined with starting kiln's agent: {0} (give `#cloud-config` or a script that begins with `#!`)"
    )]
    Unmergeable(&'static str),
}

impl Seed<'_> {
    /// The disk's image.
    ///
    /// # Errors
    /// [`SeedError`] when the user-data is too large, or of a kind that cannot be combined.
    pub fn image(&self) -> Result<Vec<u8>, SeedError> {
        let files = [("meta-data", self.meta_data()), ("user-data", self.user_data()?)];
        let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut disk = Cursor::new(vec![0; (content + ROOM).next_multiple_of(4096)]);
        fill(&mut disk, &files).expect("a vfat image in memory has room for what it was made for");
        Ok(disk.into_inner())
    }

    fn meta_data(&self) -> Vec<u8> {
        let mut meta = json!({ "instance-id": self.instance_id });
        if let Purpose::FirstBoot { hostname, .. } = self.purpose {
            meta["local-hostname"] = hostname.into();
        }
        lines(&meta, "")
    }

    fn user_data(&self) -> Result<Vec<u8>, SeedError> {
        let mut config = json!({});
        if self.launch {
            config["bootcmd"] = json!([["/bin/sh", "-c", launch()]]);
        }
        match self.purpose {
            Purpose::Build => {
                config["preserve_hostname"] = true.into();
                config["vendor_data"] = json!({ "enabled": false });
                config["cloud_init_modules"] = json!(["bootcmd"]);
                config["cloud_config_modules"] = json!([]);
                config["cloud_final_modules"] = json!([]);
                Ok(lines(&config, "#cloud-config\n"))
            }
            Purpose::FirstBoot { user_data: None, .. } => Ok(lines(&config, "#cloud-config\n")),
            Purpose::FirstBoot { user_data: Some(given), .. } if given.len() > USER_DATA_LIMIT => {
                Err(SeedError::TooLarge(given.len()))
            }
            Purpose::FirstBoot { user_data: Some(given), .. } if !self.launch => Ok(given.to_vec()),
            Purpose::FirstBoot { user_data: Some(given), .. } => {
                combined(given, &lines(&config, "#cloud-config\n"))
            }
        }
    }
}

/// JSON is YAML; one line per top-level key, for people who look.
fn lines(map: &serde_json::Value, first: &str) -> Vec<u8> {
    let mut text = first.to_owned();
    for (key, value) in map.as_object().into_iter().flatten() {
        text += &format!("{key}: {value}\n");
    }
    text.into_bytes()
}

/// What bootcmd runs: writes the launcher and starts it without waiting (waiting
/// for a job before sysinit.target, from within what that target waits for, never ends).
fn launch() -> String {
    // A quoted here-document takes any text without its end mark in it.
    format!(
        "umask 022; mkdir -p /run/kiln /run/systemd/system\n\
         cat > {SCRIPT_PATH} <<'KILN'\n{}KILN\n\
         cat > {UNIT_PATH} <<'KILN'\n{}KILN\n\
         systemctl --no-block start {UNIT}\n",
        script(),
        unit()
    )
}

/// Both as parts of one MIME message. kiln's comes second and adds its command to the lists of the first.
fn combined(given: &[u8], own: &[u8]) -> Result<Vec<u8>, SeedError> {
    if given.starts_with(&[0x1f, 0x8b]) {
        return Err(SeedError::Unmergeable("it is compressed"));
    }
    let text = std::str::from_utf8(given).map_err(|_| SeedError::Unmergeable("it is not UTF-8 text"))?;
    if !text.starts_with('#') {
        return Err(SeedError::Unmergeable("its first line does not say what it is"));
    }
    let own = std::str::from_utf8(own).expect("made from text");
    let mut boundary = String::from("kiln");
    while text.contains(&boundary) || own.contains(&boundary) {
        boundary.push_str("-=");
    }
    // text/plain lets cloud-init look at the part's first line, as it would without MIME.
    Ok(format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\n\
         MIME-Version: 1.0\n\
         \n\
         --{boundary}\n\
         Content-Type: text/plain; charset=\"utf-8\"\n\
         \n\
         {text}\n\
         --{boundary}\n\
         Content-Type: text/cloud-config; charset=\"utf-8\"\n\
         Merge-Type: dict(no_replace,recurse_list)+list(append)\n\
         \n\
         {own}\n\
         --{boundary}--\n"
    )
    .into_bytes())
}

fn fill(disk: &mut Cursor<Vec<u8>>, files: &[(&str, Vec<u8>)]) -> std::io::Result<()> {
    format_volume(&mut *disk, FormatVolumeOptions::new().volume_label(*b"CIDATA     "))?;
    let volume = FileSystem::new(disk, FsOptions::new())?;
    for (name, content) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(content)?;
        file.flush()?;
    }
    volume.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn seed(launch: bool, purpose: Purpose<'_>) -> Seed<'_> {
        Seed { instance_id: "i-1", launch, purpose }
    }

    #[test]
    fn the_image_is_a_vfat_that_cloud_init_looks_for() {
        let image = seed(true, Purpose::Build).image().unwrap();
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let mut text = String::new();
        volume.root_dir().open_file("user-data").unwrap().read_to_string(&mut text).unwrap();
        assert!(text.starts_with("#cloud-config\nbootcmd: [[\"/bin/sh\",\"-c\",\"umask 022"), "{text}");
        assert!(text.contains("cloud_config_modules: []\n"), "{text}");
        text.clear();
        volume.root_dir().open_file("meta-data").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "instance-id: \"i-1\"\n");
    }

    #[test]
    fn the_users_data_is_taken_as_it_is_or_combined() {
        let given = b"#!/bin/sh\necho hello\n".as_slice();
        let purpose = Purpose::FirstBoot { hostname: "web", user_data: Some(given) };
        assert_eq!(seed(false, purpose).user_data().unwrap(), given);
        let both = String::from_utf8(seed(true, purpose).user_data().unwrap()).unwrap();
        assert!(both.contains("\n#!/bin/sh\necho hello\n\n--kiln-=\n"), "{both}");
        assert!(both.ends_with("\n--kiln-=--\n"), "{both}");
        let odd = Purpose::FirstBoot { hostname: "web", user_data: Some(b"\x1f\x8b") };
        assert!(matches!(seed(true, odd).image(), Err(SeedError::Unmergeable(_))));
        assert_eq!(seed(false, odd).user_data().unwrap(), b"\x1f\x8b");
        let long = vec![b'#'; USER_DATA_LIMIT + 1];
        let long = Purpose::FirstBoot { hostname: "web", user_data: Some(&long) };
        assert_eq!(seed(true, long).image(), Err(SeedError::TooLarge(USER_DATA_LIMIT + 1)));
    }

    #[test]
    fn the_command_is_one_that_a_shell_can_read() {
        let check = std::process::Command::new("sh").args(["-n", "-c", &launch()]).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
}
