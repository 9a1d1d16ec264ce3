//! The demo: from a fresh machine to a running image, and one failure on purpose.

use crate::install::{self, Purpose};
use crate::shell::{self, Result, Stages, command, home};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PORT: u16 = 8080;

/// `kvm` or `tcg`: what the environment says, else what kiln's own probe finds.
pub fn accelerator() -> String {
    if let Ok(set) = std::env::var("KILN_ACCEL") {
        return set;
    }
    for profile in ["release", "debug"] {
        let kiln = shell::root().join("target").join(profile).join("kiln");
        if kiln.is_file() {
            let usable = Command::new(kiln)
                .arg("--home")
                .arg(home())
                .args(["--accel", "kvm", "doctor"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success());
            return if usable { "kvm" } else { "tcg" }.to_owned();
        }
    }
    "tcg".to_owned()
}

struct Demo {
    kiln: PathBuf,
    accelerator: String,
}

impl Demo {
    fn kiln(&self, arguments: &[&str]) -> Command {
        let mut c = command(&[self.kiln.as_os_str()]);
        c.env("KILN_HOME", home()).env("KILN_ACCEL", &self.accelerator).args(arguments);
        println!("$ kiln {}", arguments.join(" "));
        c
    }

    fn environment(&self) -> String {
        let (home, accelerator) = (home(), &self.accelerator);
        format!("export KILN_HOME={} KILN_ACCEL={accelerator} PATH=$PWD/target/release:$PATH", home.display())
    }
}

fn walk(stages: &mut Stages) -> Result<Demo> {
    stages.run("what this machine needs", || install::run(Purpose::Demo))?;
    stages.run("build kiln and its agent", || {
        println!("(the first time it compiles for some minutes)");
        shell::run(&mut command(&["cargo", "build", "--release", "--locked"]))
    })?;
    let demo = Demo { kiln: shell::root().join("target/release/kiln"), accelerator: accelerator() };
    println!("guests run with: {}", demo.accelerator);
    if demo.accelerator == "tcg" {
        println!("(emulation, some ten times slower than KVM; `kiln doctor` says why KVM is not used)");
    }
    println!("the commands below run with: {}", demo.environment());
    let exports = home().join("exports");
    fs::create_dir_all(&exports).map_err(|e| format!("{}: {e}", exports.display()))?;

    stages.run("make the Debian 12 base image", || {
        shell::run(&mut demo.kiln(&["base", "build", "debian-12"]))
    })?;
    stages.run("build examples/nginx, seal it, test it under BIOS and UEFI", || {
        shell::run(&mut demo.kiln(&["build", "examples/nginx/recipe.yaml"]))
    })?;
    stages.run("export qcow2 and raw in one pass", || {
        let folder = exports.to_string_lossy();
        let to = ["--to", "qcow2", "--to", "raw", "--output", &*folder, "--force"];
        shell::run(&mut demo.kiln(&[&["image", "export", "nginx"], &to[..]].concat()))
    })?;
    stages.run("run it and fetch its page", || serve(&demo))?;
    stages.run("a recipe that is broken on purpose", || broken(&demo))?;
    Ok(demo)
}

/// Starts the image, fetches its page through the host's port, and ends it.
fn serve(demo: &Demo) -> Result {
    let publish = format!("{PORT}:80");
    let mut child = demo
        .kiln(&["run", "nginx", "--publish", &publish])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start kiln run: {e}"))?;
    let page = fetch_when_up(&mut child);
    let ended = interrupt(&mut child);
    let (page, ended) = (page?, ended?);
    println!("--- http://127.0.0.1:{PORT}/\n{}\n---", page.trim_end());
    if !page.contains("kiln") {
        return Err("the page is not the example's".into());
    }
    println!("(kiln run was told to stop, and ended with {ended}, as it should)");
    Ok(())
}

/// One interrupt is a clean end: kiln powers the guest off and removes the overlay.
fn interrupt(child: &mut Child) -> Result<ExitStatus> {
    // Not SIGINT: in the background of a script nobody hears it.
    // The shell's own: a small system has no program of this name.
    shell::run(&mut command(&["sh", "-c", "kill -TERM \"$0\"", &child.id().to_string()]))?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(180) {
        if let Some(ended) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    child.kill().map_err(|e| e.to_string())?;
    Err("kiln run did not end within 180 s of an interrupt and was killed".into())
}

fn fetch_when_up(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().expect("it was piped");
    // Keeps the pipe drained; its lines are the user's to see.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            println!("{line}");
        }
    });
    let begun = Instant::now();
    let mut last = "nothing tried".to_owned();
    while begun.elapsed() < Duration::from_secs(300) {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Err(format!("kiln run ended early with {status}"));
        }
        match fetch() {
            Ok(page) => return Ok(page),
            Err(e) => last = e.to_string(),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Err(format!("no page within 300 s: {last}"))
}

fn fetch() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200") => {
            Ok(body.to_owned())
        }
        _ => Err(std::io::Error::other(format!("answer: {:?}", text.lines().next().unwrap_or("")))),
    }
}

/// The failure screen is part of the product, so the demo shows one.
fn broken(demo: &Demo) -> Result {
    let status = demo.kiln(&["build", "examples/broken/recipe.yaml"]).status().map_err(|e| e.to_string())?;
    match status.code() {
        Some(1) => {
            println!("(exit code 1, as it should be: the second step fails on purpose)");
            Ok(())
        }
        other => Err(format!("the broken recipe should end with exit code 1, it ended with {other:?}")),
    }
}

pub fn run() -> Result {
    let mut stages = Stages::default();
    let result = walk(&mut stages);
    stages.print();
    let demo = result.map_err(|e| {
        format!(
            "{e}\nWhat was finished is kept in {}; run the demo again to go on from there.",
            home().display()
        )
    })?;
    let home = home();
    println!(
        "\nWhere things are:\n  \
         kiln       target/release/kiln (one file, agent inside)\n  \
         home       {home} (catalog, bases, images, build logs)\n  \
         exports    {home}/exports/nginx.qcow2 and nginx.raw\n\n\
         What to try next:\n  \
         {environment}\n  \
         kiln image list\n  \
         kiln log nginx                          the log of the build's steps\n  \
         kiln plan examples/nginx/recipe.yaml    what a build would do\n  \
         kiln build examples/nginx/recipe.yaml   again: nothing changed, so it is there at once\n  \
         kiln run nginx --publish 8080:80        Ctrl-C ends it",
        home = home.display(),
        environment = demo.environment(),
    );
    Ok(())
}
