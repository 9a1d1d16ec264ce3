//! Whether a vendor signed its list of digests: asked of the system's gpgv, with a key that somebody named.
//!
//! kiln brings no keys. What cannot be checked is said and recorded; what is checked and wrong is refused.

use super::PullError;
use crate::support::command::{CommandError, Limits, Tool};
use crate::support::files;
use crate::support::wait::Patience;
use std::path::Path;
use std::time::Duration;

/// Files of keys and signatures are small.
const KEY_LIMIT: u64 = 4 << 20;
const LIMITS: Limits = Limits { memory: 512 << 20, cpu: Duration::from_secs(30) };

/// A list, its signature, and where keys are.
pub struct Check<'a> {
    pub list: &'a [u8],
    /// None: it is in the list.
    pub signature: Option<&'a [u8]>,
    pub key: &'a Path,
    /// A folder for this alone.
    pub scratch: &'a Path,
}

/// Whether this host can look at all; None when it can.
pub fn hindrance(key: &Path, package: Option<&str>) -> Option<String> {
    if !key.is_file() {
        let from = package.map(|p| format!(" (the package {p} brings it)")).unwrap_or_default();
        return Some(format!("the vendor's key {} is not on this machine{from}", key.display()));
    }
    (!files::on_path("gpgv")).then(|| "gpgv is not on this machine (the package gpgv brings it)".to_owned())
}

impl Check<'_> {
    /// Who signed it, and what it is that is signed. A wrong signature, or one by another key, is an error.
    pub async fn run(&self, patience: &Patience) -> Result<(String, Vec<u8>), PullError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| PullError::File { path, source }
        };
        let at = |name: &str| self.scratch.join(name);
        let (list, signature, keys, signed) = (at("list"), at("signature"), at("keys.gpg"), at("signed"));
        std::fs::write(&list, self.list).map_err(io(&list))?;
        std::fs::write(&keys, self.keys()?).map_err(io(&keys))?;
        let mut tool = Tool::new("gpgv").args(["--status-fd", "1", "--keyring"]).arg(&keys);
        tool = match self.signature {
            Some(bytes) => {
                std::fs::write(&signature, bytes).map_err(io(&signature))?;
                tool.arg(&signature).arg(&list)
            }
            // What stands around the signed text is anybody's.
            None => tool.arg("--output").arg(&signed).arg(&list),
        };
        // It keeps nothing in the user's folders.
        let ran = tool.env("GNUPGHOME", self.scratch).limits(LIMITS).run(patience).await;
        let output = ran.map_err(|source| match source {
            CommandError::Failed { last_lines, .. } => {
                PullError::Signature { key: self.key.to_owned(), said: last_lines }
            }
            other => PullError::Tool(other),
        })?;
        let by = fingerprint(&output.text()).ok_or_else(|| PullError::Signature {
            key: self.key.to_owned(),
            said: vec!["gpgv names no valid signature".into()],
        })?;
        let content = match self.signature {
            Some(_) => self.list.to_vec(),
            None => std::fs::read(&signed).map_err(io(&signed))?,
        };
        Ok((by, content))
    }

    /// The key file in the form that gpgv takes.
    fn keys(&self) -> Result<Vec<u8>, PullError> {
        let io = |source| PullError::File { path: self.key.to_owned(), source };
        if std::fs::metadata(self.key).map_err(io)?.len() > KEY_LIMIT {
            return Err(io(std::io::Error::other("it is too large for a file of keys")));
        }
        let bytes = std::fs::read(self.key).map_err(io)?;
        match bytes.starts_with(b"-----BEGIN PGP") {
            false => Ok(bytes),
            true => unarmored(&String::from_utf8_lossy(&bytes))
                .ok_or_else(|| io(std::io::Error::other("its armour cannot be read"))),
        }
    }
}

