//! The life of the local link.

use std::time::Duration;

use super::{Collect, agent, gone, patience, shell};
use kiln::guest::session::{Expect, Session, Waking};
use kiln::guest::{Guest, GuestError, GuestFiles};
use kiln::model::Architecture;
use kiln_protocol::message::{ErrorKind, Mode};

#[test]
fn the_agent_is_small() {
    let size = kiln::guest::agent::binary(Architecture::HOST).unwrap().len();
    assert!(size <= 1_400_000, "the agent has {size} bytes");
}

#[tokio::test]
async fn the_greeting_says_who_it_is() {
    let guest = agent().await;
    let hello = guest.session().hello();
    assert_eq!((hello.mode, hello.architecture.as_str()), (Mode::Local, Architecture::HOST.as_str()));
}

#[tokio::test]
async fn an_agent_that_is_killed_ends_what_was_under_way_and_says_what() {
    let guest = agent().await;
    let p = patience();
    let mut sink = Collect::default();
    let agent = rustix::process::Pid::from_raw(guest.pid().unwrap() as i32).unwrap();
    let (result, ()) = tokio::join!(guest.exec(shell("echo $$; exec sleep 1000"), &mut sink, &p), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    });
    match result {
        Err(GuestError::Lost { doing, .. }) => assert_eq!(doing, "exec sh"),
        other => panic!("{other:?}"),
    }
    // Its child does not outlive it.
    gone(sink.text().trim().parse().unwrap()).await;
    assert!(matches!(guest.facts(&p).await, Err(GuestError::Lost { doing, .. }) if doing == "ask for facts"));
    assert!(matches!(guest.session().ended().await, GuestError::Lost { .. }));
}

#[tokio::test]
async fn dropping_the_guest_ends_the_agent_and_what_it_runs() {
    let guest = agent().await;
    let agent = guest.pid().unwrap() as i32;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script =
        format!("trap '' TERM HUP; echo $$ > {0}; sleep 1000 & echo $! >> {0}; wait", file.display());
    let p = patience();
    let pids = || std::fs::read_to_string(&file).unwrap_or_default();
    let mut sink = Collect::default();
    tokio::select! {
        end = guest.exec(shell(&script), &mut sink, &p) => panic!("{end:?}"),
        () = async { while pids().lines().count() < 2 { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    drop(guest);
    gone(agent).await;
    gone(pids().lines().next().unwrap().parse().unwrap()).await;
}

#[tokio::test]
async fn the_link_closing_ends_the_agent_and_the_whole_group() {
    // As when kiln itself is killed: nobody signals the agent, its socket just closes.
    let (link, mut child) = kiln::guest::link::local::spawn("n").unwrap();
    let expect = kiln::guest::session::Expect::new("n");
    let session = kiln::guest::session::Session::connect(link, expect, &patience()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script =
        format!("trap '' TERM HUP; echo $$ > {0}; sleep 1000 & echo $! >> {0}; wait", file.display());
    let p = patience();
    let pids = || std::fs::read_to_string(&file).unwrap_or_default();
    let mut sink = Collect::default();
    tokio::select! {
        end = session.exec(shell(&script), &mut sink, &p) => panic!("{end:?}"),
        () = async { while pids().lines().count() < 2 { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    drop(session);
    let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    for pid in pids().lines() {
        gone(pid.parse().unwrap()).await;
    }
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let guest = agent().await;
    let p = patience();
    let calls = (0..50).map(|i| {
        let (guest, p) = (&guest, &p);
        async move {
            guest.run(shell(&format!("echo {i}")), 99, p).await.unwrap().output == format!("{i}\n").as_bytes()
        }
    });
    let all = futures_join(calls).await;
    assert!(all.iter().all(|right| *right));
}

/// Polls all at once on this task.
async fn futures_join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in pending.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(cx) {
                *done = Some(value);
            }
        }
        if pending.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending.into_iter().map(|(_, done)| done.unwrap()).collect()
}

#[tokio::test]
async fn more_requests_than_the_agent_takes_are_turned_away_one_by_one() {
    let guest = agent().await;
    let p = patience();
    let calls = (0..70).map(|_| {
        let (guest, p) = (&guest, &p);
        async move { guest.run(shell("sleep 1"), 9, p).await.is_ok() }
    });
    let done = futures_join(calls).await.iter().filter(|ok| **ok).count();
    assert_eq!(done, 64);
    assert!(guest.run(shell("true"), 9, &p).await.is_ok());
}

#[test]
fn the_agent_explains_how_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("agent");
    std::fs::write(&agent, kiln::guest::agent::binary(Architecture::HOST).unwrap()).unwrap();
    std::fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, "{\"nonce\":1}\n\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(&agent).args(arguments).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&[]).contains("usage: kiln-agent --config FILE"));
    assert!(run(&["--fd", "77"]).contains("KILN_NONCE"));
    assert!(run(&["--config", "/nowhere"]).contains("/nowhere: No such file"));
    assert!(
        run(&["--config", config.to_str().unwrap()]).contains("no configuration in its first 4096 bytes")
    );
}

#[tokio::test]
async fn this_machine_is_not_renewed() {
    let (link, _agent) = kiln::guest::link::local::spawn("slept").unwrap();
    let waking = Waking { nonce: "slept".into(), machine_id: None };
    let woken = Session::wake(link, &waking, Expect::new("new"), &patience()).await;
    match woken.map(|_| ()) {
        Err(GuestError::Refused(failed)) => assert_eq!(failed.kind, ErrorKind::Unsupported),
        other => panic!("{other:?}"),
    }
}
