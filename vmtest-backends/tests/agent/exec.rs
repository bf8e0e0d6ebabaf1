//! Processes.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vmtest_backends::ErrorKind;
use vmtest_backends::session::{Exec, Exit, Session};

use super::host::{LIMIT, finish, run, session, sh};

#[tokio::test]
async fn status_signal_and_both_outputs_are_told() {
    let (_agent, session) = session().await;
    let output = run(&session, sh("echo out; echo err >&2; exit 3")).await;
    assert_eq!(output.exit, Exit::Code(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(run(&session, sh("kill -USR1 $$")).await.exit, Exit::Signal(10));
    assert_eq!(run(&session, Exec::new("true")).await.exit, Exit::Code(0));
}

#[tokio::test]
async fn the_environment_is_the_agents_own_and_what_was_added() {
    let (_agent, session) = session().await;
    let exec = Exec {
        env: vec![
            ("HOME".into(), "/elsewhere".into()),
            ("MINE".into(), "a b=c".into()),
        ],
        cwd: Some("/usr/bin".into()),
        ..sh("env | sort; pwd; cat /proc/self/cgroup >/dev/null; ls /proc/self/fd | wc -l")
    };
    let output = run(&session, exec).await.stdout;
    let lines: Vec<&str> = output.lines().collect();
    let expected = [
        "HOME=/elsewhere",
        "LANG=C.UTF-8",
        "MINE=a b=c",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/usr/bin",
        "SHELL=/bin/sh",
        "TERM=dumb",
        "USER=root",
        "/usr/bin",
        // Three streams, and the folder that `ls` reads: nothing of the agent's is inherited.
        "4",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn input_is_a_stream_or_nothing() {
    let (_agent, session) = session().await;
    assert_eq!(run(&session, Exec::new("cat")).await.stdout, "");
    let mut exec = Exec::new("rev");
    exec.stdin = true;
    let mut process = session.spawn(exec).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"abc\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(finish(process).await.stdout, "cba\n");
}

#[tokio::test]
async fn what_cannot_be_started_says_which_and_why() {
    let (_agent, session) = session().await;
    let error = session.spawn(Exec::new("no-such-program")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec);
    assert!(
        error
            .chain()
            .contains("`no-such-program`: the program cannot be executed"),
        "{}",
        error.chain()
    );
    assert!(
        error.chain().contains("No such file or directory"),
        "{}",
        error.chain()
    );
    let error = session.spawn(Exec::new("/etc/passwd")).await.unwrap_err();
    assert!(error.chain().contains("Permission denied"), "{}", error.chain());
    let exec = Exec {
        cwd: Some("/no/such/folder".into()),
        ..Exec::new("true")
    };
    let error = session.spawn(exec).await.unwrap_err();
    assert!(
        error
            .chain()
            .contains("/no/such/folder: the working directory cannot be entered"),
        "{}",
        error.chain()
    );
    let error = session.spawn(sh(&"x".repeat(2 << 20))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(run(&session, Exec::new("true")).await.exit, Exit::Code(0));
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let (_agent, session) = session().await;
    let mut process = session
        .spawn(sh(
            "trap 'echo got it; exit 5' TERM; echo ready; sleep 100 & wait",
        ))
        .await
        .unwrap();
    let mut ready = [0; 6];
    process.stdout.read_exact(&mut ready).await.unwrap();
    let begin = Instant::now();
    process.signals.send(15);
    let output = finish(process).await;
    assert_eq!((output.exit, output.stdout.as_str()), (Exit::Code(5), "got it\n"));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_delays_the_end_by_the_grace_only() {
    let (_agent, session) = session().await;
    let begin = Instant::now();
    let output = run(&session, sh("echo early; (sleep 2; echo late) & exit 4")).await;
    assert_eq!((output.exit, output.stdout.as_str()), (Exit::Code(4), "early\n"));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(190) && took < Duration::from_millis(1800),
        "{took:?}"
    );
}

#[tokio::test]
async fn what_was_written_before_the_end_is_not_lost_to_a_slow_reader() {
    let (_agent, session) = session().await;
    // More than window and pipe together hold at first; the sleeper keeps the pipe open.
    let mut process = session
        .spawn(sh("head -c 300000 /dev/zero; sleep 3 & exit 0"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut bytes = Vec::new();
    process.stdout.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert_eq!(process.exit.await.unwrap().unwrap(), Exit::Code(0));
}

#[tokio::test]
async fn dropping_a_process_kills_its_group() {
    let (_agent, session) = session().await;
    let process = session.spawn(sh("sleep 1000 & echo $! $$; wait")).await.unwrap();
    let (mut stdout, signals) = (process.stdout, process.signals);
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stdout.read_u8().await.unwrap());
    }
    let line = String::from_utf8(line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(signals);
    gone(&pids).await;
}

pub(crate) fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

pub(crate) async fn gone(pids: &[u32]) {
    let begin = Instant::now();
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(begin.elapsed() < LIMIT, "still alive: {pids:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_hundred_at_once() {
    let (_agent, session) = session().await;
    let begun =
        (0..200).map(|number| session.spawn(sh(&format!("read x; echo {number}; exit {}", number % 256))));
    let mut processes = Vec::new();
    for begun in begun {
        processes.push(begun.await.unwrap());
    }
    for (number, process) in processes.into_iter().enumerate() {
        let output = finish(process).await;
        assert_eq!(
            (output.exit, output.stdout),
            (Exit::Code(number as i32 % 256), format!("{number}\n"))
        );
    }
}

#[tokio::test]
async fn a_lost_agent_is_told_to_all_who_wait() {
    let (mut agent, session) = session().await;
    let process = session
        .spawn(Exec {
            args: vec!["5".into()],
            ..Exec::new("sleep")
        })
        .await
        .unwrap();
    let waiting = tokio::spawn(async move {
        let (mut stdout, exit) = (process.stdout, process.exit);
        let read = stdout.read_u8().await.unwrap_err();
        (read, exit.await.unwrap().unwrap_err(), process.signals)
    });
    agent.kill();
    let (read, exit, _) = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(exit.kind(), ErrorKind::Disconnected);
    assert!(read.to_string().contains("closed the connection"), "{read}");
    let error = session.spawn(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
}
