//! Commands, their outputs and their ends.

use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use vmtest_backends::ErrorKind;
use vmtest_backends::session::Exit;

use super::Guest;
use super::guest::{gone, is_alive};
use crate::vm::{Line, Source, Vm, enter};

#[tokio::test]
async fn outputs_and_statuses_come_apart() {
    let guest = Guest::start().await;
    let output = guest.sh("echo out; echo err >&2; exit 3").await.unwrap();
    assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status, Exit::Code(3));
    assert_eq!(output.stdout_str().unwrap(), "out\n");
    let error = output.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandFailed);
    let message = error.message();
    assert!(
        message.starts_with("`echo out; echo err >&2; exit 3` ended with status 3"),
        "{message}"
    );
    assert!(
        message.contains("| err") && message.contains("| out"),
        "{message}"
    );
    assert!(guest.command("true").await.unwrap().check().unwrap().success());
    assert_eq!(guest.sh("kill -9 $$").status().await.unwrap(), Exit::Signal(9));
    let binary = guest.command("printf").arg(r"\377").output().await.unwrap();
    assert_eq!(binary.stdout_str().unwrap_err().kind(), ErrorKind::Exec);
    assert_eq!(binary.text(), "\u{fffd}");
}

#[tokio::test]
async fn arguments_environment_and_folder_arrive_as_they_are() {
    let guest = Guest::start().await;
    let command = guest.command("sh").args([
        "-c",
        r#"printf '%s|' "$@" "$A" "$B" "$PWD""#,
        "sh",
        "a b",
        "$x",
        "",
    ]);
    let output = command
        .env("A", "1 2")
        .envs([("B", "'")])
        .cwd("/proc")
        .await
        .unwrap();
    assert_eq!(output.text(), "a b|$x||1 2|'|/proc|");
    assert_eq!(guest.command("pwd").await.unwrap().text(), "/");
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let guest = Guest::start().await;
    let error = guest.command("no-such-program").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exec);
    assert!(error.chain().contains("no-such-program"), "{error:?}");
    assert!(error.chain().contains("No such file"), "{error:?}");
    let error = guest.command("true").cwd("/no/such/folder").await.unwrap_err();
    assert!(error.chain().contains("/no/such/folder"), "{error:?}");
}

#[tokio::test]
async fn input_goes_in_whole_or_as_far_as_wanted() {
    let guest = Guest::start().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let output = guest.command("cat").stdin(bytes.clone()).await.unwrap();
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    assert!(guest.command("true").stdin(bytes).await.unwrap().success());
    assert_eq!(
        guest.command("cat").await.unwrap().stdout,
        b"",
        "no input means an empty one"
    );
}

