//! A real S3 store for tests: moto, which checks signatures, or the program that `KILN_TEST_S3S_FS` names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::component::fetch::s3::{Buckets, Credentials, Keys, S3};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The store, which ends when this process does: its input closes.
pub struct Server {
    pub settings: S3,
    hands: Mutex<Hands>,
}

struct Hands {
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Child,
}

pub fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = target.join("moto/bin/python");
    assert!(python.exists(), "{} is not there: cargo xtask install makes it", python.display());
    python
}

/// One store for all tests; each has buckets of its own.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut command = Command::new(python());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/component/s3_store.py"));
        command.args(std::env::var_os("KILN_TEST_S3S_FS"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let ask = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let settings = S3 {
            endpoint: Some(text("endpoint")),
            region: "us-east-1".into(),
            path_style: true,
            credentials: Credentials::Keys(Keys { id: text("id"), secret: text("secret"), token: None }),
            buckets: Buckets::All,
        };
        Server { settings, hands: Mutex::new(Hands { ask, answers, _process: process }) }
    })
}

/// A bucket, as another client sees it.
pub struct Bucket(pub &'static str);

impl Bucket {
    fn hands(&self) -> MutexGuard<'static, Hands> {
        server().hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ask(&self, what: &str, key: &str, body: &[u8]) -> Value {
        let mut hands = self.hands();
        let line = json!({"do": what, "bucket": self.0, "key": key, "body": STANDARD.encode(body)});
        writeln!(hands.ask, "{line}").unwrap();
        let mut answer = String::new();
        hands.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{what} {key}: {e}"))
    }

    pub fn put(&self, key: &str, body: &[u8]) {
        self.ask("put", key, body);
    }

    pub fn get(&self, key: &str) -> Vec<u8> {
        STANDARD.decode(self.ask("get", key, b"").as_str().unwrap()).unwrap()
    }

    pub fn keys(&self) -> Vec<String> {
        serde_json::from_value(self.ask("list", "", b"")).unwrap()
    }
}
