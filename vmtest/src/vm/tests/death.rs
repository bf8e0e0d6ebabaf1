//! What becomes of waits when the machine dies under them.

use std::time::{Duration, Instant};

use vmtest_backends::backend::Life;
use vmtest_backends::{Error, ErrorKind, Result};

use super::Guest;
use crate::vm::{Http, LogLine, Port, Vm};

/// No wait may take longer than this once the machine is dead.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long the machine lives on after a wait has begun.
const LAST_BREATH: Duration = Duration::from_millis(50);

/// The error of `wait`, whose machine dies meanwhile although its agent still answers.
async fn dies_during<T: std::fmt::Debug>(wait: impl AsyncFnOnce(&Vm) -> Result<T>) -> Error {
    let guest = Guest::start().await;
    let began = Instant::now();
    let dying = async {
        tokio::time::sleep(LAST_BREATH).await;
        guest.ends(Life::Panicked("Kernel panic - not syncing: told so".into()));
    };
    let (result, ()) = tokio::join!(wait(&guest.vm), dying);
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    result.unwrap_err()
}

fn check(error: &Error, step: &str) {
    assert_eq!(error.kind(), ErrorKind::Died, "{error:?}");
    let message = error.message();
    assert!(message.contains(step), "{message}");
    assert!(
        message.contains("kernel panic: Kernel panic - not syncing: told so"),
        "{message}"
    );
    assert_eq!(error.console(), Some("booting\nthe console's last words"));
}

#[tokio::test]
async fn every_wait_ends_with_the_machine() {
    let error = dies_during(async |vm| vm.sh("sleep 1000").await).await;
    check(&error, "while `sleep 1000` ran");
    let error = dies_during(async |vm| vm.sh("sleep 1000").stream(|_| {}).await).await;
    check(&error, "while `sleep 1000` ran");
    let error = dies_during(async |vm| vm.command("sleep").arg("1000").spawn().await?.wait().await).await;
    check(&error, "while `sleep 1000` ran");
    let error = dies_during(async |vm| vm.wait_for(Port(1)).await).await;
    check(&error, "while port 1 was waited for");
    let error = dies_during(async |vm| vm.wait_for(LogLine::file("/no/such/log", "x")).await).await;
    check(&error, "/no/such/log was waited for");
    let error = dies_during(async |vm| vm.wait_for((Port(1), Http::get(1, "/"))).await).await;
    check(&error, "while port 1, status 200");
    let error = dies_during(async |vm| vm.read("/dev/zero").await).await;
    check(&error, "while `read /dev/zero` ran");
}

#[tokio::test]
async fn a_lost_guest_without_news_is_disconnected() {
    let mut guest = Guest::start().await;
    let vm = guest.vm.clone();
    let command = tokio::spawn(async move { vm.sh("sleep 1000").await });
    tokio::time::sleep(LAST_BREATH).await;
    guest.kill();
    let error = tokio::time::timeout(AT_ONCE, command)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.message().contains("while `sleep 1000` ran"), "{error:?}");
    assert!(error.console().unwrap().contains("last words"));
    let error = guest.sh("true").await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Disconnected,
        "what begins afterwards fails too"
    );
}

#[tokio::test]
async fn news_that_come_after_the_loss_explain_it() {
    let mut guest = Guest::start().await;
    let vm = guest.vm.clone();
    let command = tokio::spawn(async move { vm.sh("sleep 1000").await });
    tokio::time::sleep(LAST_BREATH).await;
    guest.kill();
    tokio::time::sleep(LAST_BREATH).await;
    guest.ends(Life::Exited("signal 9".into()));
    let error = tokio::time::timeout(AT_ONCE, command)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Died, "{error:?}");
    assert!(error.message().contains("signal 9"), "{error:?}");
}