#[tokio::test]
async fn a_timeout_kills_the_group_and_tells_what_was_written() {
    let guest = Guest::start().await;
    let script = "sleep 1000 & echo $!; echo waiting >&2; wait";
    let began = Instant::now();
    let error = guest
        .sh(script)
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let message = error.message();
    assert!(
        message.starts_with(&format!("`{script}` was killed at its limit of 300ms")),
        "{message}"
    );
    assert!(message.contains("stderr, its end:\n  | waiting"), "{message}");
    gone(message.rsplit("| ").next().unwrap()).await;
    let mut child = guest
        .command("sleep")
        .arg("1000")
        .timeout(Duration::from_millis(50))
        .spawn()
        .await
        .unwrap();
    assert_eq!(child.wait().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(child.wait().await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_timeout_is_kept_while_the_body_blocks_its_thread() {
    let guest = Guest::start().await;
    let mut child = guest
        .sh("echo $$; exec sleep 1000")
        .timeout(Duration::from_millis(100))
        .spawn()
        .await
        .unwrap();
    let pid = child.lines().next().await.unwrap().unwrap().text;
    // Nothing on this thread is polled meanwhile.
    let began = Instant::now();
    while is_alive(&pid) {
        assert!(began.elapsed() < Duration::from_secs(5), "nobody ended it");
        thread::yield_now();
    }
    assert_eq!(child.wait().await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn giving_up_the_wait_kills() {
    let guest = Guest::start().await;
    let file = guest.scratch.text("pid");
    let command = guest
        .sh(format!(
            "echo $$ >{file}.part; mv {file}.part {file}; exec sleep 1000"
        ))
        .output();
    let waiting = tokio::time::timeout(Duration::from_secs(5), command);
    let pid = tokio::select! {
        _ = waiting => panic!("it ended"),
        seen = guest.wait_for(crate::vm::File(file.clone())) => {
            seen.unwrap();
            std::fs::read_to_string(&file).unwrap()
        }
    };
    gone(&pid).await;
    let mut child = guest.sh("echo $$; exec sleep 1000").spawn().await.unwrap();
    let pid = child.lines().next().await.unwrap().unwrap().text;
    assert!(is_alive(&pid));
    drop(child);
    gone(&pid).await;
}

#[tokio::test]
async fn lines_come_as_they_are_written() {
    let guest = Guest::start().await;
    let here = thread::current().id();
    let mut lines = Vec::new();
    let script = "echo one; echo two >&2; printf three; exit 5";
    let output = guest.sh(script).stream(|line| {
        assert_eq!(
            thread::current().id(),
            here,
            "code of a test ran on another thread"
        );
        lines.push(line);
    });
    let output = output.await.unwrap();
    assert_eq!(output.code(), Some(5));
    assert_eq!(output.text(), "one\nthree");
    assert!(output.check().unwrap_err().message().contains("| two"));
    let of = |source| {
        lines
            .iter()
            .filter(move |line: &&Line| line.source == source)
            .map(|line| &*line.text)
    };
    assert_eq!(of(Source::Stdout).collect::<Vec<_>>(), ["one", "three"]);
    assert_eq!(of(Source::Stderr).collect::<Vec<_>>(), ["two"]);

    let mut child = guest
        .sh("echo first; read x; echo $x")
        .piped()
        .spawn()
        .await
        .unwrap();
    let mut lines = child.lines();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "first");
    child.stdin.take().unwrap().write_all(b"second\n").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "second");
    assert!(lines.next().await.unwrap().is_none());
    assert_eq!(child.wait().await.unwrap(), Exit::Code(0));
    assert_eq!(child.wait().await.unwrap(), Exit::Code(0), "asked again");
}

#[tokio::test]
async fn long_lines_come_in_pieces() {
    let guest = Guest::start().await;
    let mut sizes = Vec::new();
    let script = "head -c 150000 /dev/zero | tr '\\0' x";
    guest
        .sh(script)
        .stream(|line| sizes.push(line.text.len()))
        .await
        .unwrap()
        .check()
        .unwrap();
    assert_eq!(sizes, [65536, 65536, 18928]);
}

#[tokio::test]
async fn streams_are_live() {
    let guest = Guest::start().await;
    let mut child = guest.command("cat").piped().spawn().await.unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for word in ["one\n", "two\n"] {
        stdin.write_all(word.as_bytes()).await.unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).await.unwrap();
        assert_eq!(line, word);
    }
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.unwrap();
    assert_eq!(child.wait().await.unwrap(), Exit::Code(0));
}

#[tokio::test]
async fn signals_arrive() {
    let guest = Guest::start().await;
    let script = "trap 'echo got it; exit 9' USR1; echo ready; while :; do :; done";
    let mut child = guest.sh(script).spawn().await.unwrap();
    let mut lines = child.lines();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "ready");
    child.signal(10);
    assert_eq!(lines.next().await.unwrap().unwrap().text, "got it");
    assert_eq!(child.wait().await.unwrap(), Exit::Code(9));
    let mut child = guest.command("sleep").arg("1000").spawn().await.unwrap();
    child.kill();
    assert_eq!(child.wait().await.unwrap(), Exit::Signal(9));
}

#[tokio::test]
async fn what_nobody_reads_holds_nobody_up() {
    let guest = Guest::start().await;
    let mut child = guest
        .sh("head -c 20000000 /dev/zero; echo x >&2; exit 4")
        .spawn()
        .await
        .unwrap();
    assert_eq!(child.wait().await.unwrap(), Exit::Code(4));
    assert_eq!(
        guest
            .sh("head -c 20000000 /dev/zero; exit 4")
            .status()
            .await
            .unwrap(),
        Exit::Code(4)
    );
}

#[tokio::test]
async fn what_is_detached_goes_on() {
    let guest = Guest::start().await;
    let file = guest.scratch.text("pid");
    guest
        .sh(format!(
            "echo $$ >{file}.part; mv {file}.part {file}; exec sleep 1000"
        ))
        .detach()
        .await
        .unwrap();
    guest.wait_for(crate::vm::File(file.clone())).await.unwrap();
    let pid = guest.read_to_string(&file).await.unwrap();
    assert!(is_alive(&pid));
    guest
        .command("kill")
        .arg(pid.trim())
        .await
        .unwrap()
        .check()
        .unwrap();
    gone(&pid).await;
}

#[tokio::test]
async fn many_run_at_once() {
    let guest = Guest::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let vm = guest.vm.clone();
        tasks.spawn(async move {
            vm.sh(format!("sleep 0.1; echo {number}")).await.unwrap().text() == number.to_string()
        });
    }
    assert!(tasks.join_all().await.into_iter().all(|fine| fine));
}

