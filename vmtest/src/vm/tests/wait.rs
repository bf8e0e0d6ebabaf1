//! Waits: that they end when they should, and what they say when they give up.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use vmtest_backends::{Error, ErrorKind};

use super::Guest;
use crate::vm::{Conditions, File, Http, LogLine, Port, Succeeds};

/// When what is waited for comes true.
const LATER: Duration = Duration::from_millis(150);

/// How long is waited for what never comes.
const SHORT: Duration = Duration::from_millis(300);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits for `condition`, which `then` brings about meanwhile, and checks that it was waited for and not missed.
async fn comes_true<T>(guest: &Guest, condition: impl Conditions, then: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let later = async {
        tokio::time::sleep(LATER).await;
        then()
    };
    let (waited, kept) = tokio::join!(guest.wait_for(condition), later);
    waited.unwrap();
    assert!(began.elapsed() >= LATER, "it was not waited for");
    assert!(
        began.elapsed() < LATER + Duration::from_secs(2),
        "it took {:?}",
        began.elapsed()
    );
    kept
}

async fn gives_up(guest: &Guest, condition: impl Conditions) -> Error {
    let began = Instant::now();
    let error = guest.wait_for(condition).timeout(SHORT).await.unwrap_err();
    assert!(began.elapsed() < SHORT * 5, "it took {:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.console().unwrap().contains("last words"));
    error
}

#[tokio::test]
async fn ports() {
    let guest = Guest::start().await;
    let port = free_port();
    let error = gives_up(&guest, Port(port)).await;
    let expected = format!("waited 300ms for port {port}; last seen: Connection refused (os error 111)");
    assert_eq!(error.message(), expected);
    let _listener = comes_true(&guest, Port(port), || {
        TcpListener::bind(("127.0.0.1", port)).unwrap()
    })
    .await;
    guest.wait_for(Port(port)).await.unwrap();
}

#[tokio::test]
async fn files() {
    let guest = Guest::start().await;
    let path = guest.scratch.text("file");
    let error = gives_up(&guest, File(path.clone())).await;
    assert_eq!(
        error.message(),
        format!("waited 300ms for file {path}; last seen: no such file")
    );
    comes_true(&guest, File(path.clone()), || fs::write(&path, "").unwrap()).await;
    guest.wait_for(File("/proc")).await.unwrap();
}

#[tokio::test]
async fn commands() {
    let guest = Guest::start().await;
    let error = gives_up(&guest, Succeeds("echo not yet >&2; exit 3")).await;
    let message = error.message();
    assert!(
        message.contains("for `echo not yet >&2; exit 3` to succeed; last seen: it ended with status 3"),
        "{message}"
    );
    assert!(message.contains("| not yet"), "{message}");
    let path = guest.scratch.text("file");
    let script = format!("grep -q right {path}");
    comes_true(&guest, Succeeds(script), || fs::write(&path, "right").unwrap()).await;
    let error = gives_up(&guest, Succeeds("sleep 1000")).await;
    assert!(error.message().contains("nothing yet"), "{error}");
}

#[tokio::test]
async fn log_lines() {
    let guest = Guest::start().await;
    let path = guest.scratch.text("log");
    let ready = || LogLine::file(&path, "ready");
    let error = gives_up(&guest, ready()).await;
    assert!(
        error
            .message()
            .contains(&format!("for a line with \"ready\" in {path}; last seen: ")),
        "{error}"
    );
    assert!(error.message().contains("No such file"), "{error}");
    comes_true(&guest, ready(), || {
        fs::write(&path, "starting\nnow ready to serve\n").unwrap()
    })
    .await;
    guest
        .wait_for(ready())
        .await
        .expect("a line that was there before counts");
    let append = || {
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"and done\n")
            .unwrap()
    };
    comes_true(&guest, LogLine::file(&path, "done"), append).await;
    fs::write(
        &path,
        (0..20)
            .map(|number| format!("line {number}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let error = gives_up(&guest, ready()).await;
    let shown = "\n  | line 15\n  | line 16\n  | line 17\n  | line 18\n  | line 19";
    assert!(error.message().ends_with(shown), "{error}");
}

/// A server that gives each of `answers` once, and then the last one for ever.
fn http_server(answers: Vec<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let last = *answers.last().unwrap();
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            // A look at the port alone sends nothing.
            if request.read_line(&mut line).is_ok_and(|read| read > 0) {
                assert_eq!(line, "GET /health HTTP/1.1\r\n");
                while request.read_line(&mut line).is_ok_and(|read| read > 2) {}
                let _ = stream.write_all(answers.next().unwrap_or(last).as_bytes());
            }
        }
    });
    port
}

#[tokio::test]
async fn http_answers() {
    let guest = Guest::start().await;
    let port = http_server(vec![
        "HTTP/1.1 503 no\r\n\r\n",
        "HTTP/1.1 204 fine\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nbody",
    ]);
    let began = Instant::now();
    guest.wait_for(Http::get(port, "/health")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    let error = gives_up(&guest, Http::get(port, "/health").status(418)).await;
    let expected =
        format!("waited 300ms for status 418 of http://localhost:{port}/health; last seen: status 200");
    assert_eq!(error.message(), expected);
    let other = http_server(vec!["220 mail.example ESMTP\r\n"]);
    let error = gives_up(&guest, Http::get(other, "/health")).await;
    assert!(
        error
            .message()
            .ends_with("last seen: no HTTP: \"220 mail.example ESMTP\\r\\n\""),
        "{error}"
    );
    let error = gives_up(&guest, Http::get(free_port(), "/health")).await;
    assert!(
        error
            .message()
            .ends_with("last seen: Connection refused (os error 111)"),
        "{error}"
    );
    let error = guest.wait_for(Http::get(port, "no slash")).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Invalid,
        "what waiting cannot cure is told at once"
    );
}

#[tokio::test]
async fn several_are_waited_for_as_a_whole() {
    let guest = Guest::start().await;
    let (port, path) = (free_port(), guest.scratch.text("file"));
    let error = gives_up(&guest, (File("/proc"), Port(port), Succeeds("false"))).await;
    let expected = format!(
        "waited 300ms for all of these; last seen:\n  file /proc: as wanted\n  \
         port {port}: Connection refused (os error 111)\n  `false` to succeed: it ended with status 1"
    );
    assert_eq!(error.message(), expected);
    let all = (Port(port), File(path.clone()));
    let listener = comes_true(&guest, all, || {
        fs::write(&path, "").unwrap();
        TcpListener::bind(("127.0.0.1", port)).unwrap()
    });
    let _listener = listener.await;
    guest.wait_for([File("/proc"), File("/dev")]).await.unwrap();
    guest.wait_for(vec![(Port(port), File("/dev"))]).await.unwrap();
}
