use super::{Collect, agent, kind, patience, shell};
use kiln::guest::Guest;
use kiln_protocol::message::{ErrorKind, Exec};

#[tokio::test]
async fn a_command_has_output_error_output_and_an_exit_code() {
    let guest = agent().await;
    let mut sink = Collect::default();
    let exited = guest.exec(shell("echo out; echo err >&2; exit 3"), &mut sink, &patience()).await.unwrap();
    assert_eq!((exited.code, exited.signal, exited.timed_out), (Some(3), None, false));
    assert_eq!((sink.text().as_str(), &sink.errors[..]), ("out\n", &b"err\n"[..]));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let guest = agent().await;
    let mut sink = Collect::default();
    let mut run = async |exec: Exec| kind(guest.exec(exec, &mut sink, &patience()).await);
    let argv = |program: &str| Exec { argv: vec![program.into()], ..Exec::default() };
    assert_eq!(run(argv("no-such-program")).await, ErrorKind::NotFound);
    assert_eq!(run(argv("/etc/passwd")).await, ErrorKind::Denied);
    assert_eq!(run(Exec::default()).await, ErrorKind::Invalid);
    assert_eq!(run(Exec { cwd: Some("/nowhere".into()), ..argv("true") }).await, ErrorKind::NotFound);
    assert_eq!(run(Exec { root: Some("/etc/passwd".into()), ..argv("true") }).await, ErrorKind::Invalid);
}