#[test]
fn any_runtime_will_do() {
    // Without I/O and without time: what needs them is done elsewhere.
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let whole = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let guest = whole.block_on(Guest::start());
    bare.block_on(async {
        assert_eq!(guest.sh("echo here").await.unwrap().text(), "here");
        let error = guest
            .command("sleep")
            .arg("1000")
            .timeout(Duration::from_millis(20))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let file = guest.scratch.text("file");
        guest.write(&file, "x").await.unwrap();
        guest.wait_for(crate::vm::File(file.clone())).await.unwrap();
        guest.copy_in(&file, format!("{file}2")).await.unwrap();
        guest.forward(1).await.unwrap();
        assert!(guest.console().await.unwrap().contains("last words"));
    });
}

#[tokio::test]
async fn the_current_machine_is_that_of_the_innermost_body() {
    assert!(Vm::try_current().is_none());
    let guest = Guest::start().await;
    {
        let _entered = enter(guest.vm.clone());
        assert_eq!(Vm::current().machine(), "m1");
        drop(enter(guest.vm.clone()));
        assert!(Vm::try_current().is_some());
        assert!(thread::spawn(|| Vm::try_current().is_none()).join().unwrap());
    }
    assert!(Vm::try_current().is_none());
}

#[tokio::test]
async fn the_transcript_tells_what_was_done() {
    let guest = Guest::start().await;
    guest
        .command("sh")
        .args(["-c", "cat; exit 2"])
        .stdin("12345")
        .await
        .unwrap();
    guest.command("no-such-program").await.unwrap_err();
    guest.write(guest.scratch.text("x"), "abc").await.unwrap();
    guest.wait_for(crate::vm::Succeeds("true")).await.unwrap();
    let mut child = guest.command("sleep").arg("1000").spawn().await.unwrap();
    child.kill();
    child.wait().await.unwrap();
    let entries = guest.transcript();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (&*entry.command, &*entry.ended))
        .collect();
    assert_eq!(told[0], ("sh -c 'cat; exit 2'", "status 2"));
    assert_eq!((entries[0].bytes_in, entries[0].bytes_out), (5, 5));
    assert!(told[1].1.starts_with("exec: "), "{told:?}");
    assert!(
        told[2].0.starts_with("write /") && told[2].1 == "status 0",
        "{told:?}"
    );
    assert_eq!(told[3], ("wait for `true` to succeed", "done"));
    assert_eq!(told[4], ("sleep 1000", "signal 9"));
    assert_eq!(told.len(), 5);
    assert!(
        entries[0]
            .to_string()
            .contains("sh -c 'cat; exit 2' -> status 2 ("),
        "{}",
        entries[0]
    );
}