/// Of the first valid signature, the primary key's where gpgv tells it.
fn fingerprint(status: &str) -> Option<String> {
    let valid = status.lines().find_map(|l| l.strip_prefix("[GNUPG:] VALIDSIG "))?;
    let words: Vec<&str> = valid.split_whitespace().collect();
    let found = words.get(9).or(words.first())?;
    let sound = found.len() >= 40 && found.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then(|| (*found).to_owned())
}

/// Every block of an armoured file, as bytes. None when one is malformed.
fn unarmored(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        if !line.starts_with("-----BEGIN PGP") {
            continue;
        }
        let mut body = String::new();
        // Lines of its head have a colon, its checksum begins with an equals sign.
        let block = lines.by_ref().take_while(|l| !l.starts_with("-----END PGP"));
        block.filter(|l| !l.contains(':') && !l.starts_with('=')).for_each(|l| body.push_str(l));
        bytes.extend(from_base64(&body)?);
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(60), &CancellationToken::new())
    }

    async fn gpg(home: &Path, arguments: &str) {
        let tool =
            Tool::new("gpg").args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
        let tool = tool.args(arguments.split(' ')).env("GNUPGHOME", home).dir(home);
        tool.run(&patience()).await.unwrap();
    }

    /// Real keys, a real gpgv: both kinds of signature, both forms of a key file.
    #[tokio::test]
    async fn signatures_are_checked_by_the_key_that_was_named() {
        let folder = tempfile::Builder::new().prefix("k").tempdir().unwrap();
        let dir = folder.path();
        for who in ["vendor", "other"] {
            gpg(dir, &format!("--quick-gen-key {who} ed25519 sign never")).await;
            gpg(dir, &format!("--output {who}.gpg --export {who}")).await;
        }
        gpg(dir, "--armor --output vendor.asc --export vendor").await;
        std::fs::write(dir.join("list"), "abc  disk.img\n").unwrap();
        gpg(dir, "--local-user vendor --output list.sig --detach-sign list").await;
        gpg(dir, "--local-user vendor --armor --output list.asc --detach-sign list").await;
        gpg(dir, "--local-user vendor --output list.clear --clearsign list").await;
        Tool::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", dir).run(&patience()).await.unwrap();

        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let scratch = dir.join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let run = async |list: &[u8], signature: Option<&[u8]>, key: &str| {
            let key = dir.join(key);
            let check = Check { list, signature, key: &key, scratch: &scratch };
            let result = check.run(&patience()).await;
            let _ = std::fs::remove_file(scratch.join("signed"));
            result
        };
        for key in ["vendor.gpg", "vendor.asc"] {
            for signature in ["list.sig", "list.asc"] {
                let (by, content) = run(&read("list"), Some(&read(signature)), key).await.unwrap();
                assert_eq!((by.len(), content), (40, read("list")));
            }
            // Only what is inside the signature counts.
            let mut clear = b"fff  disk.img\n".to_vec();
            clear.extend(read("list.clear"));
            clear.extend(b"eee  disk.img\n");
            let (_, content) = run(&clear, None, key).await.unwrap();
            assert_eq!(String::from_utf8(content).unwrap(), "abc  disk.img\n");
        }
        let wrong = [
            run(b"abd  disk.img\n", Some(&read("list.sig")), "vendor.gpg").await,
            run(&read("list"), Some(&read("list.sig")), "other.gpg").await,
            run(&read("list"), Some(b"nonsense"), "vendor.gpg").await,
            run(&read("list"), None, "vendor.gpg").await,
            run(&read("list"), Some(&read("list.sig")), "list").await,
        ];
        for (number, result) in wrong.into_iter().enumerate() {
            let is_refused = matches!(result, Err(PullError::Signature { .. }));
            assert!(is_refused, "{number}: {result:?}");
        }
    }

    #[test]
    fn armour_comes_off() {
        let text = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\nYWJj\nZA==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(unarmored(text).unwrap(), b"abcd");
        assert_eq!(unarmored("-----BEGIN PGP-----\n!!\n"), None);
        assert_eq!(unarmored("nothing"), None);
    }
}
